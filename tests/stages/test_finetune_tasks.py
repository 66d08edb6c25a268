import csv
import json

import numpy as np
import pytest
import tiny
from interruption import PowerCut, PowerCutError
from safetensors.torch import load_file

from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.manifest import DatasetInfo, read_dataset, write_dataset
from medmim.data.dataset.splits import patient_digest
from medmim.encoders import build_encoder
from medmim.errors import DataError, TransferError, UsageError
from medmim.heads import build_head
from medmim.stages.compare import compare_runs
from medmim.stages.evaluate.prediction_source import EvaluationOptions
from medmim.stages.evaluate.run import evaluate
from medmim.stages.finetune.run import finetune
from medmim.stages.predict.run import predict
from medmim.stages.resumption import stored_settings
from medmim.tracking.mlflow_store import Store
from medmim.training.tasks.trained_model import load_trained_model

MEANS = {
    "classify": {"macro_f1", "f1_calm", "f1_odd", "balanced_accuracy", "ece"},
    "detect": {"ap50", "ap50_95", "ap50_any", "froc"},
    "segment": {"dice", "surface_dice", "dice_core", "dice_rim"},
}
AXIS = {"classify": "classification", "detect": "detection", "segment": "segmentation"}


def settings(data, task, **words):
    base = {**tiny.TINY, "data": data, "task": task, "steps": 2, "num_evaluations": 1, "init": "scratch"}
    return FinetuneSettings(**{**base, **words})


def quiet(line):
    """Take a line for the user."""


def cases_of(store, result):
    return [
        json.loads(line) for line in store.read_text(store.run(result.run_id), "cases.jsonl").splitlines()
    ]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("task", sorted(MEANS))
def test_every_task_runs_from_data_to_a_registered_model(task, dims, tiny_dataset, home):
    said = []
    result = finetune(settings(tiny_dataset, task, dims=dims, ema=0.9), home=home, log=said.append)
    assert {f"test/{key}" for key in MEANS[task]} <= result.metrics.keys()
    store = Store(home)
    assert store.run(result.run_id).data.tags["axis_task"] == AXIS[task]
    tested = {patient_digest(volume.id) for volume in read_dataset(tiny_dataset).in_split("test")}
    rows = cases_of(store, result)
    assert {row["case"] for row in rows} == tested
    assert not any("subject" in row for row in rows)
    assert store.client.get_model_version_by_alias(f"tiny-{task}", "challenger").run_id == result.run_id
    if task == "detect":
        assert any("are matched to an anchor" in line for line in said)


@pytest.mark.parametrize("task", sorted(MEANS))
def test_the_description_rebuilds_the_network(task, tiny_dataset, home):
    result = finetune(settings(tiny_dataset, task), home=home, log=quiet)
    described = json.loads(result.checkpoint.with_suffix(".json").read_text())
    encoder = build_encoder(
        described["encoder"],
        spatial_dims=described["spatial_dims"],
        in_channels=described["in_channels"],
        **described["encoder_options"],
    )
    classes = max(map(int, described["label_names"])) + 1
    network = build_head(
        described["kind"], encoder=encoder, spatial_dims=3, classes=classes, **described["head"]
    )
    network.load_state_dict(load_file(result.checkpoint))


@pytest.mark.parametrize("task", ["classify", "detect"])
def test_a_resumed_run_ends_with_the_bytes_of_an_uninterrupted_one(task, tiny_dataset, home):
    words = {"dims": 2, "steps": 3, "num_evaluations": 3, "ema": 0.9}
    words |= {"task_options": {"mixup": 0.4}} if task == "classify" else {}
    whole = finetune(settings(tiny_dataset, task, **words), home=home, log=quiet)
    with pytest.raises(PowerCutError, match="power cut"):
        finetune(settings(tiny_dataset, task, **words), home=home, log=quiet, callbacks=[PowerCut(1)])
    store = Store(home)
    newest = store.runs(stage="finetune")[0].info.run_id
    stored = stored_settings(FinetuneSettings, store, newest, data=tiny_dataset)
    resumed = finetune(stored, home=home, resume="latest", log=quiet)
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert cases_of(store, resumed) == cases_of(store, whole)


@pytest.mark.parametrize("task", ["classify", "detect"])
def test_arms_of_every_task_are_compared(task, tiny_dataset, home):
    words = {"steps": 1, "dims": 2}
    runs = [
        finetune(settings(tiny_dataset, task, seed=seed, **words), home=home, log=quiet) for seed in (0, 1)
    ]
    compared = compare_runs([run.run_id for run in runs], home=home)
    arm = compared.as_json()["arms"][0]
    metric = {"classify": "macro_f1", "detect": "ap50"}[task]
    expected = np.mean([run.metrics[f"test/{metric}"] for run in runs])
    assert arm["metric"] == metric
    assert arm[metric]["mean"] == pytest.approx(expected, abs=1e-6)
    assert compared.report.is_file()


def test_a_probe_keeps_the_encoder(study_copy):
    words = {"init": study_copy.pretrained.run_id, "mode": "linear_probe"}
    result = finetune(settings(study_copy.data, "classify", **words), home=study_copy.home, log=quiet)
    before, after = load_file(study_copy.pretrained.checkpoint), load_file(result.checkpoint)
    for name in (name for name in before if name.startswith("encoder.")):
        assert (before[name] == after[name]).all(), name


def test_a_frozen_encoder_begins_late(study_copy):
    words = {"init": study_copy.pretrained.run_id, "freeze": 0.9, "steps": 2}
    result = finetune(settings(study_copy.data, "segment", **words), home=study_copy.home, log=quiet)
    before, after = load_file(study_copy.pretrained.checkpoint), load_file(result.checkpoint)
    assert all((before[name] == after[name]).all() for name in before if name.startswith("encoder."))


def test_a_3d_encoder_does_not_go_into_a_2d_one(study_copy):
    with pytest.raises(TransferError, match="of another shape"):
        finetune(
            settings(study_copy.data, "segment", init=study_copy.pretrained.run_id, dims=2),
            home=study_copy.home,
            log=quiet,
        )


def test_few_labels_hold_every_class(tiny_dataset, home):
    result = finetune(settings(tiny_dataset, "classify", num_labelled=2), home=home, log=quiet)
    assert "best/val_macro_f1" not in result.metrics
    described = json.loads(result.checkpoint.with_suffix(".json").read_text())
    assert sorted(described["label_names"].values()) == sorted(tiny.CLASSES)
    assert described["chosen"] == {"temperature": 1.0}


def test_classify_sees_whole_images_only(tiny_dataset, home):
    with pytest.raises(UsageError, match=r"^classification sees whole images: leave out field_of_view"):
        finetune(settings(tiny_dataset, "classify", view="patch"), home=home, log=quiet)


def test_few_labels_choose_no_threshold_on_the_test(tiny_dataset, home):
    result = finetune(settings(tiny_dataset, "detect", dims=2, num_labelled=2), home=home, log=quiet)
    described = json.loads(result.checkpoint.with_suffix(".json").read_text())
    assert described["chosen"] == {"thresholds": {"core": 0.5, "rim": 0.5}}
    assert result.metrics["test/f1"] == 0  # after two steps no box is that sure


@pytest.mark.parametrize("task", sorted(MEANS))
def test_every_number_has_an_interval_that_compare_reads(task, tiny_dataset, home):
    result = finetune(settings(tiny_dataset, task, dims=2), home=home, log=quiet)
    store = Store(home)
    lines = store.read_text(store.run(result.run_id), "scores.jsonl").splitlines()
    rows = {row["metric"]: row for row in map(json.loads, lines)}
    tested = {key.removeprefix("test/"): v for key, v in result.metrics.items() if key.startswith("test/")}
    assert {key: row["value"] for key, row in rows.items()} == pytest.approx(tested, abs=1e-6)
    assert {row["patients"] for row in rows.values()} == {2}
    # a metric that is undefined without one of the two patients has no interval
    known = [row for row in rows.values() if row["low"] is not None]
    assert all(row["low"] <= row["high"] for row in known)
    assert all(row["high"] is None for row in rows.values() if row not in known)
    assert known or task == "classify"
    compared = compare_runs([result.run_id], home=home).as_json()
    assert compared["scores"][result.run_id] == list(rows.values())


def test_regions_are_trained_scored_and_compared(tiny_dataset, home):
    """Names of regions are in another order than the regions, and stored settings keep that."""
    said, regions = [], {"whole": [1, 2], "inner": ["rim"]}
    result = finetune(settings(tiny_dataset, "segment", dims=2, regions=regions), home=home, log=said.append)
    assert any(line.endswith("1 where whole exceeds 0.5, then 2 where inner exceeds 0.5") for line in said)
    assert {"test/dice_whole", "test/dice_inner"} <= result.metrics.keys()
    stored = stored_settings(FinetuneSettings, Store(home), result.run_id, data=tiny_dataset)
    assert stored.regions == (("whole", (1, 2)), ("inner", ("rim",)))
    trained = load_trained_model(result.checkpoint)
    assert trained.plan.regions == (("whole", (1, 2)), ("inner", (2,)))
    compared = compare_runs([result.run_id], home=home).as_json()
    assert compared["arms"][0]["dice"]["mean"] == pytest.approx(result.metrics["test/dice"], abs=1e-6)


def test_classes_that_do_not_exclude_each_other_are_trained_evaluated_and_compared(tmp_path, home):
    data = tiny.make_dataset(tmp_path / "data")
    rows = read_dataset(data).volumes
    mass, both = {"mass": 1.0, "cyst": 0.0, "scar": 0.0}, {"mass": 1.0, "cyst": 1.0}
    rare = {"mass": 0.0, "cyst": -1.0, "rare": 1.0}
    values = [mass, both, rare, mass, both, both, mass, both, mass, both]
    splits = [*["train"] * 5, "val", *["test"] * 4]
    changed = [
        row.model_copy(update={"targets": own, "split": split})
        for row, own, split in zip(rows, values, splits, strict=True)
    ]
    write_dataset(data, DatasetInfo(name="findings"), changed, [])
    said = []
    result = finetune(settings(data, "classify", dims=2), home=home, log=said.append)
    text = "\n".join(said)
    assert "task multilabel: 10 of 10 images have values of several classes" in text
    assert "no training image shows scar: not trained" in text
    assert "test: class rare: none of 0 images with a known value shows it" in text
    assert {"test/macro_auroc", "test/auroc_cyst", "test/f1_mass"} <= result.metrics.keys()
    assert "test/auroc_rare" not in result.metrics
    assert (result.metrics["test/positives_cyst"], result.metrics["test/negatives_cyst"]) == (2, 2)
    counted = {row["metric"]: row for row in result.scores}
    assert (counted["positives_cyst"]["value"], counted["positives_cyst"]["low"]) == (2, None)
    made = predict(data, tmp_path / "out", home=home, model=str(result.checkpoint), log=quiet)
    table = list(csv.DictReader((made.out / "classes.csv").open()))
    assert {"classes", "p_cyst", "p_mass", "p_rare"} <= table[0].keys()
    expected = {row["metric"]: row["value"] for row in result.scores}
    sources = {"model": str(result.checkpoint)}, {"predictions": made.out}
    for source in sources:
        options = EvaluationOptions(**source, label_map=("=scar",))  # a class without training images
        evaluated = evaluate(data, tmp_path / "evaluation", options, home=home, log=said.append)
        found = {row["metric"]: row["value"] for row in evaluated.groups[0].scores}
        assert found == pytest.approx(expected, abs=1e-5)
        assert any("class rare" in line for line in evaluated.notes)
    compared = compare_runs([result.run_id], home=home).as_json()
    assert compared["arms"][0]["macro_auroc"]["mean"] == pytest.approx(result.metrics["test/macro_auroc"])
    exclusive = settings(data, "classify", dims=2, task_options={"exclusive": True})
    assert "test/macro_auroc" not in finetune(exclusive, home=home, log=quiet).metrics


def test_ages_of_a_table_are_predicted_evaluated_and_compared(tiny_dataset, tmp_path, home):
    volumes = read_dataset(tiny_dataset).volumes
    table = tmp_path / "ages.csv"
    table.write_text("subject,age\n" + "".join(f"{one.subject},{40 + n}\n" for n, one in enumerate(volumes)))
    words = {"dims": 2, "targets": table, "column": "age"}
    result = finetune(settings(tiny_dataset, "regress", **words), home=home, log=quiet)
    assert {"test/r2", "test/mae", "test/spearman", "test/bias_lower_limit"} <= result.metrics.keys()
    store = Store(home)
    again = stored_settings(FinetuneSettings, store, result.run_id, data=tiny_dataset)
    assert again.targets == store.checkpoints(result.run_id) / "targets.csv"
    assert again.targets.read_text().startswith("volume,age\n")
    assert "targets" not in store.read_text(store.run(result.run_id), "settings.yaml")
    assert load_trained_model(result.checkpoint).names == {0: "age"}
    options = EvaluationOptions(model=str(result.checkpoint), targets=table, column="age")
    evaluated = evaluate(tiny_dataset, tmp_path / "evaluation", options, home=home, log=quiet)
    expected = {row["metric"]: row["value"] for row in result.scores}
    assert {row["metric"]: row["value"] for row in evaluated.groups[0].scores} == pytest.approx(expected)
    made = predict(tiny_dataset, tmp_path / "out", home=home, model=str(result.checkpoint), log=quiet)
    options = EvaluationOptions(predictions=made.out, targets=table, column="age")
    evaluated = evaluate(tiny_dataset, tmp_path / "saved", options, home=home, log=quiet)
    found = {row["metric"]: row["value"] for row in evaluated.groups[0].scores}
    assert found == pytest.approx(expected, abs=1e-4)
    rows = list(csv.DictReader((made.out / "values.csv").open()))
    assert len(rows) == len(volumes)
    assert {row["quantity"] for row in rows} == {"age"}
    compared = compare_runs([result.run_id], home=home).as_json()
    assert compared["arms"][0]["r2"]["mean"] == pytest.approx(result.metrics["test/r2"], abs=1e-6)
    with pytest.raises(DataError, match="no image with a number: give them with --targets"):
        finetune(settings(tiny_dataset, "regress", dims=2), home=home, log=quiet)


def test_grades_of_a_table_are_predicted_evaluated_and_compared(tiny_dataset, tmp_path, home):
    volumes = read_dataset(tiny_dataset).volumes
    table, words = tmp_path / "grades.csv", ["none", "mild", "severe"]
    lines = [f"{one.subject},{words[n % 3]}\n" for n, one in enumerate(volumes)]
    table.write_text("subject,grade\n" + "".join(lines))
    options = {"dims": 2, "targets": table, "column": "grade", "task_options": {"order": words}}
    result = finetune(settings(tiny_dataset, "ordinal", **options), home=home, log=quiet)
    assert {"test/mean_grade_error", "test/within_one_grade", "test/accuracy"} <= result.metrics.keys()
    assert list(load_trained_model(result.checkpoint).names.values()) == words
    made = predict(tiny_dataset, tmp_path / "out", home=home, model=str(result.checkpoint), log=quiet)
    expected = {row["metric"]: row["value"] for row in result.scores}
    for source in ({"model": str(result.checkpoint)}, {"predictions": made.out}):
        given = EvaluationOptions(**source, targets=table, column="grade")
        evaluated = evaluate(tiny_dataset, tmp_path / "evaluation", given, home=home, log=quiet)
        found = {row["metric"]: row["value"] for row in evaluated.groups[0].scores}
        assert found == pytest.approx(expected, abs=1e-4)
    compared = compare_runs([result.run_id], home=home).as_json()
    mean = compared["arms"][0]["quadratic_kappa"]["mean"]
    assert mean == pytest.approx(result.metrics["test/quadratic_kappa"], abs=1e-6)
