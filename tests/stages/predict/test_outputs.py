"""Outputs of predictions by task: rows of classes and boxes."""

import csv
import json

import numpy as np
import pytest
import tiny
from PIL import Image as Picture

from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.manifest import read_dataset
from medmim.data.formats.nifti import read_image
from medmim.stages.finetune.run import finetune
from medmim.stages.predict.outputs import Extras
from medmim.stages.predict.run import predict
from medmim.tracking.mlflow_store import Store


def quiet(line):
    """Take a line for the user."""


def tuned(task, dims, data, home, **more):
    words = {**tiny.TINY, "data": data, "task": task, "dims": dims, "steps": 2, "num_evaluations": 1, **more}
    return finetune(FinetuneSettings(**words, init="scratch"), home=home, log=quiet)


@pytest.mark.parametrize("dims", [2, 3])
def test_classes_of_volumes_are_told_as_the_test_told_them(dims, tiny_dataset, tmp_path, home):
    result = tuned("classify", dims, tiny_dataset, home)
    made = predict(tiny_dataset, tmp_path / "out", home=home, model=result.run_id[:12])
    rows = {row["volume"]: row for row in csv.DictReader((made.out / "classes.csv").open())}
    assert len(rows) == 10
    for row in rows.values():
        assert float(row["p_calm"]) + float(row["p_odd"]) == pytest.approx(1, abs=1e-5)
        assert row["class"] == max(tiny.CLASSES, key=lambda name: float(row[f"p_{name}"]))
    cases = Store(home).read_text(Store(home).run(result.run_id), "cases.jsonl").splitlines()
    tested = sorted(round(json.loads(line)["probabilities"]["calm"], 6) for line in cases)
    told = sorted(float(rows[one.id]["p_calm"]) for one in read_dataset(tiny_dataset).in_split("test"))
    assert told == pytest.approx(tested, abs=1e-4)
    assert len(list((made.out / "pictures").iterdir())) == 10


@pytest.mark.parametrize("dims", [2, 3])
def test_boxes_are_told_in_voxels_and_mm(dims, varied_dataset, tmp_path, home):
    result = tuned("detect", dims, varied_dataset, home)
    described = result.checkpoint.with_suffix(".json")
    words = json.loads(described.read_text())
    described.write_text(json.dumps({**words, "chosen": {"thresholds": {"core": 0.0, "rim": 0.0}}}))
    made = predict(varied_dataset, tmp_path / "out", home=home, model=str(result.checkpoint))
    rows = list(csv.DictReader((made.out / "boxes.csv").open()))
    assert rows
    volumes = {volume.id: volume for volume in read_dataset(varied_dataset).volumes}
    for row in rows[::7]:
        affine = read_image(varied_dataset / volumes[row["volume"]].image).affine
        for end in ("first", "last"):
            voxel = np.array([float(row[f"{end}_{axis}_voxel"]) for axis in "xyz"]) - 0.5
            mm = np.array([float(row[f"{end}_{axis}_mm"]) for axis in "xyz"]) * [-1, -1, 1]
            np.testing.assert_allclose(affine[:3, :3] @ voxel + affine[:3, 3], mm, atol=5e-3)


def with_thresholds(result, value):
    described = result.checkpoint.with_suffix(".json")
    chosen = {"thresholds": dict.fromkeys(tiny.NAMES.values(), value)}
    described.write_text(json.dumps({**json.loads(described.read_text()), "chosen": chosen}))
    return str(result.checkpoint)


def test_boxes_in_pictures_have_no_millimetres_and_no_boxes_a_header(tiny_dataset, tmp_path, home):
    # long enough for scores above the smallest that is kept
    result = tuned("detect", 2, tiny_dataset, home, steps=20, lr=0.01)
    (tmp_path / "my scans").mkdir()
    grey = np.random.default_rng(0).integers(0, 255, (40, 50)).astype(np.uint8)
    Picture.fromarray(grey).save(tmp_path / "my scans" / "a b.png")
    tables = []
    for threshold_, out in ((0.0, "some"), (2.0, "none")):
        model = with_thresholds(result, threshold_)
        made = predict(tmp_path / "my scans", tmp_path / out, home=home, model=model, force=True)
        tables.append(list(csv.reader((made.out / "boxes.csv").open())))
    least = Extras(min_score=0.0)
    made = predict(
        tmp_path / "my scans", tmp_path / "least", home=home, model=model, force=True, extras=least
    )
    assert list(csv.reader((made.out / "boxes.csv").open())) == tables[0]
    (header, first, *_), (alone,) = tables
    assert header == alone
    row = dict(zip(header, first, strict=True))
    assert {row[name] for name in header if name.endswith("_mm")} == {""}
    assert float(row["last_x_voxel"]) <= 50
