"""A user's own mask, `module:callable`: a subclass of `Mask`, or a function that ranks cells."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import isclass, signature
from typing import Any, ClassVar

from torch import Tensor

from medmim.errors import ShapeError, UsageError
from medmim.masks.base import Mask
from medmim.masks.sampling import MaskRequest
from medmim.shapes import Ranks


@dataclass(frozen=True, kw_only=True)
class CustomMask(Mask):
    """Hide the cells that a user's function ranks highest.

    Attributes:
        rule: takes the `MaskRequest` and the options; returns each cell's rank, (batch, *grid), on the CPU.
        options: keyword arguments for the rule.
        name: `module:callable`, for messages.
    """

    rule: Callable[..., Tensor]
    options: Mapping[str, Any]
    name: str

    looks_at_tissue: ClassVar[bool] = True  # it may

    def rank(self, draw: MaskRequest) -> Ranks:
        """Ask the function, and look at what it gives.

        Raises:
            ShapeError: if it gives anything but one number a cell.
        """
        rank = self.rule(draw, **self.options)
        expected = (draw.batch, *draw.grid)
        shown = "×".join(map(str, expected))
        if not isinstance(rank, Tensor) or tuple(rank.shape) != expected or rank.device.type != "cpu":
            got = f"{tuple(rank.shape)} on {rank.device}" if isinstance(rank, Tensor) else type(rank).__name__
            raise ShapeError(f"mask {self.name}: expected a tensor of ranks, {shown} on the cpu, got {got}")
        if rank.isnan().any():
            raise ShapeError(f"mask {self.name}: expected a rank for every cell, got NaN for some")
        return rank


def load_custom_mask(path: str, *, ratio: float, options: Mapping[str, Any]) -> Mask:
    """Import `module:callable` and make a mask of it.

    Args:
        path: where it is; a subclass of `Mask` is built with the ratio and the options, any other callable is
            called with a `MaskRequest` and the options at every draw.
        ratio: share of cells to hide.
        options: what the user gave, `max_ratio` included.

    Raises:
        UsageError: if it cannot be imported, or does not take these options.
    """
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:  # ValueError: an empty module name
        raise UsageError(
            f"--mask {path}: cannot import it ({error}); expected an importable 'module:callable'"
        ) from error
    subclass = isclass(found) and issubclass(found, Mask)
    rest = {key: value for key, value in options.items() if key != "max_ratio"}
    try:
        if subclass:
            signature(found).bind(ratio=ratio, **options)
        else:
            signature(found).bind(None, **rest)
    except TypeError as error:
        raise UsageError(
            f"--mask {path}: cannot be called ({error}); expected a subclass of medmim.masks.Mask, or a "
            f"function of a draw{''.join(f', {name}' for name in rest)}"
        ) from error
    if subclass:
        built: Mask = found(ratio=ratio, **options)
        return built
    return CustomMask(ratio=ratio, max_ratio=options.get("max_ratio"), rule=found, options=rest, name=path)
