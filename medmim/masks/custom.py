"""Users' own masks, given as `module:callable`: a subclass of `Mask`, or a function that ranks cells."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import isclass, signature
from typing import Any, ClassVar

import torch
from torch import Tensor

from medmim.config.own_code import import_callable
from medmim.errors import ShapeError, UsageError, size_text
from medmim.masks.base import Mask
from medmim.masks.sampling import MaskRequest
from medmim.shapes import Ranks


@dataclass(frozen=True, kw_only=True)
class CustomMask(Mask):
    """Hide the cells that a user's function ranks highest.

    Attributes:
        rule: takes the `MaskRequest` and the options; returns the ranks (batch, *grid) on the CPU.
        options: keyword arguments for the rule.
        name: `module:callable`, for messages.
    """

    rule: Callable[..., Tensor]
    options: Mapping[str, Any]
    name: str

    uses_tissue: ClassVar[bool] = True

    def rank(self, request: MaskRequest) -> Ranks:
        """Call the function and check its result."""
        return checked_ranks(self.rule(request, **self.options), request, name=self.name)


def checked_ranks(rank: Any, request: MaskRequest, *, name: str) -> Ranks:
    """Return the ranks that a user's code computed."""
    expected = (request.batch, *request.grid)
    shown = size_text(expected)
    if not isinstance(rank, Tensor) or tuple(rank.shape) != expected or rank.device.type != "cpu":
        got = f"{tuple(rank.shape)} on {rank.device}" if isinstance(rank, Tensor) else type(rank).__name__
        raise ShapeError(f"mask {name}: expected a tensor of ranks, {shown} on the CPU, got {got}")
    if rank.dtype == torch.bool or rank.is_complex():
        raise ShapeError(
            f"mask {name}: expected ranks as real numbers, got {rank.dtype}: return a rank per cell, such as "
            "request.noise(); medmim hides the cells with the highest ranks"
        )
    if rank.isnan().any():
        raise ShapeError(f"mask {name}: expected a rank for every cell, got NaN for some")
    return rank


def load_custom_mask(path: str, *, ratio: float, options: Mapping[str, Any]) -> Mask:
    """Import `module:callable` as a mask.

    Args:
        path: a subclass of `Mask`, built with the ratio and the options, or any other callable, called with a
            `MaskRequest` and the options at every draw.
        options: the user's options, including `max_ratio` and `rounding`.
    """
    found = import_callable(path, word="--mask", expected="a subclass of medmim.masks.Mask or a function")
    subclass = isclass(found) and issubclass(found, Mask)
    common = {key: options[key] for key in ("max_ratio", "rounding") if key in options}
    rest = {key: value for key, value in options.items() if key not in common}
    try:
        if subclass:
            signature(found).bind(ratio=ratio, **options)
        else:
            signature(found).bind(None, **rest)
    except TypeError as error:
        raise UsageError(
            f"--mask {path}: cannot be called ({error}); expected a subclass of medmim.masks.Mask, or a "
            f"function of (request{''.join(f', {name}' for name in rest)})"
        ) from error
    if subclass:
        return _with_checked_ranks(_accept_old_flag(found), path)(ratio=ratio, **options)
    return CustomMask(ratio=ratio, **common, rule=found, options=rest, name=path)


def _with_checked_ranks(mask: type[Mask], path: str) -> type[Mask]:
    """Return a subclass of a user's mask whose ranks are checked."""

    def rank(self: Mask, request: MaskRequest) -> Ranks:
        return checked_ranks(mask.rank(self, request), request, name=path)

    return type(mask.__name__, (mask,), {"rank": rank, "__doc__": mask.__doc__})


def _accept_old_flag(mask: type[Mask]) -> type[Mask]:
    """Read `looks_at_tissue`, the name of `uses_tissue` before version 0.2, from a user's own class."""
    if "looks_at_tissue" in vars(mask):
        warnings.warn(
            "Mask.looks_at_tissue is now uses_tissue; the old name will be removed",
            FutureWarning,
            stacklevel=3,
        )
        mask.uses_tissue = bool(vars(mask)["looks_at_tissue"])
    return mask
