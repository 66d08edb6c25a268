"""Rules that bring a weight to another shape: channels, 2D to 3D, kernel size, positions. Each has a name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from medmim.shapes import Size

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
_KERNEL_AXES = (4, 5)  # axes of a 2D and of a 3D kernel


def adapted(name: str, offered: Tensor, wanted: Size) -> tuple[Tensor, str] | None:
    """Bring a weight to the wanted shape by the first rule, or pair of rules, that fits.

    Args:
        name: of the tensor.
        offered: as it was trained.
        wanted: the shape that the network has.

    Returns:
        The weight and the names of the rules, or None where no rule fits.
    """
    current = offered
    used: list[str] = []
    for rule, apply in RULES.items():
        changed = apply(name, current, wanted)
        if changed is not None:
            current, used = changed, [*used, rule]
        if current.shape == wanted:
            return current.contiguous(), " + ".join(used)
    return None


def _inflation(name: str, weight: Tensor, wanted: Size) -> Tensor | None:
    """Repeat a 2D kernel along a third axis, divided by its length: a volume of equal slices gives the same.

    As in I3D (Carreira and Zisserman, CVPR 2017).
    """
    if weight.dim() != 4 or len(wanted) != 5:
        return None
    return weight.unsqueeze(-1).expand(*weight.shape, wanted[-1]) / wanted[-1]


def _kernel(name: str, weight: Tensor, wanted: Size) -> Tensor | None:
    """Resample a kernel, such as that of a stem with another stride; its sum stays."""
    if weight.dim() not in _KERNEL_AXES or len(wanted) != weight.dim() or weight.shape[2:] == wanted[2:]:
        return None
    resized = F.interpolate(
        weight.float(), size=wanted[2:], mode=_MODES[weight.dim() - 2], align_corners=False
    )
    cells = torch.tensor(weight.shape[2:]).prod() / torch.tensor(wanted[2:]).prod()
    return (resized * cells).to(weight.dtype)


def _channels(name: str, weight: Tensor, wanted: Size) -> Tensor | None:
    """Spread the mean over input channels evenly over another count of them: equal channels give the same.

    Only where one of the two counts is that of images, at most `_MOST_CHANNELS`.
    """
    fits = weight.dim() in _KERNEL_AXES and len(wanted) == weight.dim() and weight.shape[0] == wanted[0]
    if not fits or weight.shape[1] == wanted[1] or max(weight.shape[1], wanted[1]) > _MOST_CHANNELS:
        return None
    total = weight.sum(dim=1, keepdim=True)
    return total.expand(-1, wanted[1], *weight.shape[2:]) / wanted[1]


def _positions(name: str, weight: Tensor, wanted: Size) -> Tensor | None:
    """Interpolate positions (1, places, width) between square or cubic grids; a class token stays."""
    same = weight.dim() == 3 and len(wanted) == 3 and weight.shape[0] == 1 and weight.shape[2] == wanted[2]
    if not same or "pos" not in name:
        return None
    for token in (0, 1):
        for dims in (2, 3):
            old, new = (_side(count - token, dims) for count in (weight.shape[1], wanted[1]))
            if old and new:
                grid = weight[0, token:].T.reshape(1, -1, *[old] * dims)
                resized = F.interpolate(
                    grid.float(), size=[new] * dims, mode=_MODES[dims], align_corners=False
                )
                places = resized.flatten(2).transpose(1, 2).to(weight.dtype)
                return torch.cat([weight[:, :token], places], dim=1)
    return None


def _side(count: int, dims: int) -> int:
    """Return the side of a grid of `count` places, or 0 where it is no square or cube."""
    side = round(count ** (1 / dims))
    return side if side > 0 and side**dims == count else 0


_MOST_CHANNELS = 8

# in this order, so that a 2D stem of one channel reaches a 3D stem of four with another stride
RULES: dict[str, Callable[[str, Tensor, Size], Tensor | None]] = {
    "positions interpolated": _positions,
    "2D kernel inflated to 3D": _inflation,
    "channels spread": _channels,
    "kernel resampled": _kernel,
}
