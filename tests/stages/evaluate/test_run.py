import json

import pytest
import safetensors.torch
import threshold
import tiny

from medmim import files
from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.contamination_certificate import CONTAMINATED, SeenPatients, seen_patients_of
from medmim.data.dataset.manifest import read_dataset
from medmim.errors import UsageError
from medmim.stages.evaluate.prediction_source import EvaluationOptions
from medmim.stages.evaluate.run import evaluate
from medmim.stages.finetune.run import finetune
from medmim.stages.predict.run import predict

PAIRS = ("ball=core", "ball=rim")


def quiet(line):
    """Take a line for the user."""


@pytest.fixture
def weights(tmp_path):
    return str(threshold.write_model(tmp_path / "model", 0.3, mirror_axes=[]))


def scores_of(result):
    return {row["metric"]: row["value"] for row in result.groups[0].scores}


def test_a_model_and_its_saved_predictions_have_the_same_scores(weights, tiny_dataset, tmp_path, home):
    options = EvaluationOptions(model=weights, split="all", label_map=PAIRS)
    by_model = evaluate(tiny_dataset, tmp_path / "a", options, home=home, log=quiet)
    made = predict(tiny_dataset, tmp_path / "predicted", home=home, model=weights, log=quiet)
    options = EvaluationOptions(predictions=made.out, split="all", label_map=PAIRS)
    by_files = evaluate(tiny_dataset, tmp_path / "b", options, home=home, log=quiet)
    assert scores_of(by_model)["dice"] > 0.7
    assert scores_of(by_model) == pytest.approx(scores_of(by_files), abs=1e-6)
    assert (tmp_path / "b" / "panel.png").is_file()


@pytest.mark.parametrize("task", ["classify", "detect"])
def test_the_test_split_of_the_training_dataset_has_the_scores_of_the_test(
    task, tiny_dataset, tmp_path, home
):
    settings = FinetuneSettings(
        **tiny.TINY, data=tiny_dataset, task=task, steps=2, num_evaluations=1, init="scratch"
    )
    tuned = finetune(settings, home=home, log=quiet)
    options = EvaluationOptions(model=str(tuned.checkpoint))
    result = evaluate(tiny_dataset, tmp_path / "out", options, home=home, log=quiet)
    expected = {row["metric"]: row["value"] for row in tuned.scores}
    assert scores_of(result) == pytest.approx(expected, abs=1e-4)
    assert result.certificate.overlaps["training of the model"].by_key == 0


def test_patients_that_the_model_has_seen_are_reported(weights, tiny_dataset, tmp_path, home):
    seen = seen_patients_of(read_dataset(tiny_dataset).in_split("train"))
    seen |= SeenPatients(pixels=frozenset(["0"]))
    metadata = seen.as_metadata()
    loaded = safetensors.torch.load_file(weights)
    safetensors.torch.save_file(loaded, weights, metadata=metadata)
    description = json.loads((tmp_path / "model" / "weights.json").read_text())
    files.write_json(
        tmp_path / "model" / "weights.json",
        {**description, "sha256": files.sha256_of(tmp_path / "model" / "weights.safetensors")},
    )
    options = EvaluationOptions(model=weights, split="all", label_map=PAIRS, by="split")
    result = evaluate(tiny_dataset, tmp_path / "out", options, home=home, log=quiet)
    assert result.certificate.verdict == CONTAMINATED
    assert "saw 7 test patients (equal keys)" in result.contamination
    assert [group.title for group in result.groups] == ["all cases", "test", "train", "val"]
    assert "saw 7 test patients" in result.page.read_text()


def test_merged_classes_of_the_training_dataset_are_known(tiny_dataset, tmp_path, home):
    merged = {"label_classes": [[1, 1], [2, 1]], "label_codes": [1], "mirror_axes": []}
    merged |= {"dataset_hash": read_dataset(tiny_dataset).info.content_hash}
    weights = str(threshold.write_model(tmp_path / "model", 0.3, **merged))
    result = evaluate(tiny_dataset, tmp_path / "out", EvaluationOptions(model=weights), home=home, log=quiet)
    assert scores_of(result)["dice"] > 0.7


def test_classes_that_do_not_match_by_name_stop_the_evaluation(weights, tiny_dataset, tmp_path, home):
    with pytest.raises(UsageError, match=r"model \(ball\) do not match those of the data \(core, rim\)"):
        evaluate(tiny_dataset, tmp_path / "out", EvaluationOptions(model=weights), home=home, log=quiet)


def test_regions_of_a_model_are_scored_on_classes_of_equal_names(tiny_dataset, tmp_path, home):
    model = str(threshold.write_model(tmp_path / "model", (0.3, 2.0), **threshold.NESTED, mirror_axes=[]))
    options = EvaluationOptions(model=model, split="all")
    scores = scores_of(evaluate(tiny_dataset, tmp_path / "a", options, home=home, log=quiet))
    made = predict(tiny_dataset, tmp_path / "predicted", home=home, model=model, log=quiet)
    options = EvaluationOptions(predictions=made.out, split="all")
    by_class = scores_of(evaluate(tiny_dataset, tmp_path / "b", options, home=home, log=quiet))
    assert scores["dice_whole"] == pytest.approx(by_class["dice_any"], abs=1e-6)
    assert scores["dice_inner"] == pytest.approx(by_class["dice_rim"], abs=1e-6)
    assert min(scores["dice_inner"], scores["dice_whole"]) > 0.9
    options = EvaluationOptions(model=model, label_map=("core=core", "rim=core", "=rim"))
    with pytest.raises(UsageError, match="regions of the model need each of its classes"):
        evaluate(tiny_dataset, tmp_path / "c", options, home=home, log=quiet)
