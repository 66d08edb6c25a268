"""The first lines of a training name data, network, device and budget, and warn of weak designs."""

from pathlib import Path

import pytest
import small_modules
import tiny

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.data.dataset.manifest import DatasetInfo, read_dataset, write_dataset
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.errors import DataError, UsageError
from medmim.stages.run_header import cell_lines, network_lines, opening_lines, view_lines


def test_opening_lines_name_dataset_budget_and_results(tiny_dataset):
    settings = PretrainSettings(data=tiny_dataset, minutes=3, batch_size=2, accumulate=2)
    lines = opening_lines(settings, Path("runs"))
    assert lines[0].endswith("10 volumes of 10 patients (train 7, val 1, test 2)")
    assert lines[1:3] == ["budget     3 minutes of wall time, 4 patches per step", "results    'runs'"]
    assert lines[3].startswith("warning: the test split has 2 patients")


def test_a_manifest_that_was_edited_is_warned_of(tmp_path):
    data = tiny.make_dataset(tmp_path / "data", patients=6)
    rows = (data / "manifest.jsonl").read_text("utf-8").splitlines()
    (data / "manifest.jsonl").write_text("\n".join(rows[1:]) + "\n", "utf-8")
    lines = opening_lines(PretrainSettings(data=data, minutes=3, batch_size=2, fold=0), Path("runs"))
    assert [line.startswith("warning: manifest.jsonl was changed after ingestion") for line in lines[3:]] == [
        True
    ]


def test_a_size_of_other_dimensions_is_refused_before_pytorch_is_imported(tiny_dataset):
    with pytest.raises(
        UsageError, match=r"--size 9,9: expected one number of voxels or 3, as the training is in 3D"
    ):
        opening_lines(PretrainSettings(data=tiny_dataset, size=(9, 9), dims=3), Path("runs"))


def test_a_task_without_annotations_is_refused_before_pytorch_is_imported(tmp_path):
    write_dataset(tmp_path, DatasetInfo(name="d"), [tiny.row()], [])
    settings = FinetuneSettings(task="classify", data=tmp_path)
    with pytest.raises(DataError, match=r"no image with a class: ingest class folders .* --column NAME$"):
        opening_lines(settings, tmp_path)


def test_a_budget_of_the_recipe_is_named(tiny_dataset):
    lines = opening_lines(PretrainSettings(data=tiny_dataset, fold=0), Path("runs"))
    assert lines[1] == "budget     chosen by the recipe"
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("patch", "patch      16×16×16 voxels = 16×16×16 mm, cut from the image"),
        ("whole", "patch      the whole image, scaled to 16×16×16 voxels"),
    ],
)
def test_network_lines_name_volumes_patch_encoder_and_device(tiny_dataset, view, expected):
    method = small_modules.pretraining(3).method
    settings = PretrainSettings(encoder="dynunet", precision="fp32")
    volumes = read_dataset(tiny_dataset).volumes
    lines = network_lines(settings, volumes, PreprocessingPlan(3, (16, 16, 16), view=view), method)
    assert lines[0] == "training   10 volumes of 10 patients"
    assert lines[1] == expected
    assert lines[2].startswith("encoder    dynunet, ")
    assert lines[3].endswith("fp32; 4 patches per step")
    assert lines[4].startswith("warning: 10 training volumes")
    assert len(network_lines(settings, [*volumes, *volumes], PreprocessingPlan(3, (16,) * 3), method)) == 4


def test_patches_of_mostly_padding_are_warned_of(tiny_dataset):
    method = small_modules.pretraining(3).method
    volumes = 2 * read_dataset(tiny_dataset).volumes
    lines = network_lines(PretrainSettings(), volumes, PreprocessingPlan(3, (32, 32, 32)), method)
    assert lines[-1].startswith("warning: 84% of a patch is padding, as the median image has 20×16×16 voxels")


def test_cells_much_longer_along_one_axis_are_warned_of():
    assert cell_lines((8, 8, 8), (1.0, 1.0, 1.2)) == ["mask cells of 8×8×8 voxels = 8×8×9.6 mm"]
    line, warning = cell_lines((8, 8, 8), (0.7125, 0.7125, 3.75))
    assert line == "mask cells of 8×8×8 voxels = 5.7×5.7×30 mm"
    assert "5.3 times as long" in warning
    assert "--cell 30mm" in warning
    assert len(cell_lines((8, 8), None)) == 1


@pytest.mark.parametrize(
    ("pretraining", "view", "count"),
    [
        ({"augment": "patch"}, "whole", 1),
        ({"encoder": "resnet18"}, "whole", 1),
        ({"augment": "resized"}, "whole", 0),
        ({"augment": "patch"}, "patch", 0),
        ({}, "whole", 0),
    ],
)
def test_another_view_than_in_pretraining_is_noted(pretraining, view, count):
    assert len(view_lines(pretraining, PreprocessingPlan(2, (64, 64), view=view))) == count
