"""The machines that a recipe is made for: a laptop's CPU, a GPU of 8 to 12 GB, and a GPU of 24 to 80 GB."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_LARGE_GPU_GB = 20.0


@dataclass(frozen=True)
class Machine:
    """What a machine can train.

    Attributes:
        title: name for people.
        gpu: whether networks run on a GPU.
        memory_gb: memory for a training.
        longest_side: pixels of the longest side of a 2D patch.
        patch_voxels: voxels of a 3D patch.
        seen_share: smallest share of the median volume that a 3D patch covers; volumes are resampled to a
            coarser spacing until it does. 0: the median spacing is kept.
        resenc: size of the residual encoder; empty: a small network for a CPU.
    """

    title: str
    gpu: bool
    memory_gb: float
    longest_side: int
    patch_voxels: int
    seen_share: float = 0.0
    resenc: str = ""


MACHINES = {
    "laptop": Machine("laptop CPU", False, 8.0, 128, 2**17, seen_share=1 / 8),
    "gpu_12gb": Machine("GPU of 8 to 12 GB", True, 8.0, 512, 128**3, resenc="M"),
    "gpu_24gb": Machine("GPU of 24 to 80 GB", True, 24.0, 768, 160 * 192 * 160, resenc="L"),
}


def machine_for(name: str) -> Machine:
    """Return a machine of the table; `auto` is the one that the program runs on."""
    if name != "auto":
        return MACHINES[name]
    if not torch.cuda.is_available():
        return MACHINES["laptop"]
    total_gb = torch.cuda.get_device_properties(0).total_memory / 1e9
    return MACHINES["gpu_24gb" if total_gb >= _LARGE_GPU_GB else "gpu_12gb"]
