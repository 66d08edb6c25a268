"""Convolutions that PyTorch computes wrongly on a CPU, computed in another way in the whole process.

PyTorch (2.11, 2.13 and 2.15 were tried) leaves convolutions on CPUs with AVX-512 to kernels of oneDNN that
for some shapes read or write memory beyond their tensors: the output, or more often the gradient of the
weight, is then huge, not finite, or merely wrong, and in rare cases the process ends. Random convolutions
with memory filled beforehand (`tests/benchmarks/cpu_convolutions.py`) found these kinds:

- in bf16: maps smaller than the kernel, results of width 1 with a stride, groups, dilation, transposed
  convolutions that do more than double a map, and in 3D strides with a kernel above 3 or with voxels at the
  end that no window reads. These are computed in float32;
- in float32, 3D: kernels of more than 5 voxels along the first axis with a stride, on maps of fewer than two
  kernels along it. These are computed without oneDNN.

The convolutions that take most of a network's time are not among them and stay as they are. Importing this
module replaces the kernels of `aten::convolution` and `aten::convolution_backward` for CPU tensors, so that
every path to them is covered: layers, functions, packed cells, recomputed blocks and both passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import DispatchKey, Tensor

_LONG_KERNEL = 5  # voxels along the first axis
# the kernels stay replaced as long as it exists
_LIBRARY = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
_forward = torch.ops.aten._convolution.default
_backward = partial(torch.ops.aten.convolution_backward.default._op_dk, DispatchKey.CompositeExplicitAutograd)
_CUDNN_FLAGS = (False, False, True, True)  # benchmark, deterministic, enabled, TF32: without effect here


class Options(NamedTuple):
    """The options of a convolution in the order of PyTorch; per axis but for `transposed` and `groups`."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    transposed: bool
    output_padding: Sequence[int]
    groups: int


@dataclass(frozen=True)
class Geometry:
    """A convolution without its values; sizes are in voxels along each axis.

    Attributes:
        space: size of the map, without padding; of the result if transposed.
        out: size of the result; of the map if transposed.
    """

    space: Sequence[int]
    out: Sequence[int]
    kernel: Sequence[int]
    options: Options

    @property
    def reliable_in_bf16(self) -> bool:
        """Whether a CPU computes it in bf16 correctly, forward and backward."""
        options, kernel = self.options, list(self.kernel)
        if options.groups > 1 or max(options.dilation) > 1:
            return False
        if any(voxels < width for voxels, width in zip(self.space, kernel, strict=True)):
            return False
        if not options.transposed and max(options.stride) == 1:
            return True
        if self.out[-1] == 1:
            return False
        if options.transposed:
            return kernel == list(options.stride) and max(kernel) <= 2 and not max(options.padding)
        return len(kernel) == 2 or max(kernel) == 1 or (max(kernel) <= 3 and self._reads_every_voxel)

    @property
    def _reads_every_voxel(self) -> bool:
        axes = (self.space, self.out, self.kernel, self.options.stride, self.options.padding)
        return all((n - 1) * step + k - pad >= voxels for voxels, n, k, step, pad in zip(*axes, strict=True))

    @property
    def reliable_in_float32(self) -> bool:
        """Whether oneDNN computes it in float32 correctly, forward and backward."""
        first = self.kernel[0]
        long = len(self.space) == 3 and first > _LONG_KERNEL and max(self.options.stride) > 1
        return not (long and self.space[0] < 2 * first)


def convolution(values: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
    """Convolve (batch, channels, *space) on a CPU, as `aten::convolution`."""
    rest = (*options, *_CUDNN_FLAGS)
    # sizes are tensors in a trace, which holds the original
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        traced: Tensor = _forward(values, weight, bias, *rest)
        return traced
    given = Options(*options)
    space, kernel = values.shape[2:], weight.shape[2:]
    result = _result_space(space, kernel, given)
    fine, coarse = (result, space) if given.transposed else (space, result)
    geometry = Geometry(fine, coarse, kernel, given)
    found: Tensor = _computed(_forward, rest, geometry, values, weight, bias)
    return found


def _result_space(space: Sequence[int], kernel: Sequence[int], options: Options) -> list[int]:
    """Return the voxels of the result along each axis."""
    reach = [step * (width - 1) + 1 for step, width in zip(options.dilation, kernel, strict=True)]
    axes = zip(space, reach, options.stride, options.padding, options.output_padding, strict=True)
    if options.transposed:
        return [(n - 1) * step - 2 * pad + width + more for n, width, step, pad, more in axes]
    return [(n + 2 * pad - width) // step + 1 for n, width, step, pad, _ in axes]


def convolution_backward(
    gradient: Tensor, values: Tensor, weight: Tensor, bias_sizes: Sequence[int] | None, *options: Any
) -> tuple[Tensor | None, ...]:
    """Return the gradients of values, weight and bias on a CPU, as `aten::convolution_backward`.

    The last option selects those that are needed.
    """
    given = Options(*options[:-1])
    space, out = values.shape[2:], gradient.shape[2:]
    fine, coarse = (out, space) if given.transposed else (space, out)
    geometry = Geometry(fine, coarse, weight.shape[2:], given)
    rest = (bias_sizes, *options)
    found: tuple[Tensor | None, ...] = _computed(_backward, rest, geometry, gradient, values, weight)
    return found


def _computed(
    original: Callable[..., Any], rest: tuple[Any, ...], geometry: Geometry, *tensors: Tensor | None
) -> Any:
    """Run the original kernel where it is reliable; the results have the dtype they would have had."""
    dtype = next(tensor.dtype for tensor in tensors if tensor is not None)
    other = dtype not in (torch.bfloat16, torch.float32)
    if other or (dtype == torch.bfloat16 and geometry.reliable_in_bf16):
        return original(*tensors, *rest)
    with nullcontext() if geometry.reliable_in_float32 else _without_onednn():
        found = original(*(None if one is None else one.float() for one in tensors), *rest)
    if isinstance(found, Tensor):
        return found.to(dtype)
    return tuple(None if one is None else one.to(dtype) for one in found)


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Disable oneDNN; `torch.backends.mkldnn.flags` does so too, with a warning about TF32."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


_LIBRARY.impl("convolution", convolution, "CPU")  # type: ignore[no-untyped-call]
_LIBRARY.impl("convolution_backward", convolution_backward, "CPU")  # type: ignore[no-untyped-call]
