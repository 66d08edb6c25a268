"""Masking by multiplication, SparK's scheme, as a tensor-like value: the reference for packed cells.

`mask(images, hidden)` returns a `Masked`, on which any network is called as on a tensor. Hidden voxels are
zero before and after every operation, and norms use visible voxels only, as in SparK (arXiv 2301.03580, sec.
3.2). The mask is part of the value, so that forwards with different masks never interfere, also under
activation checkpointing. All voxels are computed, which makes this the baseline for packed cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from medmim.encoders.sync_batch_norm import synced_batch_norm
from medmim.errors import ShapeError
from medmim.masks import hidden_voxels
from medmim.shapes import Hidden, Images, Size


class MaskPyramid:
    """The mask at every resolution that a network needs, shared by all values of one forward."""

    def __init__(self, hidden: Hidden) -> None:
        self.hidden = hidden
        self._visible: dict[Size, Tensor] = {}

    def visible(self, space: Size) -> Float[Tensor, "batch 1 *space"]:
        """Return 1 at visible and 0 at hidden voxels of a map of size `space`.

        Raises:
            ShapeError: if the size is not a multiple of the grid.
        """
        if space not in self._visible:
            grid = tuple(self.hidden.shape[1:])
            if len(space) != len(grid) or any(n % cells for n, cells in zip(space, grid, strict=True)):
                raise ShapeError(
                    f"a feature map of {'×'.join(map(str, space))} voxels does not divide into a grid of "
                    f"{'×'.join(map(str, grid))} cells: use a --cell that is a multiple of the encoder's "
                    "total stride"
                )
            self._visible[space] = (~hidden_voxels(self.hidden, space)).float()
        return self._visible[space]


class Masked:
    """A dense tensor whose hidden voxels are zero, together with its mask.

    Attributes:
        dense: (batch, channels, *space).
        layout: the mask at all resolutions.
    """

    def __init__(self, dense: Tensor, layout: MaskPyramid) -> None:
        self.dense = dense
        self.layout = layout

    @property
    def shape(self) -> torch.Size:
        """Shape of the dense tensor."""
        return self.dense.shape

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the dense tensor."""
        return self.dense.dtype

    @property
    def device(self) -> torch.device:
        """Device of the dense tensor."""
        return self.dense.device

    def dim(self) -> int:
        """Return the number of axes, batch and channels included."""
        return self.dense.dim()

    def size(self, axis: int | None = None) -> torch.Size | int:
        """Return the shape, or the length of one axis."""
        return self.dense.shape if axis is None else self.dense.shape[axis]

    def unpack(self, fill: float = 0.0) -> Tensor:
        """Return the dense tensor, hidden voxels set to `fill`."""
        if fill == 0.0:
            return self.dense
        return self.dense + fill * (1 - self.visible.to(self.dtype))

    @property
    def visible(self) -> Tensor:
        """Return 1 at visible and 0 at hidden voxels, (batch, 1, *space)."""
        return self.layout.visible(tuple(self.dense.shape[2:]))

    def __add__(self, other: Any) -> Masked:
        return _combine(torch.add, self, other)

    __radd__ = __add__
    __iadd__ = __add__

    def __mul__(self, other: Any) -> Masked:
        return _combine(torch.mul, self, other)

    def __sub__(self, other: Any) -> Masked:
        return _combine(torch.sub, self, other)

    def __rsub__(self, other: Any) -> Masked:
        return _combine(torch.rsub, self, other)

    def __truediv__(self, other: Any) -> Masked:
        return _combine(torch.div, self, other)

    def __pow__(self, other: Any) -> Masked:
        return _combine(torch.pow, self, other)

    def __neg__(self) -> Masked:
        return _combine(torch.mul, self, -1)

    __rmul__ = __mul__

    def __getattr__(self, name: str) -> Any:
        """Reject a tensor method that has no masked form, by name."""
        if not name.startswith("_") and hasattr(Tensor, name):
            raise _no_form(name)
        raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the masked form of `func`.

        Raises:
            ShapeError: if it has none.
        """
        if func not in _FORMS:
            raise _no_form(getattr(func, "__name__", str(func)))
        return _FORMS[func](func, *args, **(kwargs or {}))


def mask(images: Images, hidden: Hidden) -> Masked:
    """Hide cells of images by multiplication.

    Args:
        images: (batch, channels, *space).
        hidden: (batch, *grid), True = hidden; cell = space / grid.

    Raises:
        ShapeError: if the numbers of samples differ, or the grid does not divide the image.
    """
    if images.shape[0] != hidden.shape[0]:
        raise ShapeError(f"expected one mask per sample, got {hidden.shape[0]} for {images.shape[0]} images")
    return _hide(images, MaskPyramid(hidden))


def has_masked_form(func: Callable[..., Any]) -> bool:
    """Return whether an operation has a masked form."""
    return func in _FORMS


def _no_form(name: str) -> ShapeError:
    known = ", ".join(sorted({form.__name__ for form in _FORMS}))
    return ShapeError(f"'{name}' has no masked form: use an encoder without it (known: {known})")


def _hide(dense: Tensor, layout: MaskPyramid) -> Masked:
    visible = layout.visible(tuple(dense.shape[2:]))
    return Masked(dense * visible.to(dense.dtype), layout)


def _dense_then_hide(func: Callable[..., Tensor], value: Masked, *args: Any, **kwargs: Any) -> Masked:
    """Convolution, pooling, resampling, activation, dropout: compute densely, then hide again."""
    return _hide(func(value.dense, *args, **kwargs), value.layout)


def _combine(func: Callable[..., Tensor], first: Any, second: Any, **kwargs: Any) -> Masked:
    """Combine two masked values, or one and a number, parameter or dense map."""
    layout = _shared_layout([value for value in (first, second) if isinstance(value, Masked)])
    dense = [value.dense if isinstance(value, Masked) else value for value in (first, second)]
    return _hide(func(*dense, **kwargs), layout)


def _concatenate(func: Callable[..., Tensor], values: Sequence[Any], dim: int = 0, **kwargs: Any) -> Masked:
    layout = _shared_layout(values)
    if dim % values[0].dim() != 1:
        raise ShapeError(f"masked values are concatenated along channels (dim=1), got dim={dim}")
    return Masked(func([value.dense for value in values], dim=dim, **kwargs), layout)


def _shared_layout(values: Sequence[Any]) -> MaskPyramid:
    """Return the common layout of all values."""
    if not all(isinstance(value, Masked) and value.layout is values[0].layout for value in values):
        raise ShapeError("expected values of one forward, got values with different masks or without any")
    layout: MaskPyramid = values[0].layout
    return layout


def _batch_norm(func: Callable[..., Tensor], value: Masked, *args: Any, **kwargs: Any) -> Masked:
    """Batch norm over the visible voxels of all samples."""
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
    return _grouped_norm(value, value.shape[1], norm.get("weight"), norm.get("bias"), norm.get("eps", 1e-5))


def _group_norm(
    func: Callable[..., Tensor],
    value: Masked,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Masked:
    return _grouped_norm(value, num_groups, weight, bias, eps)


def _grouped_norm(
    value: Masked, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Masked:
    """Normalise each sample's channel groups over its visible voxels, in float32 or wider."""
    batch, channels, *space = value.shape
    wide = torch.promote_types(value.dtype, torch.float32)
    x = value.dense.to(wide).reshape(batch, groups, channels // groups, *space)
    visible = value.visible.to(wide).unsqueeze(1)
    axes = tuple(range(2, x.dim()))
    count = visible.sum(axes, keepdim=True) * (channels // groups)
    mean = x.sum(axes, keepdim=True) / count
    centred = (x - mean) * visible
    variance = centred.square().sum(axes, keepdim=True) / count
    y = (centred * (variance + eps).rsqrt()).reshape(batch, channels, *space)
    per_channel = (1, channels, *[1] * len(space))
    if weight is not None:
        y = y * weight.reshape(per_channel)
    if bias is not None:
        y = y + bias.reshape(per_channel)
    return _hide(y.to(value.dtype), value.layout)


_FORMS: dict[Callable[..., Any], Callable[..., Any]] = {
    **dict.fromkeys(
        (torch.conv2d, torch.conv3d, torch.max_pool2d, torch.max_pool3d, F.max_pool2d, F.max_pool3d),
        _dense_then_hide,
    ),
    **dict.fromkeys((torch._C._nn.avg_pool2d, torch._C._nn.avg_pool3d), _dense_then_hide),
    **dict.fromkeys((torch.conv_transpose2d, torch.conv_transpose3d, F.interpolate), _dense_then_hide),
    **dict.fromkeys(
        (F.relu, torch.relu, torch.relu_, F.leaky_relu, F.relu6, F.hardtanh, F.silu), _dense_then_hide
    ),
    **dict.fromkeys(
        (F.gelu, F.elu, F.mish, F.hardswish, torch.prelu, torch.sigmoid, torch.tanh), _dense_then_hide
    ),
    **dict.fromkeys((F.dropout, F.dropout2d, F.dropout3d), _dense_then_hide),
    **dict.fromkeys((torch.add, torch.mul, torch.sub, torch.div, torch.rsub, torch.pow), _combine),
    **dict.fromkeys((Tensor.add, Tensor.mul, Tensor.sub, Tensor.div, Tensor.pow), _combine),
    **dict.fromkeys(
        (torch.abs, torch.neg, torch.square, torch.exp, F.softplus, F.selu, F.celu), _dense_then_hide
    ),
    **dict.fromkeys((torch.clamp, torch.sqrt, F.hardsigmoid, F.softsign, F.tanhshrink), _dense_then_hide),
    **dict.fromkeys((torch.cat, torch.concat), _concatenate),
    **dict.fromkeys((F.batch_norm, synced_batch_norm), _batch_norm),
    F.instance_norm: _instance_norm,
    F.group_norm: _group_norm,
}
