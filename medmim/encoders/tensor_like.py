"""The base class of masked and packed values: operators and methods of a tensor, run by a table of forms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from medmim.errors import ShapeError

Reduction = Literal["mean", "max", "norm"]
ADVICE = "use an encoder without it"


class TensorLike(ABC):
    """A value on which networks compute as on a tensor; operations without a form are rejected by name.

    Attributes:
        noun: what messages call these values; its first word is the kind.
        layout: what the values of one forward share.
        last: whether the network has moved channels behind the spatial axes (`permute(0, 2, 3, 1)`); the
            memory order of `stored` does not change.
    """

    noun: ClassVar[str]
    layout: Any
    last: bool

    @property
    @abstractmethod
    def stored(self) -> Tensor:
        """The tensor of this value, (…, channels, …)."""

    @abstractmethod
    def like(self, stored: Tensor) -> TensorLike:
        """Return a value with the same mask and axis order, and other contents."""

    @abstractmethod
    def reordered(self, *, last: bool) -> TensorLike:
        """Return this value with another axis order."""

    @abstractmethod
    def over_space(self, kind: Reduction) -> Tensor:
        """Return the mean, maximum or L2 norm over each sample's visible voxels, (batch, channels)."""

    @abstractmethod
    def operand(self, func: Callable[..., Any], other: Any) -> Any:
        """Return an operand of `func` that broadcasts against `stored`."""

    @classmethod
    @abstractmethod
    def form_of(cls, func: Callable[..., Any]) -> Callable[..., Any] | None:
        """Return the function that computes `func` for these values, called as `form(func, …)`; or None."""

    @classmethod
    @abstractmethod
    def no_form(cls, name: str, func: Callable[..., Any] | None = None) -> ShapeError:
        """Return the error for an operation without a form."""

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """Shape of the dense tensor that this value represents."""

    @property
    def channels_axis(self) -> int:
        """Axis of the channels that the network sees."""
        return self.dim() - 1 if self.last else 1

    @property
    def dtype(self) -> torch.dtype:
        """Element type."""
        return self.stored.dtype

    @property
    def device(self) -> torch.device:
        """Device."""
        return self.stored.device

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow through this value."""
        return self.stored.requires_grad

    def unlike(self, what: str, only: str) -> ShapeError:
        """Return the error for a use of an operation that has no form, and the use that has one."""
        return ShapeError(f"{what} has no {self.noun.split()[0]} form, {only}: {ADVICE}")

    def require_channels_first(self, name: str) -> None:
        """Reject an operation on a value whose channels were moved behind the spatial axes."""
        if self.last:
            raise ShapeError(f"'{name}' on channels-last {self.noun}: permute channels back to axis 1 first")

    @property
    def ndim(self) -> int:
        """Number of axes, batch and channels included."""
        return len(self.shape)

    def dim(self) -> int:
        """Return the number of axes, batch and channels included."""
        return len(self.shape)

    def size(self, axis: int | None = None) -> torch.Size | int:
        """Return the shape, or the length of one axis."""
        return self.shape if axis is None else self.shape[axis]

    @property
    def data(self) -> Any:
        """The value without gradient."""
        return self._apply(Tensor.detach, self)

    def contiguous(self, **_: Any) -> Any:
        """Return itself: the memory order is fixed."""
        return self

    def __add__(self, other: Any) -> Any:
        return self._apply(torch.add, self, other)

    def __mul__(self, other: Any) -> Any:
        return self._apply(torch.mul, self, other)

    def __sub__(self, other: Any) -> Any:
        return self._apply(torch.sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._apply(torch.rsub, self, other)

    def __truediv__(self, other: Any) -> Any:
        return self._apply(torch.div, self, other)

    def __pow__(self, other: Any) -> Any:
        return self._apply(torch.pow, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._apply(torch.mul, self._apply(torch.reciprocal, self), other)

    def __rpow__(self, other: Any) -> Any:
        return self._apply(torch.pow, other, self)

    def __neg__(self) -> Any:
        return self._apply(torch.mul, self, -1)

    __radd__ = __iadd__ = __add__
    __rmul__ = __imul__ = __mul__
    __isub__, __itruediv__ = __sub__, __truediv__

    def __getitem__(self, key: Any) -> Any:
        """Index along channels, as in `x[:, :8]` or, with channels last, `x[..., :8]`."""
        keys = key if isinstance(key, tuple) else (key,)
        if Ellipsis in keys:
            place = keys.index(Ellipsis)
            missing = (slice(None),) * (self.dim() + 1 - len(keys))
            keys = (*keys[:place], *missing, *keys[place + 1 :])
        keys = (*keys, *(slice(None),) * (self.dim() - len(keys)))
        chosen = keys[self.channels_axis]
        others = [each for axis, each in enumerate(keys) if axis != self.channels_axis]
        if any(each != slice(None) for each in others) or not isinstance(chosen, slice | list):
            raise self.unlike(f"'indexing' with {key}", "only slices of channels")
        return self.like(self.stored[:, chosen])

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, *_: Any, **__: Any) -> Any:
        """Reject conversion to NumPy by name."""
        raise self.no_form("numpy.asarray")

    def _unconverted(self, *_: Any, **__: Any) -> Any:
        """Reject conversion to a plain tensor by name."""
        raise self.no_form("torch.as_tensor")

    __dlpack__ = __dlpack_device__ = _unconverted

    def __bool__(self) -> bool:
        raise self.no_form("bool")

    def __float__(self) -> float:
        raise self.no_form("float")

    def _uncompared(self, other: Any) -> Any:
        """Reject comparisons by name; without this method, `==` would be False."""
        raise self.no_form("comparison")

    def _unmatched(self, other: Any) -> Any:
        """Reject matrix products by name."""
        raise self.no_form("matmul")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _uncompared
    __hash__ = object.__hash__
    __matmul__ = __rmatmul__ = _unmatched

    def __getattr__(self, name: str) -> Any:
        """Return the form of a tensor method, or reject it by name."""
        method = getattr(Tensor, name, None) if not name.startswith("_") else None
        if method is None:
            raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")
        form = self.form_of(method)
        if form is None:
            raise self.no_form(name)
        return lambda *args, **kwargs: form(method, self, *args, **kwargs)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the form of `func`."""
        form = cls.form_of(func)
        if form is None:
            raise cls.no_form(getattr(func, "__name__", str(func)), func)
        return form(func, *args, **(kwargs or {}))

    def _apply(self, func: Callable[..., Any], *args: Any) -> Any:
        return self.__torch_function__(func, (type(self),), args)
