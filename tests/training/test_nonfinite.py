"""Tests that the process in which a NaN originated is identified when several share a step."""

import logging

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from planted_faults import planted, volumes_of
from small_training import SmallTraining, equal
from torch.utils.data import DataLoader

from medmim.config.runs import PretrainSettings
from medmim.encoders import build_encoder
from medmim.errors import RunError
from medmim.masks import build_mask
from medmim.methods import METHODS, ON_PATCHES, build_method
from medmim.tracking.recorder_interface import MemoryRecorder
from medmim.training.budget import Budget
from medmim.training.lightning_modules import PretrainingModule
from medmim.training.nonfinite import FiniteGuard, NonFiniteFinding, NonFiniteLayer, joined
from medmim.training.resume.checkpoint_files import all_finite, read_state, verified_state

CONV, NORM = NonFiniteLayer(0, "conv"), NonFiniteLayer(1, "norm")
CASES = {
    # a norm over all voxels propagates the NaN of the second process to the first
    "layer": (
        [NonFiniteFinding(True, NORM, None, ("a",)), NonFiniteFinding(True, CONV, None, ("b",))],
        CONV,
        ("b",),
    ),
    "both": (
        [NonFiniteFinding(True, CONV, None, ("a",)), NonFiniteFinding(True, CONV, None, ("b",))],
        CONV,
        ("a", "b"),
    ),
    "loss": (
        [NonFiniteFinding(False, None, "w", ("a",)), NonFiniteFinding(True, None, "w", ("b", "c"))],
        None,
        ("b", "c"),
    ),
    "gradient": (
        [NonFiniteFinding(False, None, "w", ("a",)), NonFiniteFinding(False, None, "w", ("b",))],
        None,
        ("a", "b"),
    ),
}


@pytest.mark.parametrize(("found", "layer", "volumes"), CASES.values(), ids=CASES)
def test_the_process_of_origin_is_named(found, layer, volumes):
    whole = joined(found)
    assert (whole.layer, whole.volumes) == (layer, volumes)
    assert joined(found[::-1]).loss == whole.loss
    assert f"with volumes {', '.join(volumes)} in the batch" in str(whole)


def test_finite_gradients_with_a_non_finite_norm_are_reported():
    found = NonFiniteFinding(loss=False, layer=None, gradient=None, volumes=("a",))
    assert str(found) == "the gradient is not finite, in the norm of all, with volumes a in the batch"


PLACES = {
    "voxel": "the loss is not finite, first in layer 'network.encoder.stages.0.conv1.conv'",
    "layer": "the loss is not finite, first in layer 'network.score'",
    "loss": "the loss is not finite, in the loss itself",
    "gradient": "the gradient is not finite, first in the gradient of 'network.score.bias'",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_non_finite_value_stops_the_run_and_is_named(training, place):
    made = training(checkpoint_every_steps=1)
    module = planted(made.module(), place, {3})
    with pytest.raises(RunError, match=r"^step 4: ") as caught:
        made.run(module=module)
    message, ids = str(caught.value), volumes_of(made, 3)
    named = ids[1] if place == "voxel" else ", ".join(ids)
    assert message.startswith(f"step 4: {PLACES[place]}, with volumes {named} in the batch; lower --lr")
    assert "\n" not in message
    assert made.log.all_tags == {"nonfinite_steps": "1", "nonfinite_policy": "stop"}
    state = read_state(verified_state(made.folder))
    assert state["global_step"] == 3
    assert all_finite(state["state_dict"])


@pytest.mark.parametrize("policy", ["skip", "rollback"])
@pytest.mark.parametrize("place", PLACES)
def test_a_non_finite_value_is_skipped_or_rolled_back_on_request(training, caplog, place, policy):
    made = training(on_nonfinite=policy, checkpoint_every_steps=2)
    module = planted(made.module(), place, {3})
    with caplog.at_level(logging.WARNING, logger="medmim"):
        fitted, weights = made.run(module=module)
    assert fitted.steps == 6
    assert all_finite(weights)
    assert f"step 4: {PLACES[place]}" in caplog.text
    assert made.log.all_tags == {"nonfinite_steps": "1", "nonfinite_policy": policy}
    assert (4, {"train/nonfinite_steps": 1.0}) in made.log.history
    assert all(torch.isfinite(torch.tensor(list(values.values()))).all() for _, values in made.log.history)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_skipped_step_changes_nothing(training, ema):
    made = training(on_nonfinite="skip", checkpoint_every_steps=1, steps=4, ema=ema)
    made.run(module=planted(made.module(), "voxel", {3}))
    before, after = (read_state(path) for path in sorted(made.folder.glob("*.safetensors")))
    assert (before["global_step"], after["global_step"]) == (3, 4)
    assert equal(before["state_dict"], after["state_dict"])
    for moments in zip(*(s["optimizer_states"][0]["state"].values() for s in (before, after)), strict=True):
        assert equal(*moments)


def test_a_rollback_returns_to_the_last_saved_state(training):
    made = training(on_nonfinite="rollback", checkpoint_every_steps=2, steps=4)
    made.run(module=planted(made.module(), "loss", {3}))
    before, after = (read_state(path) for path in sorted(made.folder.glob("*.safetensors")))
    assert (before["global_step"], after["global_step"]) == (2, 4)
    assert equal(before["state_dict"], after["state_dict"])


def test_a_rollback_without_a_saved_state_is_reported(training, caplog):
    made = training(on_nonfinite="rollback", checkpoint_every_steps=2, steps=2)
    with caplog.at_level(logging.WARNING, logger="medmim"):
        made.run(module=planted(made.module(), "loss", {0}))
    assert "in the batch; skipped, since there is no saved state to roll back to yet, 1 so far" in caplog.text
    assert "rolled back" not in caplog.text


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_more_non_finite_steps_than_the_limit_stop_the_run(training, policy):
    made = training(on_nonfinite=policy, nonfinite_limit=2)
    with pytest.raises(RunError, match=r"step 5: .*one more than nonfinite_limit=2 allows"):
        made.run(module=planted(made.module(), "loss", {1, 3, 4}))


def test_the_number_of_non_finite_steps_survives_a_resume(training):
    made = training(on_nonfinite="skip", nonfinite_limit=1, checkpoint_every_steps=1)
    with pytest.raises(RunError, match="step 4: "):
        made.run(module=planted(made.module(), "loss", {1, 3}))
    with pytest.raises(RunError, match=r"step 4: .*nonfinite_limit=1"):
        made.run(module=planted(made.module(), "loss", {3}), resume=True)


def test_a_skipped_step_does_not_change_running_statistics(tiny_dataset, tmp_path):
    class WithStatistics(SmallTraining):
        def module(self):
            module = super().module()
            module.network.score = torch.nn.Sequential(torch.nn.BatchNorm3d(2), module.network.score)
            return module

    made = WithStatistics(tiny_dataset, tmp_path / "run", on_nonfinite="skip", checkpoint_every_steps=1)
    _, weights = made.run(module=planted(made.module(), "voxel", {2}))
    assert weights["network.score.0.num_batches_tracked"] == 5
    assert all_finite(weights)


def pretraining(name):
    """Return a registered method with a small 2D encoder."""
    torch.manual_seed(0)
    vit = name in ON_PATCHES
    words = {"patch": 2, "width": 24, "depth": 2, "heads": 2} if vit else {"filters": (4, 8, 16)}
    kind = "vit" if vit else "dynunet"
    encoder = build_encoder(kind, spatial_dims=2, in_channels=1, **words)
    method = build_method(name, encoder=encoder, spatial_dims=2, cell=(4, 4))
    mask, settings = build_mask("random", ratio=0.5), PretrainSettings(weight_decay=0.0)
    return PretrainingModule(method, mask, cell=(4, 4), settings=settings, budget=Budget(steps=3))


class LossRecorder(L.Callback):
    """Records each loss and, after each batch, whether the whole state is finite."""

    def __init__(self):
        self.losses, self.finite = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(bool(outputs["loss"].isfinite()))
        self.finite.append(all_finite(pl_module.state_dict()))


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_continues_to_train_after_a_skipped_step(tmp_path, name, parts):
    module, listening = pretraining(name), LossRecorder()
    views = [module.method.views] if module.method.views > 1 else []
    images = torch.randn(3 * parts, 4, *views, 1, 16, 16)
    images[parts, 1] = float("nan")  # in the first batch of the second step
    batches = [{"image": one, "draw": torch.arange(4)} for one in images]
    guard = FiniteGuard("skip", limit=1, log=MemoryRecorder(), folder=tmp_path, volume_of=str)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = L.Trainer(
        max_steps=3, accumulate_grad_batches=parts, callbacks=[guard, listening], accelerator="cpu",
        enable_model_summary=False, **quiet,
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches, batch_size=None))
    steps = [all(listening.losses[first : first + parts]) for first in range(0, 3 * parts, parts)]
    assert steps == [True, False, True]
    assert listening.finite[parts - 1 :: parts] == [True] * 3


class _Steep(L.LightningModule):
    """A linear layer whose scaled gradient overflows in fp16 until the scale is small."""

    def __init__(self, slope):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1, bias=False)
        self.slope = slope

    def training_step(self, batch, batch_idx):
        return (self.slope * self.layer(batch["image"]).float()).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def _fit_in_fp16(folder, slope):
    torch.manual_seed(0)
    log, module = MemoryRecorder(), _Steep(slope)
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))
    guard = FiniteGuard("stop", limit=0, log=log, folder=folder, volume_of=str)
    off = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_steps=12, max_epochs=-1, callbacks=[guard], plugins=[scaled], **off
    )
    samples = [{"image": torch.ones(2), "draw": number} for number in range(64)]
    before = module.layer.weight.detach().clone()
    trainer.fit(module, DataLoader(samples, batch_size=2))
    return module.layer.weight - before, scaled.scaler.get_scale(), guard.count


def test_an_overflow_of_the_loss_scale_is_no_fault(tmp_path):
    """The scale is halved until the gradient of 2 · 1000 fits into fp16; then the weights are trained."""
    change, scale, count = _fit_in_fp16(tmp_path, 1000.0)
    assert count == 0
    assert scale <= 32
    assert (change < 0).all()


def test_a_gradient_that_overflows_at_any_scale_stops_the_run(tmp_path):
    with pytest.raises(RunError, match="the gradient is not finite"):
        _fit_in_fp16(tmp_path, 1e6)
