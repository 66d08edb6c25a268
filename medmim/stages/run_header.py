"""The first lines of a training: data, network, device, budget, the place of results, and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim.config.runs import FinetuneSettings, RunSettings
from medmim.data.dataset.manifest import THIN, Dataset, VolumeRecord, content_hash, read_dataset
from medmim.data.dataset.splits import partition
from medmim.errors import DataError, UsageError, counted, size_text

if TYPE_CHECKING:
    from torch import nn

    from medmim.data.loading.preprocessing_plan import PreprocessingPlan
    from medmim.shapes import Size

_MISSING = {
    "segment": "labels: ingest them with --labels DIR, or as a layout that has them",
    "classify": "a class: ingest class folders or a class table, or pass --targets FILE.csv --column NAME",
}
_FEW_VOLUMES = 20
_FEW_TEST_PATIENTS = 2
_MUCH_PADDING = 0.6  # share of a patch
_UNEVEN = 2.5  # longest edge of a mask cell, relative to the shortest


def opening_lines(settings: RunSettings, home: Path) -> list[str]:
    """Return what is known before PyTorch is imported: dataset, budget, and where results are written.

    Raises:
        UsageError: for another number of sizes than dimensions.
        DataError: if no volume has a label to segment, or a class.
    """
    dataset = read_dataset(settings.data)
    _check_size(settings, dataset.volumes)
    if isinstance(settings, FinetuneSettings):
        _check_annotations(settings, dataset.volumes)
    divided = partition(dataset, fold=settings.fold)
    parts = (("train", divided.train), ("val", divided.val), ("test", divided.test))
    counts = ", ".join(f"{name} {len(volumes)}" for name, volumes in parts)
    held_out = len(_patients(divided.test))
    lines = [
        f"dataset    {dataset.info.name} at '{settings.data}': {counted(len(dataset.volumes), 'volume')} of "
        f"{counted(len(_patients(dataset.volumes)), 'patient')} ({counts})",
        f"budget     {_budget(settings)}",
        f"results    '{home}'",
    ]
    if held_out <= _FEW_TEST_PATIENTS and settings.fold is None:
        lines.append(
            f"warning: the test split has {counted(held_out, 'patient')}, too few for a conclusion: add "
            "patients, or repeat with --fold 0 to --fold 4"
        )
    return [*lines, *_manifest_lines(dataset)]


def _manifest_lines(dataset: Dataset) -> list[str]:
    """Return a warning if the rows are not those of the hash by which runs are compared."""
    if content_hash(dataset.volumes) == dataset.info.content_hash:
        return []
    return [
        "warning: manifest.jsonl was changed after ingestion: this run counts as one of the unchanged "
        "dataset, so comparisons with its other runs may be wrong; ingest again with --splits, --role or "
        "--subjects"
    ]


def network_lines(
    settings: RunSettings, volumes: Sequence[VolumeRecord], plan: PreprocessingPlan, network: nn.Module
) -> list[str]:
    """Return what a training computes: volumes, patch, encoder, device and precision."""
    import torch

    from medmim.data.loading.preprocessing_plan import voxel_mm
    from medmim.masks.base import cell_words
    from medmim.training.precision import precision_name

    patients = len(_patients(volumes))
    size = size_text(plan.size)
    patch = f"patch      {cell_words(plan.size, voxel_mm(volumes, plan))}, cut from the image"
    if plan.view == "whole":
        patch = f"patch      the whole image, scaled to {size} voxels"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    precision = precision_name(settings.precision)
    lines = [
        f"training   {counted(len(volumes), 'volume')} of {counted(patients, 'patient')}",
        patch,
        f"encoder    {settings.encoder}, {_millions(network.get_submodule('encoder'))} weights of "
        f"{_millions(network)} in the network",
        f"device     {device}, {precision}; {counted(settings.draws_per_step, 'patch', 'patches')} per step",
    ]
    if len(volumes) < _FEW_VOLUMES:
        lines.append(
            f"warning: {counted(len(volumes), 'training volume')}: with fewer than about {_FEW_VOLUMES}, "
            "the score depends mostly on chance"
        )
    if settings.precision == "fp16" and precision == "fp32":
        lines.append("warning: precision=fp16 needs a GPU, so this machine trains in fp32")
    return [*lines, *_padding_lines(volumes, plan)]


def _padding_lines(volumes: Sequence[VolumeRecord], plan: PreprocessingPlan) -> list[str]:
    """Return a warning if most of a patch lies outside the median image."""
    import numpy as np

    from medmim.data.loading.preprocessing_plan import image_sizes, padding_share

    median = np.median(image_sizes(volumes, plan), axis=0)
    share = padding_share(median, plan.size) if plan.view == "patch" else 0.0
    if share <= _MUCH_PADDING:
        return []
    return [
        f"warning: {share:.0%} of a patch is padding, as the median image has "
        f"{'×'.join(f'{length:g}' for length in median)} voxels: choose a smaller --size"
    ]


def view_lines(pretraining: Mapping[str, Any], plan: PreprocessingPlan) -> list[str]:
    """Return a note where `--size` means a different field of view in fine-tuning than in pretraining."""
    crops = bool(pretraining) and pretraining.get("augment", "patch") == "patch"
    if plan.view != "whole" or not crops:
        return []
    return [
        "note: the encoder was pretrained on crops at the resolution of the image, this task sees whole "
        "images scaled to --size: `medmim pretrain --set augment=resized` gives both the same view"
    ]


def cell_lines(cell: Size, voxel_mm: Sequence[float] | None) -> list[str]:
    """Return the size of mask cells, and a warning for cells much longer along one axis."""
    from medmim.masks.base import cell_words

    lines = [f"mask cells of {cell_words(cell, voxel_mm)}"]
    lengths = [count * step for count, step in zip(cell, voxel_mm or (), strict=False)]
    if lengths and max(lengths) > _UNEVEN * min(lengths):
        lines.append(
            f"warning: mask cells are {max(lengths) / min(lengths):.1f} times as long along one axis as "
            f"along another: --cell {max(lengths):.3g}mm gives cells of equal sides"
        )
    return lines


def _check_size(settings: RunSettings, volumes: Sequence[VolumeRecord]) -> None:
    """Refuse another number of sizes than dimensions; volumes of both kinds are left to `plan_for`."""
    kinds = {2 if min(volume.shape) < THIN else 3 for volume in volumes}
    dims = settings.dims or (kinds.pop() if len(kinds) == 1 else None)
    if settings.size and dims and len(settings.size) not in (1, dims):
        raise UsageError(
            f"--size {','.join(map(str, settings.size))}: expected one number of voxels or {dims}, as the "
            f"training is in {dims}D"
        )


def _check_annotations(settings: FinetuneSettings, volumes: Sequence[VolumeRecord]) -> None:
    """Raise for a dataset that lacks what the task learns from, and name the task that it has boxes for."""
    has = {
        "segment": any(one.label for one in volumes),
        "classify": settings.targets or any(one.target is not None for one in volumes),
    }
    if not has.get(settings.task, True):
        boxes = any(one.boxes for one in volumes)
        raise DataError(
            f"this dataset has no image with {_MISSING[settings.task]}"
            f"{', but boxes for `medmim finetune detect`' if boxes else ''}",
            reason="no_labels",
        )


def _budget(settings: RunSettings) -> str:
    length = counted(settings.steps, "step") if settings.steps else "chosen by the recipe"
    if settings.minutes:
        length = f"{counted(settings.minutes, 'minute')} of {settings.time_source} time"
    if settings.epochs:
        length = counted(settings.epochs, "epoch")
    batch = (
        f", {counted(settings.draws_per_step, 'patch', 'patches')} per step"
        if "batch_size" in settings.model_fields_set
        else ""
    )
    return f"{length}{batch}"


def _patients(volumes: Sequence[VolumeRecord]) -> set[str]:
    return {volume.subject for volume in volumes}


def _millions(network: nn.Module) -> str:
    count = sum(parameter.numel() for parameter in network.parameters())
    return f"{count / 1e6:.1f} million" if count >= 1e5 else str(count)
