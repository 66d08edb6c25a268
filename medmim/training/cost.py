"""The cost of a training: parameters, operations and memory, and the machines that recipes are made for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from medmim.methods import Method
from medmim.shapes import Hidden, Images, Size


@dataclass(frozen=True)
class Parameters:
    """The size of a method.

    Attributes:
        encoder_parameters: parameters of the encoder, which is what remains after pretraining.
    """

    parameters: int
    encoder_parameters: int


@dataclass(frozen=True)
class Cost(Parameters):
    """Size and operations of a method.

    Attributes:
        gflop: operations of one forward pass of one image (all of its views), in 10⁹.
        encoder_gflop: operations of the encoder on one whole image, in 10⁹.
    """

    gflop: float
    encoder_gflop: float

    def as_metrics(self) -> dict[str, float]:
        """Return the cost as metrics of a run."""
        return {
            "cost/parameters": float(self.parameters),
            "cost/encoder_parameters": float(self.encoder_parameters),
            "cost/gflop": self.gflop,
            "cost/encoder_gflop": self.encoder_gflop,
        }


def size_of(method: Method) -> Parameters:
    """Count the parameters of a method."""
    return Parameters(
        sum(one.numel() for one in method.parameters() if one.requires_grad),
        sum(one.numel() for one in method.encoder.parameters()),
    )


def cost_of(method: Method, images: Images, hidden: Hidden) -> Cost:
    """Measure the cost of a method; the method and PyTorch's random state do not change."""
    # a copy, because a forward pass updates running statistics; in evaluation mode, where batch norm accepts
    # a single image
    twin = copy.deepcopy(method).eval()
    whole = images[: len(images) // method.views]
    return Cost(
        **asdict(size_of(method)),
        gflop=_gflop(twin, images, hidden, *_truth(method, whole)) / len(whole),
        encoder_gflop=_gflop(twin.encoder, whole) / len(whole),
    )


def _truth(method: Method, images: Images) -> tuple[Tensor, ...]:
    """Return labels of the right shape for a supervised method."""
    if method.label_kind is None:
        return ()
    of_voxels = torch.zeros_like(images[:, :1], dtype=torch.long)
    return (of_voxels if method.label_kind == "label" else of_voxels.flatten(1)[:, 0],)


@torch.no_grad()
def _gflop(network: nn.Module, *inputs: Tensor) -> float:
    # fused attention of the CPU is not counted, the same computation as matrix products is
    with (
        torch.random.fork_rng(devices=[]),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        network(*inputs)
    return float(counter.get_total_flops()) / 1e9


_LARGE_GPU_GB = 20.0


@dataclass(frozen=True)
class Machine:
    """What a machine can train.

    Attributes:
        title: name for people.
        gpu: whether networks run on a GPU.
        memory_gb: memory for a training.
        longest_side: pixels of the longest side of a 2D patch.
        patch_voxels: voxels of a 3D patch.
        seen_share: smallest share of the median volume that a 3D patch covers; volumes are resampled to a
            coarser spacing until it does. 0: the median spacing is kept.
        resenc: size of the residual encoder; empty: a small network for a CPU.
    """

    title: str
    gpu: bool
    memory_gb: float
    longest_side: int
    patch_voxels: int
    seen_share: float = 0.0
    resenc: str = ""


MACHINES = {
    "laptop": Machine("laptop CPU", False, 8.0, 128, 2**17, seen_share=1 / 8),
    "gpu_12gb": Machine("GPU of 8 to 12 GB", True, 8.0, 512, 128**3, resenc="M"),
    "gpu_24gb": Machine("GPU of 24 to 80 GB", True, 24.0, 768, 160 * 192 * 160, resenc="L"),
}


def machine_for(name: str) -> Machine:
    """Return a machine of the table; `auto` is the one that the program runs on."""
    if name != "auto":
        return MACHINES[name]
    if not torch.cuda.is_available():
        return MACHINES["laptop"]
    total_gb = torch.cuda.get_device_properties(0).total_memory / 1e9
    return MACHINES["gpu_24gb" if total_gb >= _LARGE_GPU_GB else "gpu_12gb"]


_WEIGHT_BYTES = 16  # float32 weight, gradient and both moments of AdamW
_TRANSIENT = 1.3  # gradients of feature maps and work space of convolutions, as a multiple of the maps
_VALUE_BYTES = 2  # of a feature map in bf16
_FIXED_MB = 800.0  # libraries and context


@dataclass(frozen=True)
class PredictedMemory:
    """Peak memory of a training step in MiB: weights and libraries, and what every patch adds."""

    fixed_mb: float
    patch_mb: float

    def of_batch(self, patches: int) -> float:
        """Return the memory of a step with a batch of patches, in MiB."""
        return self.fixed_mb + patches * self.patch_mb


def predict_memory(build: Callable[[], nn.Module], *, channels: int, size: Size) -> PredictedMemory:
    """Predict the memory of training a network without running it: the meta device computes shapes only."""
    counts: list[int] = []

    def count(layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not list(layer.children()):
            counts.append(output.numel())

    with torch.device("meta"), torch.no_grad():
        network = build().eval()  # batch norm of a 1 × 1 map
        for layer in network.modules():
            layer.register_forward_hook(count)
        network(torch.zeros(1, channels, *size))
    weights = sum(parameter.numel() for parameter in network.parameters())
    maps = sum(counts) * _VALUE_BYTES * _TRANSIENT
    return PredictedMemory(_FIXED_MB + weights * _WEIGHT_BYTES / 2**20, maps / 2**20)
