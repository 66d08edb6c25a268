import dataclasses
import json

import pytest
import tiny
import torch
from interruption import PowerCut, PowerCutError
from safetensors.torch import load_file

from medmim import files
from medmim.config.runs import PretrainSettings
from medmim.config.study import arm_of
from medmim.data.dataset.manifest import read_dataset
from medmim.data.dataset.splits import patient_digest
from medmim.errors import DataError, MedmimError, RunError, ShapeError, UsageError
from medmim.stages.pretrain.run import pretrain
from medmim.stages.resumption import stored_settings
from medmim.tracking.mlflow_store import Store


def settings(data, **words):
    base = {
        **tiny.TINY,
        "data": data,
        "steps": 3,
        "num_evaluations": 1,
        "method_options": {"decoder_width": 8},
    }
    return PretrainSettings(**{**base, **words})


def test_a_run_leaves_weights_pictures_and_tags(study):
    result, store = study.pretrained, Store(study.home)
    assert result.checkpoint == store.checkpoints(result.run_id) / "weights.safetensors"
    weights = load_file(result.checkpoint)
    assert any(name.startswith("encoder.") for name in weights)
    assert result.panel.read_bytes().startswith(b"\x89PNG")
    run = store.run(result.run_id)
    assert run.info.status == "FINISHED"
    tags = run.data.tags
    for key, value in {
        "stage": "pretrain",
        "arm": "spark mesh 0.7 decoder_width=8",
        "method": "spark",
        "mask": "mesh",
        "ratio_requested": "0.7",
        "ratio_realised": "0.7031",  # 45 of 64 cells
        "encoder": "dynunet",
        "dims": "3",
        "size": "16,16,16",
        "cell": "4×4×4 voxels = 4×4×4 mm",
        "budget": "steps=2",
        "seed": "0",
        "dataset": "tiny",
        "dataset_hash": read_dataset(study.data).info.content_hash,
    }.items():
        assert tags[key] == value, key
    assert {"axis_target", "axis_architecture", "axis_objective"} <= tags.keys()
    assert {"last/train_loss", "last/val_loss", "last/steps", "last/minutes"} <= result.metrics.keys()
    assert run.data.metrics.items() >= result.metrics.items()


def test_the_description_lies_beside_the_weights(study):
    described = json.loads(study.pretrained.checkpoint.with_suffix(".json").read_text())
    assert described["kind"] == "pretraining"
    assert described["run_id"] == study.pretrained.run_id
    assert described["sha256"] == files.sha256_of(study.pretrained.checkpoint)
    assert described["encoder_options"] == tiny.TINY["encoder_options"]


def test_who_was_seen_is_kept_as_digests_beside_the_weights(study):
    seen = json.loads((study.pretrained.checkpoint.parent / "patients.json").read_text())
    train = {volume.subject for volume in read_dataset(study.data).in_split("train")}
    assert seen == sorted(patient_digest(subject) for subject in train)


def test_held_out_patients_can_be_included(tiny_dataset, home):
    result = pretrain(settings(tiny_dataset, steps=1, include_held_out=True), home=home)
    seen = json.loads((result.checkpoint.parent / "patients.json").read_text())
    assert len(seen) == 10


def test_the_same_seed_gives_the_same_bytes_and_another_others(tiny_dataset, home):
    first, again, other = (
        pretrain(settings(tiny_dataset, seed=seed, steps=1), home=home).checkpoint.read_bytes()
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("words", "after"),
    [({"num_evaluations": 3}, 1), ({"num_evaluations": 3}, 3), ({"checkpoint_every_steps": 1}, 2)],
)
def test_a_resumed_run_ends_with_the_bytes_of_an_uninterrupted_one(tiny_dataset, home, words, after):
    whole = pretrain(settings(tiny_dataset, **words), home=home)
    with pytest.raises(PowerCutError, match="power cut"):
        pretrain(settings(tiny_dataset, **words), home=home, callbacks=[PowerCut(after)])
    store = Store(home)
    broken = store.runs(stage="pretrain")[0]
    assert broken.info.status == "FAILED"
    stored = stored_settings(PretrainSettings, store, broken.info.run_id, data=tiny_dataset)
    resumed = pretrain(stored, home=home, resume="latest")
    assert resumed.run_id == broken.info.run_id
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert store.run(resumed.run_id).info.status == "FINISHED"
    without_time = [
        {key: value for key, value in run.metrics.items() if key != "last/minutes"}
        for run in (resumed, whole)
    ]
    assert without_time[0] == without_time[1]
    for key in without_time[0]:
        steps, expected = (
            [point.step for point in store.client.get_metric_history(run, key)]
            for run in (resumed.run_id, whole.run_id)
        )
        assert steps == expected  # each point once


def test_an_interrupted_run_ends_as_killed(tiny_dataset, home):
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        pretrain(settings(tiny_dataset), home=home, callbacks=[PowerCut(1, error=KeyboardInterrupt)])
    assert Store(home).runs(stage="pretrain")[0].info.status == "KILLED"


def test_a_run_on_a_changed_dataset_is_not_resumed_and_stays_unchanged(tiny_dataset, home, tmp_path):
    with pytest.raises(PowerCutError, match="power cut"):
        pretrain(settings(tiny_dataset), home=home, callbacks=[PowerCut(1)])
    other = tiny.make_dataset(tmp_path / "other", seed=5)
    with pytest.raises(RunError, match="the dataset has changed since this run was started"):
        pretrain(settings(other), home=home, resume="latest")
    assert Store(home).runs(stage="pretrain")[0].info.status == "FAILED"


def test_defaults_come_from_the_data(tiny_dataset, home):
    chosen = PretrainSettings(
        data=tiny_dataset, steps=1, num_evaluations=1, batch_size=2, encoder_options={"filters": [4, 8, 8]}
    )
    stored = stored_settings(
        PretrainSettings, Store(home), pretrain(chosen, home=home).run_id, data=tiny_dataset
    )
    assert (stored.dims, stored.size, stored.cell, stored.encoder) == (3, (20, 16, 16), (4, 4, 4), "dynunet")


@pytest.mark.parametrize("dims", [2, 3])
def test_volumes_of_all_kinds_can_be_pretrained_on(varied_dataset, home, dims):
    assert pretrain(settings(varied_dataset, dims=dims, steps=1), home=home).metrics["last/steps"] == 1


def test_labels_are_not_needed(unlabelled_dataset, home):
    pretrain(settings(unlabelled_dataset, steps=1), home=home)


def test_folds_hold_patients_out(tiny_dataset, home):
    result = pretrain(settings(tiny_dataset, steps=1, fold=1), home=home)
    seen = json.loads((result.checkpoint.parent / "patients.json").read_text())
    assert len(seen) == 7


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        ({"mask": "mush"}, UsageError, "did you mean 'mesh'"),
        ({"mask_options": {"x": 1}}, UsageError, "mask 'mesh' does not take the option 'x'"),
        ({"method": "sparc"}, UsageError, "did you mean 'spark'"),
        ({"encoder": "dynunett"}, UsageError, "did you mean 'dynunet'"),
        ({"encoder_options": {"filter": [4]}}, UsageError, "did you mean 'filters'"),
        ({"size": (18,)}, ShapeError, "use --size 20,20,20"),
        ({"size": (4,)}, ShapeError, "at least 2 cells"),
        ({"cell": (6,)}, ShapeError, "use --cell 8,8,8"),
        ({"dims": 2, "size": (16, 16, 16)}, ShapeError, "--size: expected one or 2 positive sizes"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tiny_dataset, tmp_path, words, kind, message):
    with pytest.raises(kind, match=message) as caught:
        pretrain(settings(tiny_dataset, **words), home=tmp_path / "home")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "home").exists()


def test_a_missing_dataset_is_told(tmp_path):
    with pytest.raises(DataError, match="no dataset at"):
        pretrain(settings(tmp_path / "none"), home=tmp_path / "home")


def test_a_damaged_volume_is_refused_before_a_run_is_recorded(tmp_path, home):
    data = tiny.make_dataset(tmp_path / "data")
    for volume in read_dataset(data).in_split("train"):
        (data / volume.image).write_bytes(b"broken")
    with pytest.raises(MedmimError, match="run `medmim ingest` again"):
        pretrain(settings(data), home=home)
    assert not Store(home).runs(
        stage="pretrain"
    )  # the fingerprint reads the volumes before a run is recorded


def test_a_range_of_ratios_is_told_as_one(tiny_dataset, home):
    words = {"ratio": 0.5, "mask_options": {"max_ratio": 0.8}, "steps": 1}
    tags = Store(home).run(pretrain(settings(tiny_dataset, **words), home=home).run_id).data.tags
    assert (tags["ratio_requested"], tags["ratio_realised"]) == ("0.5–0.8", "0.5000–0.7969")


def test_cells_in_millimetres_are_rounded_printed_and_kept(varied_dataset, home):
    said = []
    result = pretrain(settings(varied_dataset, cell="9mm", steps=1), home=home, log=said.append)
    store = Store(home)
    assert said[-1] == "mask cells of 8×8×8 voxels = 8×8×8 mm"
    assert store.run(result.run_id).data.tags["cell"] == "8×8×8 voxels = 8×8×8 mm"
    assert stored_settings(PretrainSettings, store, result.run_id, data=varied_dataset).cell == (8, 8, 8)


def test_computing_is_a_choice_that_is_kept(tiny_dataset, home):
    store = Store(home)
    for compute in ("packed", "masked"):
        run_id = pretrain(settings(tiny_dataset, compute=compute, steps=1), home=home).run_id
        assert stored_settings(PretrainSettings, store, run_id, data=tiny_dataset).compute == compute


@pytest.mark.parametrize(("batch_size", "seen"), [(4, 16), (70, 1)])
def test_statistics_of_batch_norm_are_left_for_whole_images(tiny_dataset, home, batch_size, seen):
    net = {"encoder": "resnet18", "encoder_options": {"widths": [4, 4, 4, 4], "stem_stride": 1}}
    result = pretrain(settings(tiny_dataset, **net, dims=2, batch_size=batch_size, steps=1), home=home)
    weights = load_file(result.checkpoint)
    counts = {int(value) for key, value in weights.items() if key.endswith("num_batches_tracked")}
    of_encoder = {int(v) for k, v in weights.items() if k.startswith("encoder.") and k.endswith("tracked")}
    assert of_encoder == {seen}
    assert counts == {1, seen}  # the decoder's stay those of its one step


def test_images_that_are_scaled_have_no_millimetres(tiny_dataset, home):
    with pytest.raises(UsageError, match="which 2D images and augment=resized do not have; give voxels"):
        pretrain(settings(tiny_dataset, cell="8mm", augment="resized"), home=home)


@pytest.mark.parametrize("dims", [2, 3])
def test_parts_of_images_can_be_scaled_to_one_size(tiny_dataset, home, dims):
    words = {"augment": "resized", "optimizer": "lamb", "dims": dims, "steps": 1}
    assert pretrain(settings(tiny_dataset, **words), home=home).metrics["last/steps"] == 1


def test_the_arm_is_method_mask_and_ratio():
    assert arm_of(PretrainSettings(mask="random", ratio=0.65)) == "spark random 0.65"


def test_results_are_jsonable(study):
    assert set(study.pretrained.as_json()) >= {"run_id", "checkpoint", "metrics"}
    json.dumps(study.pretrained.as_json(), allow_nan=False)
    assert dataclasses.is_dataclass(study.pretrained)
    assert torch.is_grad_enabled()
