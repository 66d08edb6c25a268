"""The cost of a method: parameters, and operations of one forward pass, compared with its encoder alone."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from medmim.methods import Method
from medmim.shapes import Hidden, Images


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
