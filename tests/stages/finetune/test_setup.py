"""The components of a fine-tuning run: usable images, division of patients, and warnings about them."""

import json

import pytest
import tiny

from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.manifest import BoxRecord, DatasetInfo, read_dataset, write_dataset
from medmim.errors import DataError
from medmim.stages.finetune.run import finetune
from medmim.tracking.mlflow_store import Store


def settings(data, task, **words):
    base = {**tiny.TINY, "data": data, "task": task, "steps": 2, "num_evaluations": 1, "init": "scratch"}
    return FinetuneSettings(**{**base, **words})


def quiet(line):
    """Take a line for the user."""


def with_rows(root, change):
    data = tiny.make_dataset(root / "data", patients=6)
    rows = [change(row) for row in read_dataset(data).volumes]
    write_dataset(data, DatasetInfo(name="changed", label_names=tiny.NAMES), rows, [])
    return data


def test_wrong_boxes_are_refused_or_clipped(tmp_path, home):
    outside = BoxRecord.model_validate({"class": "core", "box": (4, 4, 4, 9, 9, 30)})
    data = with_rows(tmp_path, lambda row: row.model_copy(update={"boxes": (outside,)}))
    with pytest.raises(DataError, match=r"invalid box(es)?: volume .*outside its image"):
        finetune(settings(data, "detect"), home=home, log=quiet)
    assert Store(home).runs() == []
    said = []
    options = {"bad_boxes": "clip"}
    result = finetune(settings(data, "detect", task_options=options), home=home, log=said.append)
    assert result.metrics["last/steps"] == 2
    assert sum(line.startswith("clipped volume") for line in said) == 6


@pytest.mark.parametrize(
    ("task", "field", "message"),
    [("classify", "target", "no image with a class"), ("detect", "boxes", "no training image has a box")],
)
def test_data_without_what_a_task_needs_are_refused(tmp_path, home, task, field, message):
    empty = None if field == "target" else ()
    data = with_rows(tmp_path, lambda row: row.model_copy(update={field: empty}))
    with pytest.raises(DataError, match=message):
        finetune(settings(data, task), home=home, log=quiet)


def test_a_column_that_is_no_number_is_shown(tmp_path, home):
    data = with_rows(tmp_path, lambda row: row.model_copy(update={"target": "20 years"}))
    with pytest.raises(DataError, match=r"no image with a number: give them .*; found '20 years'"):
        finetune(settings(data, "regress", dims=2), home=home, log=quiet)


def test_who_was_drawn_is_stored_and_the_few_are_among_the_many(tiny_dataset, home):
    drawn = []
    for share in (0.3, 0.6):
        words = {"dims": 2, "label_fraction": share}
        result = finetune(settings(tiny_dataset, "classify", **words), home=home, log=quiet)
        drawn.append(json.loads((result.checkpoint.parent / "division.json").read_text()))
    assert [len(one["train"]) for one in drawn] == [2, 4]
    assert set(drawn[0]["train"]) < set(drawn[1]["train"])
    assert drawn[0]["test"] == drawn[1]["test"]
    assert not set(drawn[1]["train"]) & {*drawn[1]["val"], *drawn[1]["test"]}
    keys = {volume.subject for volume in read_dataset(tiny_dataset).volumes}
    assert not keys & {who for one in drawn for names in one.values() for who in names}


def test_what_a_division_cannot_tell_is_said(tmp_path, home):
    def change(row):
        if row.split == "test":
            return row.model_copy(update={"target": "new"})
        return row.model_copy(update={"split": "train"})

    said = []
    result = finetune(settings(with_rows(tmp_path, change), "classify", dims=2), home=home, log=said.append)
    assert "no validation patient has a class" in said[0]
    assert said[1].endswith("test image has a class that no training image has: it cannot be predicted")
    assert result.metrics["test/macro_f1"] == 0


def test_images_that_are_left_out_are_counted(tmp_path, home):
    data = with_rows(tmp_path, lambda row: row.model_copy(update={"label": None}))
    dataset = read_dataset(data)
    first = next(row for row in dataset.volumes if row.split == "train")
    rows = [row.model_copy(update={"boxes": ()}) if row == first else row for row in dataset.volumes]
    write_dataset(data, DatasetInfo(name="changed"), rows, [])
    for options, lines in (({}, 1), ({"negatives": "all"}, 0)):
        said = []
        finetune(settings(data, "detect", dims=2, task_options=options), home=home, log=said.append)
        counted = [line for line in said if line.startswith("left out: 1 of 6 images without boxes")]
        assert len(counted) == lines
        assert all("negatives=all" in line for line in counted)


def test_pixels_that_pass_for_millimetres_are_named(tmp_path, home):
    data = with_rows(tmp_path, lambda row: row.model_copy(update={"flags": {"spacing": "unknown"}}))
    for task, count in (("segment", 1), ("classify", 0)):
        said = []
        finetune(settings(data, task, dims=2), home=home, log=said.append)
        assert sum("scores assume 1 mm" in line for line in said) == count
