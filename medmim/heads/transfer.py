"""Transfer of encoder weights: how much arrived is counted, named and, below a threshold, refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmim.errors import TransferError
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


def _axis(name: str, weight: Tensor, wanted: Size) -> Tensor | None:
    """Give a weight that is one number a channel, such as a layer's scale, one axis more."""
    if weight.dim() < 3 or wanted != (*weight.shape, 1) or prod(weight.shape[1:]) != 1:
        return None
    return weight.unsqueeze(-1)


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
    "axis of length one added": _axis,
    "channels spread": _channels,
    "kernel resampled": _kernel,
}

PREFIX = "encoder."


@dataclass(frozen=True)
class Transfer:
    """What became of the tensors of an encoder.

    Attributes:
        loaded_fraction: share of the encoder's tensors that were filled.
        missing: tensors of the encoder that the weights do not hold.
        mismatching: tensors whose shapes differ and that no rule brings together.
        unused: tensors of the weights' encoder that this encoder does not have.
        changed: tensors that a rule brought to another shape, with the rule.
    """

    loaded_fraction: float
    missing: tuple[str, ...]
    mismatching: tuple[str, ...]
    unused: tuple[str, ...]
    changed: tuple[tuple[str, str], ...] = ()

    def lines(self) -> list[str]:
        """Return what the user should know beside the fraction, a line each."""
        rules = sorted({rule for _, rule in self.changed})
        by_rule = {rule: tuple(name for name, other in self.changed if other == rule) for rule in rules}
        said = [f"{rule}: {_list(names)}" for rule, names in by_rule.items()]
        said += [f"new: {_list(self.missing)}"] if self.missing else []
        said += [f"of another shape, left out: {_list(self.mismatching)}"] if self.mismatching else []
        return said


def transfer(encoder: nn.Module, weights: Mapping[str, Tensor], *, least: float = 0.99) -> Transfer:
    """Copy the tensors named `encoder.…` into an encoder; where shapes differ, by a rule of `heads/adapt.py`.

    Args:
        encoder: the network to fill, in place; left as it was when the transfer is refused.
        weights: names → tensors, as `medmim pretrain` and `medmim finetune` write them.
        least: smallest share of the encoder's tensors that must arrive.

    Raises:
        TransferError: if fewer arrive; the message names the first of them.
    """
    offered = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    wanted = encoder.state_dict()
    missing = tuple(sorted(wanted.keys() - offered.keys()))
    fitting, changed, mismatching = {}, [], []
    for name in sorted(wanted.keys() & offered.keys()):
        shape = tuple(wanted[name].shape)
        found = (offered[name], "") if offered[name].shape == shape else adapted(name, offered[name], shape)
        if found is None:
            mismatching.append(name)
            continue
        fitting[name] = found[0]
        changed += [(name, found[1])] if found[1] else []
    result = Transfer(
        loaded_fraction=len(fitting) / max(len(wanted), 1),
        missing=missing,
        mismatching=tuple(mismatching),
        unused=tuple(sorted(offered.keys() - wanted.keys())),
        changed=tuple(changed),
    )
    if result.loaded_fraction < least:
        raise TransferError(
            f"only {result.loaded_fraction:.1%} of the encoder's {len(wanted)} tensors arrived, expected "
            f"{least:.0%}: {_name(missing, 'missing')}{_name(result.mismatching, 'of another shape')}"
            "use the encoder that was pretrained, or --init scratch"
        )
    encoder.load_state_dict(fitting, strict=False)
    return result


def stem_change(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    """Say that the first stride differs from that of pretraining: weights fit, but see another scale.

    Args:
        old: options of the encoder in pretraining.
        new: its options now.
    """
    keys = [key for key in ("stem_stride", "max_pool", "strides", "patch") if old.get(key) != new.get(key)]
    return "; ".join(f"{key} {old.get(key, 'default')} → {new.get(key, 'default')}" for key in keys)


def _name(names: tuple[str, ...], what: str) -> str:
    return f"{what} {_list(names)}; " if names else ""


def _list(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
