import pytest
import threshold

from medmim.data.dataset.manifest import read_dataset
from medmim.errors import DataError
from medmim.stages.evaluate.prediction_source import EvaluationOptions, annotated_cases, find_source


def test_a_dataset_without_labels_has_no_case_for_a_segmenter(unlabelled_dataset, tmp_path, home):
    weights = threshold.write_model(tmp_path / "model", 1.5)
    source = find_source(EvaluationOptions(model=str(weights)), home, lambda line: None)
    with pytest.raises(DataError, match="with labels \\(--split all\\)"):
        annotated_cases(source, read_dataset(unlabelled_dataset), "all")
