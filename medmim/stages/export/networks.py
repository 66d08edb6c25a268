"""A fine-tuned network as TorchScript or ONNX, and the comparison of its outputs with PyTorch's."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medmim.errors import RunError
from medmim.training.evaluation.inference import MirrorAveraging, RegionProbabilities, all_flips
from medmim.training.tasks.segmentation import Segmentation
from medmim.training.tasks.trained_model import TrainedModel

BATCH_SIZES = (1, 3)


class _Plain(nn.Module):
    """A network that outputs one tensor or a tuple of tensors: detectors return a dictionary of lists."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        out = self.network(images)
        return tuple(one for maps in out.values() for one in maps) if isinstance(out, dict) else out


def _plain(trained: TrainedModel, *, mirror: bool) -> nn.Module:
    """Return the network to export, with the test-time mirroring of a segmenter if `mirror`.

    It outputs logits of classes, but probabilities of regions, which are averaged. In 2D, the axes are those
    of axial slices.
    """
    if isinstance(trained.task, Segmentation):
        axes = [axis + 2 for axis in trained.plan.mirror_axes if axis < trained.plan.dims]
        network = RegionProbabilities(trained.network) if trained.plan.regions else trained.network
        return MirrorAveraging(network, all_flips(axes) if mirror and trained.task.mirror else ()).eval()
    return _Plain(trained.network).eval()


def torchscript(trained: TrainedModel, images: Tensor) -> tuple[bytes, float]:
    """Return the network as TorchScript without mirroring, and its largest difference from PyTorch."""
    network, stream = _plain(trained, mirror=False), io.BytesIO()
    jit: Any = torch.jit  # its functions are untyped
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from tracing, whose assumptions are checked below
        jit.save(jit.trace(network, images[:2], check_trace=False), stream)
        again = jit.load(io.BytesIO(stream.getvalue()))
    return stream.getvalue(), difference(network, lambda batch: _listed(again(batch)), images)


def onnx(trained: TrainedModel, images: Tensor) -> tuple[bytes, float]:
    """Return the network as ONNX, and its largest difference from PyTorch on the images."""
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise RunError(f"--format onnx needs {' and '.join(missing)}: pip install 'medmim[onnx]'")
    import onnxruntime

    network = _plain(trained, mirror=True)
    stream: Any = io.BytesIO()  # torch's annotation only allows paths
    count = len(_listed(network(images[:1])))
    names = ["scores"] if count == 1 else [f"map_{number}" for number in range(count)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        torch.onnx.export(
            network,
            (images[:2],),
            stream,
            input_names=["images"],
            output_names=names,
            dynamic_axes={name: {0: "batch"} for name in ("images", *names)},
            dynamo=False,
        )
    session = onnxruntime.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])

    def run(batch: Tensor) -> list[Tensor]:
        return [torch.from_numpy(one) for one in session.run(None, {"images": batch.numpy()})]

    return stream.getvalue(), difference(network, run, images)


def difference(network: nn.Module, other: Callable[[Tensor], Sequence[Tensor]], images: Tensor) -> float:
    """Return the largest difference between the outputs of two networks, for several batch sizes."""
    largest = 0.0
    with torch.no_grad():
        for size in BATCH_SIZES:
            pairs = zip(_listed(network(images[:size])), other(images[:size]), strict=True)
            largest = max([largest, *(float((one - two).abs().max()) for one, two in pairs)])
    return largest if np.isfinite(largest) else float("inf")


def _listed(out: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else list(out)
