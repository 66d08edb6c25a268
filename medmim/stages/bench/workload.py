"""Workloads of `medmim bench`: forward and backward passes of an encoder or a SparK step, in each variant."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from medmim.encoders import Encoder, build_encoder, mask, pack
from medmim.errors import UsageError
from medmim.masks import build_mask
from medmim.methods import build_method
from medmim.methods.spark import SparK
from medmim.randomness import torch_stream
from medmim.shapes import Hidden, Images, Size, grid_of
from medmim.stages.plan.trial_run import process_mb


@dataclass(frozen=True)
class Setup:
    """Sizes and parts of a benchmark.

    Attributes:
        size: image size in voxels, per axis.
        cell: mask cell in voxels; empty: the encoder's total stride.
        part: encoder or step.
    """

    dims: int
    encoder: str
    encoder_options: dict[str, Any] = field(default_factory=dict)
    batch: int = 1
    channels: int = 1
    size: Size = ()
    cell: Size = ()
    mask: str = "mesh"
    ratio: float = 0.7
    precision: str = "fp32"
    part: str = "encoder"


def workload(case: Setup, variant: str) -> Callable[[], None]:
    """Return a function that runs one forward and backward pass of a variant."""
    module, forward = forward_of(case, variant)
    kind = next(module.parameters()).device.type

    def run() -> None:
        module.zero_grad(set_to_none=True)
        low = case.precision == "bf16"
        with torch.autocast(kind, dtype=torch.bfloat16) if low else nullcontext():
            outputs = forward()
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
        if kind == "cuda":
            torch.cuda.synchronize()

    return run


def forward_of(case: Setup, variant: str) -> tuple[nn.Module, Callable[[], list[Tensor]]]:
    """Return a variant's module and its forward function, which returns feature maps or the loss."""
    encoder, images, hidden = materials(case)
    if case.part == "encoder":
        return encoder, _encoder_forward(encoder, images, hidden, variant)
    method = _method(case, encoder, variant).to(images.device)
    return method, _step_forward(method, images, hidden, variant)


def peak_of(make: Callable[[], Callable[[], None]]) -> float:
    """Return the growth in MiB of a fresh process during the first run of the function that `make` returns.

    On a CPU: from the resident size with weights and images to the peak, including allocations of all
    libraries. On a GPU: the peak of PyTorch's allocations.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit this process's memory
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(growth_of, make).result()


def growth_of(make: Callable[[], Callable[[], None]]) -> float:
    """Return the growth of this process in MiB during one run of the function that `make` returns."""
    run = make()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() / 2**20
    before = process_mb("VmRSS")
    run()
    return process_mb("VmHWM") - before


def materials(case: Setup) -> tuple[Encoder, Images, Hidden]:
    """Return encoder, random images and hidden cells, equal in every variant."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    encoder = build_encoder(
        case.encoder, spatial_dims=case.dims, in_channels=case.channels, **case.encoder_options
    )
    grid = grid_of(case.size, case.cell or encoder.total_stride)
    images = torch.randn(case.batch, case.channels, *case.size, generator=torch_stream(0, "bench images"))
    rule = build_mask(case.mask, ratio=case.ratio)
    hidden = rule.sample(case.batch, grid, generator=torch_stream(0, "bench masks"))
    return encoder.to(device), images.to(device), hidden.to(device)


def _encoder_forward(
    encoder: Encoder, images: Images, hidden: Hidden, variant: str
) -> Callable[[], list[Tensor]]:
    """Return a forward pass of the encoder alone; feature maps stay packed."""
    if variant == "packed":
        return lambda: [features.values for features in encoder(pack(images, hidden))]
    if variant == "masked":
        return lambda: [features.dense for features in encoder(mask(images, hidden))]
    return lambda: encoder(images)


def _method(case: Setup, encoder: Encoder, variant: str) -> SparK:
    options: dict[str, Any] = {"decoder": "official"} if variant == "official" else {}
    compute = "packed" if variant == "packed" else "masked"
    method = build_method(
        "spark", encoder=encoder, spatial_dims=case.dims, cell=case.cell, compute=compute, **options
    )
    if not isinstance(method, SparK):
        raise UsageError(f"expected SparK, got {type(method).__name__}")
    return method


def _step_forward(method: SparK, images: Images, hidden: Hidden, variant: str) -> Callable[[], list[Tensor]]:
    """Return a forward pass of a whole step; `dense` is the same network as an autoencoder without a mask."""
    if variant != "dense":
        return lambda: [method(images, hidden).loss]

    def forward() -> list[Tensor]:
        maps = method.encoder(images)[::-1]
        parts: Any = zip(method.densify, maps, strict=False)
        prediction = method.decoder([part.project(part.norm(features)) for part, features in parts])
        return [(prediction.float() - images).square().mean()]

    return forward
