"""Transfer of encoder weights, with a report of loaded, adapted, missing and mismatching tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmim.errors import TransferError
from medmim.shapes import Size

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
_COMPUTED = "relative_position_index"  # follows from the window of a Swin transformer; not in timm's files
_KERNEL_AXES = (4, 5)  # axes of a 2D and of a 3D kernel


def adapted(name: str, offered: Tensor, wanted: Size) -> tuple[Tensor, str] | None:
    """Adapt a weight to another shape with the rules of `RULES`, applied in order.

    Returns:
        The adapted weight and the names of the applied rules, or None if the rules do not reach the shape.
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
    """Inflate a 2D kernel to 3D and divide it by its depth (I3D; Carreira and Zisserman, CVPR 2017).

    A volume of identical slices then has the same response as the slice in 2D.
    """
    if weight.dim() != 4 or len(wanted) != 5:
        return None
    return weight.unsqueeze(-1).expand(*weight.shape, wanted[-1]) / wanted[-1]


def _axis(name: str, weight: Tensor, wanted: Size) -> Tensor | None:
    """Append axes of length one: to a layer scale, or to a linear layer that is a 1×1 convolution here."""
    ones = (1,) * (len(wanted) - weight.dim())
    return weight.reshape(wanted) if ones and wanted == (*weight.shape, *ones) else None


def _kernel(name: str, weight: Tensor, wanted: Size) -> Tensor | None:
    """Resample a kernel to another size, for example of a stem with another stride, and keep its sum."""
    if weight.dim() not in _KERNEL_AXES or len(wanted) != weight.dim() or weight.shape[2:] == wanted[2:]:
        return None
    resized = F.interpolate(
        weight.float(), size=wanted[2:], mode=_MODES[weight.dim() - 2], align_corners=False
    )
    cells = torch.tensor(weight.shape[2:]).prod() / torch.tensor(wanted[2:]).prod()
    return (resized * cells).to(weight.dtype)


def _channels(name: str, weight: Tensor, wanted: Size) -> Tensor | None:
    """Distribute the sum over input channels evenly over another number of channels.

    Identical channels then give the same response. Applies to the first layer only: at most `_MAX_CHANNELS`.
    """
    fits = weight.dim() in _KERNEL_AXES and len(wanted) == weight.dim() and weight.shape[0] == wanted[0]
    if not fits or weight.shape[1] == wanted[1] or max(weight.shape[1], wanted[1]) > _MAX_CHANNELS:
        return None
    total = weight.sum(dim=1, keepdim=True)
    return total.expand(-1, wanted[1], *weight.shape[2:]) / wanted[1]


def _positions(name: str, weight: Tensor, wanted: Size) -> Tensor | None:
    """Interpolate position embeddings (1, positions, width) between square or cubic grids."""
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
    """Return the side length of a square or cubic grid of `count` positions, or 0 for any other count."""
    side = round(count ** (1 / dims))
    return side if side > 0 and side**dims == count else 0


_MAX_CHANNELS = 8

# this order adapts a 2D stem with one channel to a 3D stem with four channels and another stride
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
    """Report of a transfer of encoder weights.

    Attributes:
        loaded_fraction: share of the encoder's tensors that were loaded.
        missing: tensors of the encoder that are not in the weights.
        mismatching: tensors whose shapes differ and that no rule adapts.
        unused: tensors in the weights that this encoder does not have.
        changed: adapted tensors, each with the applied rules.
    """

    loaded_fraction: float
    missing: tuple[str, ...]
    mismatching: tuple[str, ...]
    unused: tuple[str, ...]
    changed: tuple[tuple[str, str], ...] = ()

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that adapted tensors, each with their number, and whether deeper blocks were left out."""
        counts = Counter(rule for _, rule in self.changed)
        rules = [f"{rule} ({count})" for rule, count in sorted(counts.items())]
        deeper = len(self.unused)
        return (*rules, *([f"depth cut: tensors of deeper blocks left out ({deeper})"] if deeper else []))

    def lines(self) -> list[str]:
        """Return one line for each kind of adapted, missing and mismatching tensors."""
        rules = sorted({rule for _, rule in self.changed})
        by_rule = {rule: tuple(name for name, other in self.changed if other == rule) for rule in rules}
        lines = [f"{rule}: {_list(names)}" for rule, names in by_rule.items()]
        lines += [f"not in the encoder, left out: {_list(self.unused)}"] if self.unused else []
        lines += [f"not in the weights, newly initialised: {_list(self.missing)}"] if self.missing else []
        lines += [f"of another shape, not loaded: {_list(self.mismatching)}"] if self.mismatching else []
        return lines


def transfer(encoder: nn.Module, weights: Mapping[str, Tensor], *, least: float = 0.99) -> Transfer:
    """Copy the tensors named `encoder.…` into an encoder; adapt tensors of other shapes with `RULES`.

    Raises:
        TransferError: if fewer tensors can be loaded; the message names the first of the others.
    """
    offered = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    wanted = encoder.state_dict()
    missing = tuple(sorted(name for name in wanted.keys() - offered.keys() if not name.endswith(_COMPUTED)))
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
        loaded_fraction=1 - (len(missing) + len(mismatching)) / max(len(wanted), 1),
        missing=missing,
        mismatching=tuple(mismatching),
        unused=tuple(sorted(offered.keys() - wanted.keys())),
        changed=tuple(changed),
    )
    if result.loaded_fraction < least:
        absent = _name(missing, "missing") + _name(result.mismatching, "of another shape")
        raise TransferError(
            f"only {result.loaded_fraction:.1%} of the encoder's {len(wanted)} tensors were loaded, expected "
            f"{least:.0%}: {absent}use the encoder of the pretraining run, or --init scratch"
        )
    encoder.load_state_dict(fitting, strict=False)
    return result


def transfer_decoder(network: nn.Module, weights: Mapping[str, Tensor]) -> int:
    """Copy tensors named `decoder.…` into the tensors of a segmenter that have their names and shapes.

    Methods that pretrain a U-Net, such as dense MAE, provide them.

    Returns:
        The number of copied tensors; 0 where names or shapes of any of them differ, and nothing is changed.
    """
    offered = {
        name.removeprefix("decoder."): value for name, value in weights.items() if name.startswith("decoder.")
    }
    wanted = network.state_dict()
    if any(name not in wanted or wanted[name].shape != value.shape for name, value in offered.items()):
        return 0
    network.load_state_dict(offered, strict=False)
    return len(offered)


def stem_change(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    """Describe changes of the stem since pretraining: weights load, but see images at another scale."""
    keys = [key for key in ("stem_stride", "max_pool", "strides", "patch") if old.get(key) != new.get(key)]
    return "; ".join(f"{key} {old.get(key, 'default')} → {new.get(key, 'default')}" for key in keys)


def _name(names: tuple[str, ...], what: str) -> str:
    return f"{what} {_list(names)}; " if names else ""


def _list(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
