import pytest
import threshold
import tiny

from medmim.data.dataset.manifest import Dataset, DatasetInfo, read_dataset
from medmim.errors import DataError
from medmim.stages.evaluate.prediction_source import EvaluationOptions, annotated_cases, find_source


def test_a_dataset_without_labels_has_no_case_for_a_segmenter(unlabelled_dataset, tmp_path, home):
    weights = threshold.write_model(tmp_path / "model", 1.5)
    source = find_source(EvaluationOptions(model=str(weights)), home, lambda line: None)
    with pytest.raises(DataError, match="with labels \\(--split all\\)"):
        annotated_cases(source, read_dataset(unlabelled_dataset), "all")


def test_images_of_unknown_pixel_size_are_mentioned(tmp_path, home):
    weights = threshold.write_model(tmp_path / "model", 1.5)
    source = find_source(EvaluationOptions(model=str(weights)), home, lambda line: None)
    rows = [tiny.row("p0", split="test").model_copy(update={"flags": {"spacing": "unknown"}}), tiny.row("p1")]
    cases, notes = annotated_cases(source, Dataset(tmp_path, DatasetInfo(name="d"), tuple(rows)), "test")
    assert len(cases) == 1
    assert notes == ["unknown pixel size of 1 image: scores assume 1 mm"]


def test_channels_that_a_model_of_one_volume_scores_one_by_one_are_mentioned(tmp_path, home):
    weights = threshold.write_model(tmp_path / "model", 1.5)
    source = find_source(EvaluationOptions(model=str(weights)), home, lambda line: None)
    rows = [
        tiny.row("p0", number, split="test").model_copy(
            update={"tokens": (word,), "study": "visit", "label_sha256": "a"}
        )
        for number, word in enumerate(("t1", "flair"))
    ]
    cases, notes = annotated_cases(source, Dataset(tmp_path, DatasetInfo(name="d"), tuple(rows)), "test")
    assert len(cases) == 2
    assert [note.partition(": each")[2] for note in notes] == [
        " is a case of its own (t1,flair), also where the model was trained on another one of them"
    ]
