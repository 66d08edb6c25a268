"""Checks whether scans resemble the training data of a model, by its description."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from medmim.data.dataset.manifest import VolumeRecord
from medmim.errors import DataError
from medmim.training.tasks.trained_model import TrainedModel

_UNKNOWN = "OT"  # such as of NIfTI files


def with_modality(trained: TrainedModel, volume: VolumeRecord) -> VolumeRecord:
    """Return the volume with the modality of the training data if it has none: CT has its own normalisation.

    Raises:
        DataError: with reason one_slice_for_3d, for a single slice and a 3D network trained on volumes: the
            prediction for a padded slice would be meaningless.
    """
    if trained.plan.dims == 3 and min(volume.shape) == 1 and not trained.description.get("pictures", True):
        raise DataError(f"volume {volume.id} is one slice, expected a volume", reason="one_slice_for_3d")
    modalities = trained.description.get("modalities", ())
    if volume.modality != _UNKNOWN or len(modalities) != 1:
        return volume
    return volume.model_copy(update={"modality": modalities[0]})


def modality_warnings(
    trained: TrainedModel, volumes: Sequence[VolumeRecord], log: Callable[[str], None]
) -> tuple[str, ...]:
    """Log and return warnings about scans of other or unknown modalities than the training data."""
    trained_on = sorted(trained.description.get("modalities", ()))
    if not trained_on or _UNKNOWN in trained_on:
        return ()
    found = Counter(volume.modality for volume in volumes)
    warnings = [
        f"{count} of {len(volumes)} scans are {modality}, but the model was trained on "
        f"{', '.join(trained_on)}: do not rely on its predictions for them"
        for modality, count in sorted(found.items())
        if modality not in {*trained_on, _UNKNOWN}
    ]
    if trained_on == ["CT"] and found[_UNKNOWN]:
        count = f"{found[_UNKNOWN]} of {len(volumes)} scans have no modality"
        warnings.append(f"{count}: assumed to be CT, in Hounsfield units")
    for line in warnings:
        log(f"warning: {line}")
    return tuple(warnings)
