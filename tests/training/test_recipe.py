"""The recipe of a run, chosen from facts of the data and the machine; no image is read."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import tiny

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.data.loading.preprocessing_plan import TrainingFacts
from medmim.encoders import build_encoder
from medmim.training.cost import MACHINES
from medmim.training.recipe import memory_of, recipe, with_recipe

ABDOMEN = TrainingFacts(200, 3, (512, 512, 150), (0.8, 0.8, 3.0))
BRAIN = TrainingFacts(40, 3, (240, 240, 155), (1.0, 1.0, 1.0), channels=4)
CHEST = TrainingFacts(3000, 2, (2000, 2500), (0.143, 0.143))
PICTURES = [tiny.row(shape=(256, 256, 1))]
HIPPOCAMPUS = TrainingFacts(193, 3, (35, 50, 35), (1.0, 1.0, 1.0))


def _chosen(facts: TrainingFacts, machine: str, task: str | None = "segment") -> dict[str, Any]:
    return {one.setting: one.value for one in recipe(facts, MACHINES[machine], task=task)}


@pytest.mark.parametrize("machine", sorted(MACHINES))
@pytest.mark.parametrize("facts", [ABDOMEN, BRAIN, CHEST, HIPPOCAMPUS], ids=["ct", "brain", "xray", "hippo"])
def test_four_data_sets_get_a_recipe_that_fits_each_machine(facts: TrainingFacts, machine: str) -> None:
    """Every choice has a reason; a GPU recipe has at least two patches in a batch and fits its memory."""
    limits = MACHINES[machine]
    choices = recipe(facts, limits, task="segment")
    assert all(one.reason for one in choices)
    found = {one.setting: one.value for one in choices}
    assert found["batch_size"] >= 2
    assert found["steps"] >= 1000
    if limits.gpu:
        options = (found["size"], found["encoder"], found["encoder_options"])
        assert memory_of(facts, *options).of_batch(found["batch_size"]) <= 1024 * limits.memory_gb


@pytest.mark.parametrize(
    ("machine", "task", "size", "batch"),
    [
        ("laptop", None, (40, 56, 40), 4),
        ("laptop", "classify", (40, 56, 40), 4),
        ("laptop", "segment", (32, 40, 32), 2),
        ("gpu_12gb", "segment", (40, 56, 40), 8),
    ],
)
def test_a_small_volume_keeps_its_spacing_and_a_segmenter_on_a_cpu_sees_half_of_it(
    machine: str, task: str | None, size: tuple[int, ...], batch: int
) -> None:
    """The patch is the median hippocampus or half of it, rounded up to the stride of the encoder."""
    found = _chosen(HIPPOCAMPUS, machine, task)
    assert found["size"] == size
    assert found["batch_size"] == batch
    assert "spacing_mm" not in found


def test_a_laptop_resamples_a_large_volume_until_a_patch_sees_an_eighth_of_it() -> None:
    """The target spacing becomes isotropic before it grows further, as in nnU-Net."""
    found = _chosen(ABDOMEN, "laptop")
    spacing = found["spacing_mm"]
    assert max(spacing) / min(spacing) < 1.1
    extent = prod(n * mm for n, mm in zip(ABDOMEN.shape, ABDOMEN.spacing_mm, strict=True))
    assert prod(found["size"]) * prod(spacing) >= extent / 8 * 0.95


def test_thick_slices_are_pooled_later_than_the_finer_axes() -> None:
    """At 0.8 × 0.8 × 3 mm, the first strides leave the slice axis alone."""
    found = _chosen(ABDOMEN, "gpu_24gb")
    assert found["encoder_options"]["strides"][:3] == [[1, 1, 1], [2, 2, 1], [2, 2, 2]]
    assert found["size"][2] < found["size"][0]


@pytest.mark.parametrize("machine", sorted(MACHINES))
@pytest.mark.parametrize("shape", [(20, 18, 14), (12, 12, 5), (9, 9, 3)])
def test_few_voxels_of_thick_slices_get_fewer_stages(machine: str, shape: tuple[int, ...]) -> None:
    """The encoder of the recipe can be built, with as many strides as channels."""
    found = _chosen(TrainingFacts(8, 3, shape, (1.0, 1.0, 2.5)), machine)
    options = found["encoder_options"]
    widths = options.get("filters") or options["features"]
    encoder = build_encoder(found["encoder"], spatial_dims=3, in_channels=1, **options)
    assert len(encoder.channels) == len(options.get("strides", widths)) == len(widths) < 4


def test_a_large_picture_is_scaled_to_the_longest_side_of_the_machine() -> None:
    """A laptop sees an X-ray at 128 pixels; classification scales images without a spacing."""
    assert max(_chosen(CHEST, "laptop")["size"]) == 128
    assert max(_chosen(CHEST, "gpu_12gb")["size"]) == 512
    assert "spacing_mm" not in _chosen(CHEST, "laptop", task="classify")


def test_encoder_and_batch_are_equal_for_every_task_and_for_pretraining() -> None:
    """Otherwise arms of a study would differ in more than their initial weights."""
    for key in ("encoder", "encoder_options", "batch_size", "size"):
        assert (
            len({str(_chosen(HIPPOCAMPUS, "gpu_12gb", task)[key]) for task in (None, "segment", "detect")})
            == 1
        )


def test_settings_of_the_user_stay_and_open_ones_are_filled_in_with_a_line() -> None:
    """The encoder's options belong to the encoder, and the spacing to the size."""
    lines: list[str] = []
    settings = FinetuneSettings(encoder="resnet18", size=(64,), machine="laptop")
    filled = with_recipe(settings, PICTURES, dims=2, log=lines.append)
    assert (filled.encoder_options, filled.spacing_mm, filled.size) == ({}, None, (64,))
    assert (filled.batch_size, filled.steps) == (8, 5800)
    assert any(line.startswith("recipe: batch_size=8 (") for line in lines)


def test_stored_settings_are_complete_and_nothing_is_filled_in() -> None:
    """A resumed run, whose settings are all recorded, keeps its own choices."""
    stored = FinetuneSettings.model_validate(FinetuneSettings(batch_size=3).model_dump())
    assert with_recipe(stored, PICTURES, dims=2) == stored


def test_token_methods_and_pretrained_weights_keep_their_encoder() -> None:
    """A method on patch tokens needs a ViT."""
    filled = with_recipe(PretrainSettings(method="mae", machine="laptop"), PICTURES, dims=2)
    assert filled.encoder is None
    tuned = with_recipe(FinetuneSettings(machine="laptop"), PICTURES, dims=2, pretrained=True)
    assert (tuned.encoder, tuned.encoder_options) == (None, {})
