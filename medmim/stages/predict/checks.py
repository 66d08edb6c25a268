"""Do scans fit a model? By modality and by kind, as its description tells what it learnt on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from medmim.data.dataset.manifest import VolumeRecord
from medmim.errors import DataError
from medmim.training.tasks.trained_model import TrainedModel

_UNTOLD = "OT"  # such as of NIfTI files


def as_learnt(trained: TrainedModel, volume: VolumeRecord) -> VolumeRecord:
    """Return the volume, taken for the model's own modality where it tells none: CT is normalised otherwise.

    Raises:
        DataError: with reason one_slice_for_3d, for one slice and a 3D network that only saw volumes: padded,
            it would give an answer that means nothing.
    """
    if trained.plan.dims == 3 and min(volume.shape) == 1 and not trained.description.get("pictures", True):
        raise DataError(f"volume {volume.id} is one slice, expected a volume", reason="one_slice_for_3d")
    learnt = trained.description.get("modalities", ())
    if volume.modality != _UNTOLD or len(learnt) != 1:
        return volume
    return volume.model_copy(update={"modality": learnt[0]})


def unlike(
    trained: TrainedModel, volumes: Sequence[VolumeRecord], say: Callable[[str], None]
) -> tuple[str, ...]:
    """Say, and return, which scans the model never learnt on, or must be taken for what it learnt on."""
    learnt = sorted(trained.description.get("modalities", ()))
    if not learnt or _UNTOLD in learnt:
        return ()
    found = Counter(volume.modality for volume in volumes)
    said = [
        f"{count} of {len(volumes)} scans are {modality}, and the model learnt on {', '.join(learnt)}: do "
        "not rely on what it finds in them"
        for modality, count in sorted(found.items())
        if modality not in {*learnt, _UNTOLD}
    ]
    if learnt == ["CT"] and found[_UNTOLD]:
        told = f"{found[_UNTOLD]} of {len(volumes)} scans tell no modality"
        said.append(f"{told}: taken for CT, in Hounsfield units")
    for line in said:
        say(f"warning: {line}")
    return tuple(said)
