"""The second branch of MaskAnyNet: the reuse image of hidden cells, and its fusion with the encoder.

Rows, columns and slices of the grid without hidden cells are removed, so that a window stays a window and a
lattice of windows a lattice, in 2D and 3D. Masks without such a geometry, such as random cells, are written
one cell after the other in grid order.

The paper (arXiv 2511.12480) defines neither the alignment module nor the boundary between shallow and deep
stages; here both are options, and levels count the encoder's maps. Auxiliary maps of another size are resized
to the primary's by linear interpolation.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.errors import UsageError, did_you_mean
from medmim.methods.targets import from_cells, to_cells
from medmim.shapes import Features, Hidden, Images, Size

Canvas = Float[Tensor, "batch channels *canvas"]
Slots = Int[Tensor, "batch cells"]

_LEAST_FILLED = 0.5  # share of the canvas; below it, cells are written one after the other


def stitch(images: Images, hidden: Hidden, cell: Size) -> Canvas:
    """Return the hidden cells side by side on a common canvas of the batch; unused cells are zero."""
    slots, canvas = _slots(hidden)
    return _write(images, hidden, slots, cell=cell, canvas=canvas)


def stitch_visible(images: Images, hidden: Hidden, cell: Size) -> Canvas:
    """Return as many visible cells as are hidden, on the canvas that `stitch` uses for this mask.

    They are evenly spread over the visible cells in grid order; where fewer are visible than hidden, all are
    used, and the rest of the canvas is zero.
    """
    chosen = _as_many_visible(hidden)
    return _write(images, chosen, chosen.flatten(1).cumsum(dim=1) - 1, cell=cell, canvas=_slots(hidden)[1])


def canvas_of(grid: Size, count: int) -> Size:
    """Return the smallest canvas with the proportions of `grid` for `count` cells, in cells along each axis.

    It has at least two cells along each axis of the grid that has: norms of small maps need several values.
    """
    sides = [min(2, length) for length in grid]
    while prod(sides) < count:
        free = [axis for axis in range(len(grid)) if sides[axis] < grid[axis]]
        sides[min(free, key=lambda axis: sides[axis] / grid[axis])] += 1
    return tuple(sides)


def _slots(hidden: Hidden) -> tuple[Slots, Size]:
    """Return the position of each hidden cell on the canvas, and the size of the canvas in cells."""
    grid, dims = tuple(hidden.shape[1:]), hidden.dim() - 1
    flat = hidden.flatten(1)
    count = flat.sum(dim=1)
    others = [[other + 1 for other in range(dims) if other != axis] for axis in range(dims)]
    occupied = [hidden.amax(dim=rest) for rest in others]
    sides = torch.stack([along.sum(dim=1) for along in occupied], dim=1)
    volume = sides.prod(dim=1)
    regular = (count >= _LEAST_FILLED * volume) & (volume < prod(grid)) & (count > 0)
    most = int(count.masked_fill(regular, 0).max())
    tallest = sides.masked_fill(~regular.unsqueeze(1), 0).amax(dim=0).tolist()
    canvas = tuple(max(both) for both in zip(canvas_of(grid, most), tallest, strict=True))
    place = torch.zeros_like(hidden, dtype=torch.int64)
    for axis, (along, side) in enumerate(zip(occupied, canvas, strict=True)):
        rank = (along.cumsum(dim=1) - 1).clamp(min=0)
        place = place * side + rank.reshape(len(rank), *[-1 if other == axis else 1 for other in range(dims)])
    return torch.where(regular.unsqueeze(1), place.flatten(1), flat.cumsum(dim=1) - 1), canvas


def _write(images: Images, chosen: Hidden, slots: Slots, *, cell: Size, canvas: Size) -> Canvas:
    """Write the chosen cells to their slots of an empty canvas."""
    cells = to_cells(images, cell)
    sample, position = chosen.flatten(1).nonzero(as_tuple=True)
    pieces = cells.new_zeros(len(cells), prod(canvas), cells.shape[2])
    pieces[sample, slots[sample, position]] = cells[sample, position]
    return from_cells(pieces, tuple(count * step for count, step in zip(canvas, cell, strict=True)), cell)


def _as_many_visible(hidden: Hidden) -> Hidden:
    """Choose as many visible cells of each sample as are hidden, evenly spread; all where there are fewer."""
    visible = ~hidden.flatten(1)
    number, wanted = visible.cumsum(dim=1), (~visible).sum(dim=1, keepdim=True)
    available = visible.sum(dim=1, keepdim=True).clamp(min=1)
    # choose a visible cell where its share of the wanted number passes the next integer
    taken = number * wanted // available > (number - 1) * wanted // available
    return (visible & taken).reshape(hidden.shape)


LEVELS = ("image", "low", "mid", "decision")
OPERATIONS = ("add", "concat")


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Level and operation of the fusion of the two branches.

    Levels count maps, not layers: `low` is the first stage of a convolutional encoder, but the first of a
    vision transformer's four maps follows 3 of its 12 blocks. `decision` fuses the last maps of two complete
    encoders before the head. For an encoder of one map, `low` equals `decision`.

    Attributes:
        level: image (before the encoder), low (after its first map), mid (after the middle one of three or
            more; of four, the second) or decision (after the last one).
        operation: add (primary + align(auxiliary)) or concat (align of the concatenation).
        kernel: kernel of the alignment's three convolutions, odd; 0: no alignment; `concat` then uses one 1×1
            convolution.
        width: channels between these convolutions, relative to the encoder's at that level.
    """

    level: str = "low"
    operation: str = "concat"
    kernel: int = 3
    width: float = 1.0

    def __post_init__(self) -> None:
        """Check names and sizes."""
        for what, word, known in (("level", self.level, LEVELS), ("operation", self.operation, OPERATIONS)):
            if word not in known:
                raise UsageError(
                    f"method_options: fusion: unknown {what} '{word}'{did_you_mean(word, known)}"
                )
        if self.kernel < 0 or (self.kernel and self.kernel % 2 == 0) or self.width <= 0:
            raise UsageError(
                "method_options: fusion: expected an odd kernel (0: no alignment) and a width above 0, got "
                f"kernel {self.kernel} and width {self.width:g}"
            )

    def depth(self, encoder: Encoder) -> int:
        """Return the number of encoder maps before the fusion; 0 is before the encoder.

        Raises:
            UsageError: for a level between the maps of an encoder that cannot be cut, or without a middle
                map.
        """
        maps = len(encoder.channels)
        if self.level in ("low", "mid") and not encoder.steps():
            raise UsageError(
                f"method_options: fusion: level '{self.level}' needs an encoder that can be cut between its "
                f"maps, which {type(encoder).__name__} cannot; use level image or decision"
            )
        if self.level == "mid" and maps < 3:
            raise UsageError(
                f"method_options: fusion: level 'mid' needs an encoder of three maps or more, and "
                f"{type(encoder).__name__} has {maps}; use level low"
            )
        return {"image": 0, "low": 1, "mid": (maps + 1) // 2, "decision": maps}[self.level]


class Fusion(nn.Module):
    """Fuse an auxiliary map into a primary one with as many channels."""

    def __init__(self, spatial_dims: int, channels: int, how: FusionConfig) -> None:
        super().__init__()
        self.adds = how.operation == "add"
        entering = channels if self.adds else 2 * channels
        self.align: nn.Module = nn.Identity()
        if how.kernel:
            self.align = _alignment(spatial_dims, entering, channels, how)
        elif not self.adds:
            self.align = Conv[Conv.CONV, spatial_dims](entering, channels, 1)

    def forward(self, primary: Features, auxiliary: Features) -> Features:
        """Return the fused map, with the primary's size and channels."""
        space = tuple(primary.shape[2:])
        if tuple(auxiliary.shape[2:]) != space:
            mode = "bilinear" if len(space) == 2 else "trilinear"
            auxiliary = F.interpolate(auxiliary, size=space, mode=mode, align_corners=False)
        fused: Tensor = (
            primary + self.align(auxiliary)
            if self.adds
            else self.align(torch.cat([primary, auxiliary], dim=1))
        )
        return fused


class TwoBranchEncoder(nn.Module):
    """The auxiliary branch and its fusion into the encoder's maps at one level.

    The branch is a copy of the encoder up to that level, with its own weights; at level `image` there is
    none. The encoder itself is an argument of `forward` and not part of this module.
    """

    def __init__(self, encoder: Encoder, *, spatial_dims: int, how: FusionConfig) -> None:
        super().__init__()
        self.depth = how.depth(encoder)
        self.branch: nn.Module = nn.Identity()
        if self.depth == len(encoder.channels):
            self.branch = copy.deepcopy(encoder)
        elif self.depth:
            self.branch = copy.deepcopy(nn.Sequential(*encoder.steps()[: self.depth]))
        channels = encoder.channels[self.depth - 1] if self.depth else encoder.in_channels
        self.fusion = Fusion(spatial_dims, channels, how)

    def forward(self, encoder: Encoder, primary: Images, auxiliary: Canvas) -> list[Features]:
        """Return the encoder's maps, fine to coarse; maps from the fusion level on depend on both images."""
        seen = self.branch(auxiliary)
        if self.depth == 0:
            fused: list[Features] = encoder(self.fusion(primary, seen))
            return fused
        if self.depth == len(encoder.channels):
            *finer, last = encoder(primary)
            return [*finer, self.fusion(last, seen[-1])]
        maps: list[Features] = []
        x = primary
        for number, step in enumerate(encoder.steps(), start=1):
            x = self.fusion(step(x), seen) if number == self.depth else step(x)
            maps.append(x)
        return maps


def _alignment(spatial_dims: int, entering: int, channels: int, how: FusionConfig) -> nn.Module:
    """Return three convolutions with batch norm and ReLU between them."""
    conv, norm = Conv[Conv.CONV, spatial_dims], Norm[Norm.BATCH, spatial_dims]
    between, kernel, padding = max(1, round(how.width * channels)), how.kernel, how.kernel // 2
    return nn.Sequential(
        conv(entering, between, kernel, padding=padding, bias=False),
        norm(between),
        nn.ReLU(),
        conv(between, between, kernel, padding=padding, bias=False),
        norm(between),
        nn.ReLU(),
        conv(between, channels, kernel, padding=padding),
    )
