import json

import numpy as np
import pytest
import tiny
import torch
from interruption import PowerCut, PowerCutError
from safetensors.torch import load_file, save_file

from medmim import files
from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.contamination_certificate import CONTAMINATED, UNKNOWN, SeenPatients
from medmim.data.dataset.manifest import BoxRecord, DatasetInfo, read_dataset, write_dataset
from medmim.data.dataset.splits import patient_digest
from medmim.errors import DataError, RunError, ShapeError, TransferError, UsageError
from medmim.stages.finetune.run import finetune, shown_cases, validation_cases
from medmim.stages.initial_weights import DIVISION
from medmim.stages.resumption import stored_settings
from medmim.tracking.comparison.runs import read_run
from medmim.tracking.mlflow_store import Store
from medmim.training.tasks.segmentation import Segmentation
from medmim.training.weights import load_weights, save_weights, weights_metadata


def settings(data, **words):
    base = {**tiny.TINY, "data": data, "steps": 3, "num_evaluations": 1, "init": "scratch"}
    return FinetuneSettings(**{**base, **words})


def quiet(line):
    """Take a line for the user."""


def cases_of(store, result):
    return [
        json.loads(line) for line in store.read_text(store.run(result.run_id), "cases.jsonl").splitlines()
    ]


def test_the_whole_encoder_arrives_and_that_is_said(study):
    line = "100.0% of the encoder's tensors were loaded from 'spark mesh 0.7 decoder_width=8'"
    assert study.said.count(line) == 1
    tags = Store(study.home).run(study.tuned.run_id).data.tags
    assert tags["arm"] == "spark mesh 0.7 decoder_width=8"
    assert tags["pretraining_run"] == study.pretrained.run_id
    assert tags["loaded_fraction"] == "1.0000"


def test_the_arms_are_comparable(study):
    store = Store(study.home)
    tuned, scratch = (store.run(result.run_id).data.tags for result in (study.tuned, study.scratch))
    assert scratch["arm"] == "scratch"
    different = {key for key in tuned if key in scratch and tuned[key] != scratch[key]}
    origin = {"arm", "lineage", "loaded_fraction", "pretraining_run"}
    assert different <= {*origin, "mlflow.runColor", "mlflow.runName", "mlflow.note.content"}


def test_every_test_patient_is_scored_once_under_a_digest(study):
    store = Store(study.home)
    dataset = read_dataset(study.data)
    rows = cases_of(store, study.tuned)
    expected = {patient_digest(volume.subject) for volume in dataset.in_split("test")}
    assert {row["patient"] for row in rows} == expected
    assert sorted({row["label"] for row in rows}) == ["core", "rim"]
    assert len(rows) == 2 * len(expected)
    assert all("subject" not in row for row in rows)


def test_metrics_have_stable_keys(study):
    keys = study.tuned.metrics.keys()
    assert {"test/dice", "test/dice_core", "test/dice_rim", "best/val_dice_present"} <= keys
    assert {"last/val_dice", "last/steps", "last/minutes"} <= keys
    json.dumps(study.tuned.as_json(), allow_nan=False)


def test_the_model_is_registered_with_its_lineage(study):
    store = Store(study.home)
    versions = store.client.search_model_versions("name = 'tiny-segment'")
    lineage = {version.run_id: version.tags for version in versions}
    assert lineage.keys() == {study.tuned.run_id, study.scratch.run_id}
    tags = lineage[study.tuned.run_id]
    assert tags["pretraining_run"] == study.pretrained.run_id
    assert tags["sha256"] == files.sha256_of(study.tuned.checkpoint)
    assert tags["test_patients_seen_in_pretraining"] == "0"
    assert (
        store.client.get_model_version_by_alias("tiny-segment", "challenger").run_id == study.scratch.run_id
    )


def test_the_score_is_noted_on_the_pretraining(study):
    metrics = Store(study.home).run(study.pretrained.run_id).data.metrics
    assert metrics["finetuned/test_dice"] == pytest.approx(study.tuned.metrics["test/dice"])


def test_a_score_at_the_level_of_chance_is_a_warning(study):
    assert sum("the validation score is at the level of chance" in line for line in study.said) == 2


def test_the_description_says_how_to_use_the_weights(study):
    described = json.loads(study.tuned.checkpoint.with_suffix(".json").read_text())
    assert described["kind"] == "segment"
    assert described["label_names"] == {"1": "core", "2": "rim"}
    assert described["size"] == [16, 16, 16]


def test_the_same_seed_gives_the_same_bytes(study_copy):
    words = {"steps": 2, "num_evaluations": 2, "seed": 0}
    again = finetune(settings(study_copy.data, **words), home=study_copy.home, log=quiet)
    assert again.checkpoint.read_bytes() == study_copy.scratch.checkpoint.read_bytes()
    assert cases_of(Store(study_copy.home), again) == cases_of(Store(study_copy.home), study_copy.scratch)


@pytest.fixture(scope="module")
def uninterrupted(tiny_dataset, new_home):
    """A run that nothing interrupts, and its store."""
    home = new_home()
    return finetune(settings(tiny_dataset, num_evaluations=3), home=home, log=quiet), Store(home)


@pytest.mark.parametrize("after", [1, 3])
def test_a_resumed_run_ends_with_the_bytes_of_an_uninterrupted_one(uninterrupted, tiny_dataset, home, after):
    with pytest.raises(PowerCutError, match="power cut"):
        finetune(settings(tiny_dataset, num_evaluations=3), home=home, log=quiet, callbacks=[PowerCut(after)])
    assert_resumed_is(*uninterrupted, tiny_dataset, home)


def test_a_run_that_stopped_before_its_test_is_resumed(uninterrupted, tiny_dataset, home):
    with pytest.raises(PowerCutError, match="power cut"):
        finetune(settings(tiny_dataset, num_evaluations=3), home=home, log=quiet, callbacks=[PowerCut()])
    assert_resumed_is(*uninterrupted, tiny_dataset, home)


def assert_resumed_is(whole, whole_store, data, home):
    """Resume the newest run as the command line does and compare it with an uninterrupted one."""
    store = Store(home)
    stored = stored_settings(FinetuneSettings, store, store.runs(stage="finetune")[0].info.run_id, data=data)
    resumed = finetune(stored, home=home, resume="latest", log=quiet)
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert cases_of(store, resumed) == cases_of(whole_store, whole)
    ignored = "last/minutes"
    assert {k: v for k, v in resumed.metrics.items() if k != ignored} == {
        k: v for k, v in whole.metrics.items() if k != ignored
    }


def test_a_run_from_a_weights_file_is_resumed(study, new_home):
    """The file's own run is in another home folder."""
    home, words = new_home(), {"init": str(study.pretrained.checkpoint), "checkpoint_every_steps": 1}
    whole = finetune(settings(study.data, **words), home=home, log=quiet)
    with pytest.raises(PowerCutError, match="power cut"):
        finetune(settings(study.data, **words), home=home, log=quiet, callbacks=[PowerCut(1)])
    assert_resumed_is(whole, Store(home), study.data, home)


def test_weights_of_another_home_can_be_used(study, new_home):
    home = new_home()
    result = finetune(
        settings(study.data, init=str(study.pretrained.checkpoint), steps=1), home=home, log=quiet
    )
    run = Store(home).run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["pretraining_run"] == study.pretrained.run_id


def test_the_beginning_of_a_run_id_is_enough(study_copy, new_home):
    said = []
    finetune(
        settings(study_copy.data, init=study_copy.pretrained.run_id[:12], steps=1),
        home=study_copy.home,
        log=said.append,
    )
    assert any(line.startswith("100.0%") for line in said)


def test_weights_of_another_network_are_refused_before_anything_is_written(study_copy, tmp_path):
    tensors = load_file(study_copy.pretrained.checkpoint)
    gone = sorted(name for name in tensors if name.startswith("encoder."))[:3]
    path = tmp_path / "weights.safetensors"
    save_file({name: value for name, value in tensors.items() if name not in gone}, path)
    described = json.loads(study_copy.pretrained.checkpoint.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**described, "sha256": files.sha256_of(path)}))
    before = len(Store(study_copy.home).runs())
    with pytest.raises(TransferError, match=gone[0].removeprefix("encoder.")):
        finetune(settings(study_copy.data, init=str(path)), home=study_copy.home, log=quiet)
    assert len(Store(study_copy.home).runs()) == before


def test_test_patients_that_pretraining_saw_are_counted_and_reported(study_copy, tmp_path):
    """The record travels in the weights file."""
    weights, description = load_weights(study_copy.pretrained.checkpoint)
    tested = sorted({volume.subject for volume in read_dataset(study_copy.data).in_split("test")})
    seen = SeenPatients(frozenset({patient_digest(tested[0])}), frozenset(), 0)
    path = save_weights(tmp_path / "copy", weights, description, seen.as_metadata())
    lines = []
    result = finetune(
        settings(study_copy.data, init=str(path), steps=1), home=study_copy.home, log=lines.append
    )
    saw = "warning: pretraining saw 1 test patient (equal keys) and 0 test volumes (equal voxels); "
    assert f"{saw}scores are optimistic" in lines
    store = Store(study_copy.home)
    run = store.run(result.run_id)
    assert run.data.tags["test_patients_seen_in_pretraining"] == "1"
    assert read_run(store, run).contamination == CONTAMINATED


def test_weights_without_a_record_have_unknown_contamination(study_copy, tmp_path):
    weights, description = load_weights(study_copy.pretrained.checkpoint)
    path = save_weights(tmp_path / "copy", weights, description)
    lines = []
    result = finetune(
        settings(study_copy.data, init=str(path), steps=1), home=study_copy.home, log=lines.append
    )
    assert "warning: it is unknown whether pretraining saw test patients: its record is missing" in lines
    store = Store(study_copy.home)
    run = store.run(result.run_id)
    assert run.data.tags["test_patients_seen_in_pretraining"] == "unknown"
    assert read_run(store, run).contamination == UNKNOWN
    assert not (result.checkpoint.parent / "patients.json").exists()
    assert SeenPatients.from_metadata(weights_metadata(result.checkpoint)) is None


def test_with_few_labels_validation_chooses_nothing(tiny_dataset, home):
    lines = []
    words = {"num_labelled": 3, "patience": 2, "precision": "fp16"}
    result = finetune(settings(tiny_dataset, **words), home=home, log=lines.append)
    assert "best/val_dice_present" not in result.metrics
    assert any(line.startswith("warning: patience=2 has no effect") for line in lines)
    assert (
        torch.cuda.is_available()
        or "warning: precision=fp16 needs a GPU, so this machine trains in fp32" in lines
    )
    assert Store(home).run(result.run_id).data.tags["labelled"] == "3"
    division = json.loads((result.checkpoint.parent / DIVISION).read_text())
    assert len(division["train"]) == 3
    seen = json.loads((result.checkpoint.parent / "patients.json").read_text())
    assert set(seen) == {*division["train"], *division["val"]}


@pytest.mark.parametrize(("dims", "evaluated"), [(2, 121), (3, 16)])
def test_many_pictures_but_few_volumes_select_the_weights(tiny_dataset, dims, evaluated):
    case = read_dataset(tiny_dataset).volumes[0].model_copy(update={"spatial_dims": dims})
    cases = [case.model_copy(update={"id": str(number)}) for number in range(241)]
    chosen = validation_cases(cases, Segmentation())
    assert len(chosen) == evaluated
    assert chosen[1].id == {2: "2", 3: "16"}[dims]


def test_more_labels_than_there_are_are_refused(tiny_dataset, home):
    with pytest.raises(DataError, match="--num-labelled 8: the training split has only 7"):
        finetune(settings(tiny_dataset, num_labelled=8), home=home, log=quiet)


def test_folds_test_other_patients(tiny_dataset, home):
    tested = []
    for fold in (0, 1):
        result = finetune(settings(tiny_dataset, steps=1, fold=fold), home=home, log=quiet)
        tested.append({row["patient"] for row in cases_of(Store(home), result)})
    assert len(tested[0]) == len(tested[1]) == 2
    assert not tested[0] & tested[1]


@pytest.mark.parametrize("dims", [2, 3])
def test_volumes_of_all_kinds_can_be_learnt(varied_dataset, home, dims):
    result = finetune(settings(varied_dataset, dims=dims, steps=1), home=home, log=quiet)
    assert 0 <= result.metrics["test/dice"] <= 1


def test_the_encoder_can_be_frozen(study_copy):
    result = finetune(
        settings(study_copy.data, init=study_copy.pretrained.run_id, encoder_lr=0.0),
        home=study_copy.home,
        log=quiet,
    )
    before, after = load_file(study_copy.pretrained.checkpoint), load_file(result.checkpoint)
    for name in (name for name in before if name.startswith("encoder.")):
        assert (before[name] == after[name]).all(), name


def test_classes_that_only_the_test_knows_do_not_stop_it(tmp_path, home):
    """A dataset without names: classes are what the training labels hold."""
    data = tiny.make_dataset(tmp_path / "data", names={})
    dataset = read_dataset(data)
    rows = list(dataset.volumes)
    place = next(n for n, row in enumerate(rows) if row.split == "test")
    rng = np.random.default_rng(0)
    image, label = tiny.blob(rng, tiny.SHAPE)
    label[0, 0, 0] = 9
    affine = tiny.affine_of("RAS", (1.0, 1.0, 1.0), tiny.SHAPE)
    rows[place] = tiny.write_volume(data, rows[place].subject, image, affine, label=label, split="test")
    write_dataset(data, DatasetInfo(name="odd"), rows, [])
    result = finetune(settings(data, steps=1), home=home, log=quiet)
    assert {row["label"] for row in cases_of(Store(home), result)} == {"label_1", "label_2"}


def test_labels_that_are_all_empty_are_refused(tmp_path, home):
    data = tmp_path / "data"
    rng = np.random.default_rng(0)
    affine = tiny.affine_of("RAS", (1.0, 1.0, 1.0), tiny.SHAPE)
    rows = []
    for subject, split in (("a", "train"), ("b", "test")):
        image, label = tiny.blob(rng, tiny.SHAPE, empty=True)
        rows.append(tiny.write_volume(data, subject, image, affine, label=label, split=split))
    write_dataset(data, DatasetInfo(name="empty"), rows, [])
    with pytest.raises(DataError, match="all training labels are empty"):
        finetune(settings(data), home=home, log=quiet)


def test_some_empty_labels_are_fine(tmp_path, home):
    data = tmp_path / "data"
    rng = np.random.default_rng(0)
    affine = tiny.affine_of("RAS", (1.0, 1.0, 1.0), tiny.SHAPE)
    rows = []
    for number, split in enumerate(["train"] * 4 + ["val", "test", "test"]):
        image, label = tiny.blob(rng, tiny.SHAPE, empty=number % 2 == 1)
        rows.append(tiny.write_volume(data, f"p{number}", image, affine, label=label, split=split))
    write_dataset(data, DatasetInfo(name="some", label_names=tiny.NAMES), rows, [])
    result = finetune(settings(data), home=home, log=quiet)
    assert 0 <= result.metrics["test/dice"] <= 1


def test_without_validation_patients_the_last_weights_are_kept(tmp_path, home):
    data = tiny.make_dataset(tmp_path / "data", patients=3)
    rows = [
        row.model_copy(update={"split": "train" if row.split == "val" else row.split})
        for row in read_dataset(data).volumes
    ]
    write_dataset(data, DatasetInfo(name="small", label_names=tiny.NAMES), rows, [])
    result = finetune(settings(data, steps=1), home=home, log=quiet)
    assert not any(key.startswith(("best/", "last/val")) for key in result.metrics)


def test_a_dataset_without_labels_is_refused(unlabelled_dataset, home):
    with pytest.raises(
        DataError, match="this dataset has no image with labels: ingest them with --labels DIR"
    ) as caught:
        finetune(settings(unlabelled_dataset), home=home, log=quiet)
    assert caught.value.reason == "no_labels"


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        ({"task": "segmnt"}, UsageError, "did you mean 'segment'"),
        ({"init": None}, RunError, "no finished pretraining run on this dataset"),
        (
            {"init": "abc"},
            RunError,
            "--init abc: expected `scratch`, a weights file or a run .* no run id",
        ),
        ({"size": (18,)}, ShapeError, "use --size 20,20,20"),
        ({"encoder": "resnet"}, UsageError, "did you mean 'resnet"),
    ],
)
def test_what_cannot_work_is_refused_before_a_run_begins(tiny_dataset, home, words, kind, message):
    with pytest.raises(kind, match=message) as caught:
        finetune(settings(tiny_dataset, **words), home=home, log=quiet)
    assert "\n" not in str(caught.value)
    assert Store(home).runs() == []


def test_pictures_show_different_patients_and_boxes_first(tiny_dataset):
    row, box = (
        read_dataset(tiny_dataset).volumes[0],
        BoxRecord.model_validate({"box": [0, 0, 1, 1], "class": "a"}),
    )
    words = [("1", "p", ()), ("2", "p", ()), ("3", "q", ()), ("4", "r", (box,)), ("5", "q", ())]
    cases = [row.model_copy(update={"id": one, "subject": who, "boxes": boxes}) for one, who, boxes in words]
    assert [case.id for case in shown_cases(cases)] == ["4", "1", "3"]
    assert [case.id for case in shown_cases(cases[:2])] == ["1", "2"]
