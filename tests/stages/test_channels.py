"""An encoder of one channel in a task of four: BraTS's sequences, from files to files."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from medmim import files
from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.data.dataset.channels import ChannelStack, channels_of, group_channels, select_channels
from medmim.data.dataset.manifest import read_dataset
from medmim.data.formats.nifti import Image, read_image
from medmim.data.formats.write_volume import encode_image
from medmim.data.loading.preprocess import VolumeLoader, preprocess
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.errors import DataError, UsageError
from medmim.stages.evaluate.prediction_source import EvaluationOptions
from medmim.stages.evaluate.run import evaluate
from medmim.stages.export.run import export
from medmim.stages.finetune.run import finetune
from medmim.stages.ingest import ingest
from medmim.stages.predict.run import predict
from medmim.stages.pretrain.run import pretrain
from medmim.stages.unlike_training_data import with_modality
from medmim.tracking.mlflow_store import Store
from medmim.training.tasks.trained_model import load_trained_model

CHANNELS = ("t1+pre", "t1+post", "t2", "flair")
CONTRASTS = ("t1n", "t1c", "t2w", "t2f")
PLAN = PreprocessingPlan(3, (16, 16, 16))


def quiet(line):
    """Take a line for the user."""


def write_visit(root, number, *, contrasts=CONTRASTS, moved=()):
    """One visit in the layout of BraTS; each contrast has grey values of its own."""
    visit = f"BraTS-GLI-{number:05}-000"
    image, label = tiny.blob(np.random.default_rng(number), tiny.SHAPE)
    for place, contrast in enumerate(contrasts):
        affine = np.eye(4)
        affine[0, 3] = 3.0 * (contrast in moved)
        save(root / visit / f"{visit}-{contrast}.nii.gz", image * (place + 1) + 100 * place, affine)
    save(root / visit / f"{visit}-seg.nii.gz", label, np.eye(4))


def save(path, array, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(Image(array, affine)))


@pytest.fixture(scope="module")
def brats(tmp_path_factory):
    """Ten whole visits and one without FLAIR, ingested."""
    root = tmp_path_factory.mktemp("brats")
    for number in range(11):
        write_visit(root / "scans", number, contrasts=CONTRASTS if number else CONTRASTS[:3])
    ingest(root / "scans", root / "data", home=root / "home")
    return root


def test_visits_become_cases_with_channels_in_the_order_asked_for(brats):
    dataset = read_dataset(brats / "data")
    cases, rest = group_channels(dataset.volumes, CHANNELS)
    assert (len(dataset.volumes), len(cases), len(rest)) == (43, 10, 3)
    for case in cases:
        words = [set(one.tokens) for one in channels_of(case)]
        assert words == [{"t1", "pre"}, {"t1", "post"}, {"t2"}, {"flair"}]
        assert {one.subject for one in channels_of(case)} == {case.subject}
        assert case.label
    assert channels_of(dataset.volumes[0]) == (dataset.volumes[0],)
    assert ChannelStack.model_fields.keys() - type(dataset.volumes[0]).model_fields.keys() == {
        "channels",
        "missing",
    }


def test_each_channel_is_normalised_for_itself(brats):
    dataset = read_dataset(brats / "data")
    (case, *_), _ = group_channels(dataset.volumes, CHANNELS)
    made = preprocess(dataset.root, case, PLAN)
    alone = [preprocess(dataset.root, one, PLAN) for one in channels_of(case)]
    assert made.image.shape == (4, *tiny.SHAPE)
    for channel, one in zip(made.image, alone, strict=True):
        np.testing.assert_allclose(channel, one.image[0], atol=1e-6)
    assert made.label.shape == (1, *tiny.SHAPE)


def test_what_is_kept_on_disk_is_told_apart(brats, tmp_path):
    from medmim.data.loading.disk_cache import DiskCache

    dataset = read_dataset(brats / "data")
    (whole, *_), _ = group_channels(dataset.volumes, CHANNELS)
    both, _ = group_channels(dataset.volumes, CHANNELS[:2])  # the visit that lacks one of four is among these
    (fewer,) = (case for case in both if case.id == whole.id)
    for case, count in ((whole, 4), (fewer, 2), (whole, 4)):
        volumes = VolumeLoader(dataset.root, PLAN, cache_gb=1.0, disk=DiskCache(tmp_path, limit_gb=1.0))
        assert len(volumes(case).image) == count


def test_one_channel_serves_four(brats):
    home, said = brats / "home", []
    words = {**tiny.TINY, "data": brats / "data", "steps": 2, "num_evaluations": 1}
    pretrain(PretrainSettings(**words, method_options={"decoder_width": 8}), home=home)
    result = finetune(
        FinetuneSettings(**words, channels="t1+pre,t1+post,t2,flair"), home=home, log=said.append
    )
    assert said[0] == ("excluded 1 visit without exactly one volume per channel: t1+pre, t1+post, t2, flair")
    assert any(line.startswith("channels spread: ") for line in said)
    told = json.loads(result.checkpoint.with_suffix(".json").read_text())
    assert (told["in_channels"], told["channels"]) == (4, list(CHANNELS))
    run = Store(home).run(result.run_id)
    assert run.data.tags["test_patients_seen_in_pretraining"] == "0"
    made = predict(brats / "scans", brats / "out", home=home, model=result.run_id, log=said.append)
    assert len(made.volumes) == 10
    (line,) = (one for one in said if "no flair" in one)
    assert line.startswith("warning: BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1c: no flair (of")
    assert " no flair (of t1+post, t1+pre, t2); expected one volume for each of t1+pre, t1+post" in line
    assert line.endswith(": add what is missing, or use a model trained with channel_dropout")
    options = EvaluationOptions(predictions=brats / "out", split="all")
    evaluation = evaluate(brats / "data", brats / "evaluation", options, home=home, log=quiet)
    assert evaluation.facts["cases"] == 11  # not every channel by itself
    with pytest.raises(DataError, match=r"^refused BraTS-GLI-00000-000-t1c: no flair .*channel_dropout$"):
        predict(
            brats / "scans/BraTS-GLI-00000-000", brats / "out2", home=home, model=result.run_id, log=quiet
        )
    assert set(made.failures.values()) == {"channel_missing"}
    assert len(made.failures) == 3
    found = read_image(next((brats / "out" / "segmentations").rglob("*.nii.gz")))
    assert found.array.shape == tiny.SHAPE
    exported = export("onnx", data=brats / "data", home=home, model=result.run_id, out=brats / "m.onnx")
    assert exported.difference < 1e-4
    with pytest.raises(UsageError, match=r"^--format bundle: the model reads several files of a visit; use"):
        export("bundle", data=brats / "data", home=home, model=result.run_id, out=brats / "bundle", log=quiet)


def test_a_model_trained_with_channel_dropout_predicts_visits_that_lack_a_channel(brats, home):
    words = {**tiny.TINY, "data": brats / "data", "steps": 2, "num_evaluations": 1, "init": "scratch"}
    settings = FinetuneSettings(**words, channels=CHANNELS, channel_dropout=0.4)
    result = finetune(settings, home=home, log=quiet)
    model, said, lacking = result.run_id, [], "BraTS-GLI-00000-000"
    made = predict(brats / "scans", brats / "filled", home=home, model=model, log=said.append)
    assert (len(made.volumes), dict(made.failures)) == (11, {})
    seen, line = made.warnings
    assert seen.startswith("this model was trained on the patient or the voxels of ")
    assert line.endswith(": no flair: filled with 0, the mean after normalisation, as in training")
    assert line.startswith(lacking)
    assert f"warning: {line}" in said
    dataset = read_dataset(brats / "data")
    trained = load_trained_model(result.checkpoint)
    (case,) = (one for one in trained.cases(dataset, incomplete=True)[0] if one.missing)
    prepared = preprocess(dataset.root, case, trained.plan)
    assert prepared.image[:3].std() > 0.5
    assert not prepared.image[3].any()
    images = torch.ones(1, 4, 16, 16, 16)
    zeroed = images.clone()
    zeroed[:, 3] = 0
    with trained.without_channels(case.missing):
        found = trained.network(images)  # also where an image is padded
    assert torch.equal(found, trained.network(zeroed))
    assert not torch.equal(found, trained.network(images))
    unknown = tuple(one.model_copy(update={"modality": "OT"}) for one in case.channels)
    case = case.model_copy(update={"channels": unknown, "missing": (0,)})
    for told, expected in (
        (
            {"modalities": ["CT", "PT"], "channel_modalities": [["MR"], ["CT"], ["PT"], ["CT", "PT"]]},
            "CT PT OT",
        ),
        ({"modalities": ["MR"]}, "MR MR MR"),  # models of earlier versions
    ):
        model = replace(trained, description={"channels": CHANNELS, **told})
        assert [one.modality for one in with_modality(model, case).channels] == expected.split()


def test_channel_dropout_needs_channels():
    with pytest.raises(ValueError, match="expected several channels with channel_dropout"):
        FinetuneSettings(channel_dropout=0.2)


def test_channels_on_different_grids_are_refused(tmp_path):
    write_visit(tmp_path / "scans", 0, moved=("t2w",))
    ingest(tmp_path / "scans", tmp_path / "data", home=tmp_path / "home")
    dataset = read_dataset(tmp_path / "data")
    (case,), _ = group_channels(dataset.volumes, CHANNELS)
    with pytest.raises(
        DataError, match=r"its channels have different grids; expected co-registered"
    ) as caught:
        preprocess(dataset.root, case, PLAN)
    assert caught.value.reason == "channels_differ"


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (
            ["t1c"],
            UsageError,
            r"^channels: expected series tokens such as t1\+post or flair, got 't1c'; known: t1, t2",
        ),
        (["t1", "t1"], UsageError, r"^channels: expected different channels, got t1, t1$"),
        (
            ["t1", "flair"],  # two volumes are T1
            DataError,
            r"^no visit has exactly one volume for each of the channels t1, flair; tokens of the volumes "
            r"are: flair; t1 post; t1 pre; t2$",
        ),
    ],
)
def test_words_that_tell_nothing_are_refused(brats, words, error, message):
    with pytest.raises(error, match=message):
        select_channels(read_dataset(brats / "data"), words, quiet)


def test_without_channels_nothing_changes(brats):
    dataset = read_dataset(brats / "data")
    assert select_channels(dataset, (), quiet) is dataset
    stored = files.read_jsonl(brats / "data" / "manifest.jsonl")
    assert all("channels" not in row for row in stored)
    assert (
        hashlib.sha256((brats / "data" / "manifest.jsonl").read_bytes()).hexdigest()
        == (dataset.info.file_sha256["manifest.jsonl"])
    )


def test_an_encoder_is_pretrained_on_several_channels_and_fine_tuned_on_them(brats, home):
    words = {**tiny.TINY, "data": brats / "data", "channels": CHANNELS[:2], "num_evaluations": 1, "steps": 1}
    pretraining = PretrainSettings(
        **words, more_data=(brats / "data",), hide_channels=0.5, method_options={"decoder_width": 8}
    )
    result = pretrain(pretraining, home=home)
    description = json.loads(result.checkpoint.with_suffix(".json").read_text())
    assert (description["in_channels"], description["channels"]) == (2, ["t1+pre", "t1+post"])
    said = []
    finetune(FinetuneSettings(**words), home=home, log=said.append)  # the newest pretraining on this dataset
    assert "100.0% of the encoder's tensors were loaded from 'spark mesh 0.7 decoder_width=8'" in said
    assert not any("channels spread" in line for line in said)
