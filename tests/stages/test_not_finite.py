"""A voxel that is not finite in a file of the dataset: named, survived or stopped as set."""

import hashlib
import shutil
from collections import Counter

import numpy as np
import pytest
import tiny
from safetensors.torch import load_file

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.data.dataset.manifest import read_dataset, write_dataset
from medmim.data.formats.nifti import Image, read_image
from medmim.data.formats.write_volume import encode_image
from medmim.errors import DataError, RunError
from medmim.stages.finetune.run import finetune
from medmim.stages.pretrain.run import pretrain
from medmim.training.resume.checkpoint_files import all_finite


def planted(dataset, folder, split):
    """A copy of a dataset with a NaN in the first volume of a split, and that volume's id."""
    shutil.copytree(dataset, folder)
    found = read_dataset(folder)
    rows = list(found.volumes)
    place = next(place for place, row in enumerate(rows) if row.split == split)
    image = read_image(folder / rows[place].image)
    array = np.array(image.array, dtype=np.float32)
    array[5, 5, 5] = np.nan
    content = encode_image(Image(array, image.affine))
    (folder / rows[place].image).write_bytes(content)
    rows[place] = rows[place].model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    write_dataset(folder, found.info, rows, ())
    return rows[place].id


WORDS = {**tiny.TINY, "steps": 8, "batch_size": 2, "num_evaluations": 2}


def test_pretraining_survives_it_and_names_it(tiny_dataset, tmp_path, home, caplog):
    bad = planted(tiny_dataset, tmp_path / "data", "train")
    words = {**WORDS, "encoder": "resnet18", "encoder_options": {"widths": [4, 4, 8, 8]}, "size": (32,)}
    result = pretrain(
        PretrainSettings(**{**words, "data": tmp_path / "data", "on_nonfinite": "skip"}), home=home
    )
    assert all_finite(load_file(result.checkpoint))  # batch norms are settled without it
    assert all(np.isfinite(list(result.metrics.values())))
    said = Counter(message.partition(":")[0] for message in caplog.messages if bad in message)
    assert said.pop(f"volume {bad} is left out of evaluations") == 1
    assert all(message.startswith("step ") for message in said)
    assert said


def test_no_finite_image_to_look_at_is_told(tiny_dataset, tmp_path, home, caplog):
    bad = planted(tiny_dataset, tmp_path / "data", "val")
    with pytest.raises(DataError, match="no image for evaluations is finite; repair the file and run"):
        pretrain(PretrainSettings(**{**WORDS, "data": tmp_path / "data"}), home=home)
    assert f"volume {bad} is left out of evaluations" in caplog.text


def test_pretraining_stops_for_it_and_names_it(tiny_dataset, tmp_path, home):
    bad = planted(tiny_dataset, tmp_path / "data", "train")
    with pytest.raises(RunError, match=f"with volumes .*{bad}"):
        pretrain(PretrainSettings(**{**WORDS, "data": tmp_path / "data"}), home=home)


@pytest.mark.parametrize("task", ["segment", "classify", "detect"])
def test_fine_tuning_survives_it(varied_dataset, tmp_path, home, task, caplog):
    bad = planted(varied_dataset, tmp_path / "data", "train")
    words = {**WORDS, "data": tmp_path / "data", "task": task, "init": "scratch"}
    result = finetune(FinetuneSettings(**words, on_nonfinite="skip"), home=home, log=print)
    assert all_finite(load_file(result.checkpoint))
    assert any(bad in message for message in caplog.messages)


@pytest.mark.parametrize("task", ["segment", "classify", "detect"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_scores_of_it_are_refused(varied_dataset, tmp_path, home, task, split):
    bad = planted(varied_dataset, tmp_path / "data", split)
    words = {**WORDS, "data": tmp_path / "data", "task": task, "init": "scratch", "on_nonfinite": "skip"}
    with pytest.raises(
        DataError, match=f"volume {bad}: its image contains values that are not finite; repair"
    ):
        finetune(FinetuneSettings(**words), home=home, log=print)
