"""Masking by multiplication, SparK's scheme, as a tensor-like value: the reference for packed cells.

`mask(images, hidden)` returns a `Masked`, on which any network is called as on a tensor. Hidden voxels are
zero before and after every operation, and norms use visible voxels only, as in SparK (arXiv 2301.03580, sec.
3.2). The mask is part of the value, so that forwards with different masks never interfere, also under
activation checkpointing. All voxels are computed, which makes this the baseline for packed cells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from medmim.encoders import masked_forms as forms
from medmim.encoders.batch_norm import synced_batch_norm
from medmim.encoders.shared_forms import ELEMENTWISE, SHARED_FORMS
from medmim.encoders.tensor_like import Reduction, TensorLike
from medmim.errors import ShapeError, size_text
from medmim.masks import hidden_voxels
from medmim.shapes import Hidden, Images, Size


class MaskPyramid:
    """The mask at every resolution that a network needs, shared by all values of one forward."""

    def __init__(self, hidden: Hidden) -> None:
        self.hidden = hidden
        self._visible: dict[Size, Tensor] = {}

    def visible(self, space: Size) -> Float[Tensor, "batch 1 *space"]:
        """Return 1 at visible and 0 at hidden voxels of a map of size `space`."""
        if space not in self._visible:
            grid = tuple(self.hidden.shape[1:])
            if len(space) != len(grid) or any(n % cells for n, cells in zip(space, grid, strict=True)):
                raise ShapeError(
                    f"a feature map of {size_text(space)} voxels does not divide into a grid of "
                    f"{size_text(grid)} cells: use a --cell that is a multiple of the encoder's "
                    "total stride"
                )
            self._visible[space] = (~hidden_voxels(self.hidden, space)).float()
        return self._visible[space]


class Masked(TensorLike):
    """A dense tensor whose hidden voxels are zero, together with its mask; see `TensorLike`.

    Attributes:
        dense: (batch, channels, *space).
        layout: the mask at all resolutions.
    """

    noun: ClassVar[str] = "masked values"

    def __init__(self, dense: Tensor, layout: MaskPyramid, *, last: bool = False) -> None:
        self.dense = dense
        self.layout = layout
        self.last = last

    @property
    def shape(self) -> torch.Size:
        """Shape that the network sees."""
        batch, channels, *space = self.dense.shape
        return torch.Size((batch, *space, channels)) if self.last else self.dense.shape

    @property
    def stored(self) -> Tensor:
        """The dense tensor, channels first."""
        return self.dense

    def like(self, stored: Tensor) -> Masked:
        """Return a value with the same mask and axis order, whose hidden voxels are set to zero."""
        visible = self.layout.visible(tuple(stored.shape[2:]))
        return Masked(stored * visible.to(stored.dtype), self.layout, last=self.last)

    def reordered(self, *, last: bool) -> Masked:
        """Return this value with another axis order."""
        return Masked(self.dense, self.layout, last=last)

    def unpack(self, fill: float = 0.0) -> Tensor:
        """Return the dense tensor, hidden voxels set to `fill`."""
        dense = self.dense if fill == 0.0 else self.dense + fill * (1 - self.visible.to(self.dtype))
        return dense.movedim(1, -1) if self.last else dense

    @property
    def visible(self) -> Tensor:
        """Return 1 at visible and 0 at hidden voxels, (batch, 1, *space)."""
        layout: MaskPyramid = self.layout
        return layout.visible(tuple(self.dense.shape[2:]))

    def over_space(self, kind: Reduction) -> Tensor:
        """Return the mean, maximum or L2 norm over each sample's visible voxels, (batch, channels)."""
        dense, visible = self.dense.flatten(2), self.visible.flatten(2)
        if kind == "mean":
            return dense.sum(dim=2) / visible.sum(dim=2).to(dense.dtype)
        if kind == "max":
            return dense.masked_fill(visible == 0, -torch.inf).amax(dim=2)
        norms: Tensor = torch.linalg.vector_norm(dense, dim=2)
        return norms

    def operand(self, func: Callable[..., Any], other: Any) -> Any:
        """Return an operand of `func`; hidden voxels are 1 if `func` has no value or slope at 0."""
        if isinstance(other, Masked):
            singular = func in _SINGULAR_AT_ZERO
            return other.dense.masked_fill(other.visible == 0, 1) if singular else other.dense
        if not self.last or not isinstance(other, Tensor) or not other.dim():
            return other
        return other.reshape(*[1] * (self.dim() - other.dim()), *other.shape).movedim(-1, 1)

    @classmethod
    def form_of(cls, func: Callable[..., Any]) -> Callable[..., Any] | None:
        """Return the masked form of an operation."""
        return _FORMS.get(func)

    @classmethod
    def no_form(cls, name: str, func: Callable[..., Any] | None = None) -> ShapeError:
        """Return the error for an operation without a masked form."""
        known = ", ".join(sorted({form.__name__ for form in _FORMS}))
        return ShapeError(f"'{name}' has no masked form: use an encoder without it (known: {known})")


def mask(images: Images, hidden: Hidden) -> Masked:
    """Hide cells of images by multiplication; a cell is space / grid."""
    if images.shape[0] != hidden.shape[0]:
        raise ShapeError(f"expected one mask per sample, got {hidden.shape[0]} for {images.shape[0]} images")
    return Masked(images, MaskPyramid(hidden)).like(images)


def has_masked_form(func: Callable[..., Any]) -> bool:
    """Return whether an operation has a masked form."""
    return func in _FORMS


def _elementwise(func: Callable[..., Tensor], value: Masked, *args: Any, **kwargs: Any) -> Masked:
    """Activation or dropout: compute densely, then hide again."""
    return value.like(func(value.operand(func, value), *args, **kwargs))


def _local(func: Callable[..., Tensor], value: Masked, *args: Any, **kwargs: Any) -> Masked:
    """Convolution, pooling, resampling, dropout of channels: compute densely, then hide again."""
    value.require_channels_first(getattr(func, "__name__", str(func)))
    return value.like(func(value.dense, *args, **kwargs))


def _batch_norm(func: Callable[..., Tensor], value: Masked, *args: Any, **kwargs: Any) -> Masked:
    """Batch norm over the visible voxels of all samples."""
    value.require_channels_first("batch_norm")
    keep = value.visible[:, 0].bool()
    rows = value.dense.movedim(1, -1)
    wide = torch.promote_types(value.dtype, torch.float32)
    chosen = rows[keep].to(wide)
    if kwargs.get("training") and len(chosen) < 2:
        raise ShapeError(
            f"batch norm over {len(chosen)} visible voxel of a {tuple(value.shape)} map: expected at least "
            "2; use a larger --batch-size or --size, or a lower --ratio"
        )
    normalised = torch.zeros_like(rows, dtype=wide)
    normalised[keep] = func(chosen, *args, **kwargs)
    return Masked(normalised.movedim(-1, 1).to(value.dtype), value.layout)


def _instance_norm(func: Callable[..., Tensor], value: Masked, **norm: Any) -> Masked:
    """Instance norm: one group per channel."""
    if norm.get("running_mean") is not None or not norm.get("use_input_stats", True):
        raise ShapeError(
            "instance norm with running statistics has no masked form: use track_running_stats=False"
        )
    words = {key: norm[key] for key in ("weight", "bias", "eps") if key in norm}
    return _group_norm(func, value, value.shape[1], **words)


def _group_norm(
    func: Callable[..., Tensor],
    value: Masked,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Masked:
    """Normalise each sample's channel groups over its visible voxels, in float32 or wider."""
    value.require_channels_first("group_norm or instance_norm")
    batch, channels, *space = value.shape
    wide = torch.promote_types(value.dtype, torch.float32)
    x = value.dense.to(wide).reshape(batch, num_groups, channels // num_groups, *space)
    visible = value.visible.to(wide).unsqueeze(1)
    axes = tuple(range(2, x.dim()))
    count = visible.sum(axes, keepdim=True) * (channels // num_groups)
    mean = x.sum(axes, keepdim=True) / count
    centred = (x - mean) * visible
    variance = centred.square().sum(axes, keepdim=True) / count
    y = (centred * (variance + eps).rsqrt()).reshape(batch, channels, *space)
    per_channel = (1, channels, *[1] * len(space))
    if weight is not None:
        y = y * weight.reshape(per_channel)
    if bias is not None:
        y = y + bias.reshape(per_channel)
    return value.like(y.to(value.dtype))


_LOCAL = (
    *(torch.conv2d, torch.conv3d, torch.max_pool2d, torch.max_pool3d, F.max_pool2d, F.max_pool3d),
    *(torch._C._nn.avg_pool2d, torch._C._nn.avg_pool3d, F.pixel_shuffle, F.pixel_unshuffle, F.interpolate),
    *(torch.conv_transpose2d, torch.conv_transpose3d, F.dropout2d, F.dropout3d, torch.prelu),
)
_SINGULAR_AT_ZERO = {torch.div, torch.true_divide, torch.pow, torch.sqrt, torch.rsqrt, torch.reciprocal}
_SINGULAR_AT_ZERO |= {Tensor.div, Tensor.pow, Tensor.sqrt, Tensor.rsqrt}

_FORMS: dict[Callable[..., Any], Callable[..., Any]] = {
    **SHARED_FORMS,
    **dict.fromkeys(_LOCAL, _local),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys((F.batch_norm, synced_batch_norm), _batch_norm),
    F.instance_norm: _instance_norm,
    F.group_norm: _group_norm,
    F.linear: forms.linear,
    F.pad: forms.pad,
}
