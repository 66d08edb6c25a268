"""What a method costs: parameters, and multiplications and additions of one forward, beside its encoder's."""

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
    """How large a method is.

    Attributes:
        parameters: that training moves.
        encoder_parameters: of the encoder, which is what is kept.
    """

    parameters: int
    encoder_parameters: int


@dataclass(frozen=True)
class Cost(Parameters):
    """Size and work of a method.

    Attributes:
        gflop: of one forward of one image (all of its views), in 10⁹ operations.
        encoder_gflop: of the encoder on one whole image.
    """

    gflop: float
    encoder_gflop: float

    def as_metrics(self) -> dict[str, float]:
        """Return the numbers under the keys of a run."""
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
    """Measure a method; it is left as it was, and so is PyTorch's random state.

    Args:
        method: any method.
        images: (batch, channels, *space): one image, or its views.
        hidden: (batch, *grid).
    """
    # a copy, since a forward moves running statistics; in evaluation, where norms of one image have enough
    twin = copy.deepcopy(method).eval()
    whole = images[: len(images) // method.views]
    return Cost(
        **asdict(size_of(method)),
        gflop=_gflop(twin, images, hidden, *_truth(method, whole)) / len(whole),
        encoder_gflop=_gflop(twin.encoder, whole) / len(whole),
    )


def _truth(method: Method, images: Images) -> tuple[Tensor, ...]:
    """Return labels of the right shape for a method that takes some."""
    if method.label_kind is None:
        return ()
    of_voxels = torch.zeros_like(images[:, :1], dtype=torch.long)
    return (of_voxels if method.label_kind == "label" else of_voxels.flatten(1)[:, 0],)


@torch.no_grad()
def _gflop(network: nn.Module, *inputs: Tensor) -> float:
    # the processor's fused attention is not counted, the same in matrix products is
    with (
        torch.random.fork_rng(devices=[]),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        network(*inputs)
    return float(counter.get_total_flops()) / 1e9
