"""`medmim bench --methods`: a training step of every method beside a plain supervised step of its encoder.

A step is one forward and one backward of one batch (two views of each image where a method compares views),
and what the method does after it, such as moving a teacher; the optimiser, the same for all, is left out.
The supervised step is the encoder on whole images, the mean of its coarsest map, ten classes, cross entropy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medmim.encoders import Encoder, build_encoder
from medmim.masks import build_mask
from medmim.methods import METHODS, Method, build_method
from medmim.randomness import torch_stream
from medmim.shapes import Images, Size, as_size, grid_of
from medmim.stages.bench.packed_vs_masked import Progress, machine
from medmim.stages.bench.workload import peak_of
from medmim.stages.pretrain.run import usual_encoder
from medmim.training.flops import cost_of

_USUAL = {2: (8, 128), 3: (2, 64)}  # batch and voxels along each axis
_CLASSES = 10


@dataclass(frozen=True)
class Trial:
    """One batch for one method.

    Attributes:
        method: name in the table.
        encoder: name in the table, or module:callable.
        dims: 2 or 3.
        batch: images.
        size: voxels of an image along each axis.
        rule: name in the table of masks.
        ratio: share of cells to hide.
    """

    method: str
    encoder: str
    dims: int
    batch: int
    size: Size
    rule: str
    ratio: float


@dataclass(frozen=True)
class MethodTime:
    """One line of the table.

    Attributes:
        method, encoder: what was measured.
        milliseconds, supervised_milliseconds: median of a step of the method, and of a supervised one.
        against_supervised: how many supervised steps one step of the method takes.
        peak_mb, supervised_peak_mb: growth of a fresh process in a step, in MiB; None: not measured.
        parameters, encoder_parameters: that are trained, and kept.
        gflop, encoder_gflop: 10⁹ operations of a forward of one image, and of the encoder on it as a whole.
    """

    method: str
    encoder: str
    milliseconds: float
    supervised_milliseconds: float
    against_supervised: float
    peak_mb: float | None
    supervised_peak_mb: float | None
    parameters: int
    encoder_parameters: int
    gflop: float
    encoder_gflop: float


@dataclass(frozen=True)
class MethodTimes:
    """The table, what was measured and where."""

    trials: tuple[Trial, ...]
    machine: dict[str, Any]
    rows: tuple[MethodTime, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)


def default_trials(
    dims: int,
    *,
    encoder: str | None = None,
    size: Size | None = None,
    batch: int | None = None,
    rule: str = "mesh",
    ratio: float = 0.7,
) -> list[Trial]:
    """Return a trial for every method of the table, alike but for the encoder.

    Args:
        dims: 2 or 3.
        encoder: of all of them; None: each method's own default.
        size: voxels of an image; None: 128² or 64³.
        batch: images; None: 8, or 2 in 3D.
        rule: name in the table of masks.
        ratio: share of cells to hide.
    """
    usual_batch, usual_size = _USUAL[dims]
    space, images = as_size(size or usual_size, dims, what="--size"), batch or usual_batch
    return [
        Trial(name, encoder or usual_encoder(name, dims), dims, images, space, rule, ratio)
        for name in METHODS
    ]


def bench_methods(
    trials: Sequence[Trial], *, runs: int = 5, memory: bool = True, progress: Progress | None = None
) -> MethodTimes:
    """Measure methods.

    Args:
        trials: one a method.
        runs: of each step, alternating with the supervised one.
        memory: whether peak memory is measured too, in a process for each.
        progress: called with (phase, done, total).
    """
    rows = []
    for number, trial in enumerate(trials):
        if progress:
            progress("methods", number, len(trials))
        rows.append(_row(trial, runs=runs, memory=memory))
    return MethodTimes(tuple(trials), machine() | {"runs": runs}, tuple(rows))


def method_step(trial: Trial) -> Callable[[], None]:
    """Return a function that runs one step of the method."""
    method, images, hidden = _materials(trial)
    once = partial(_backward, method, lambda: method(images, hidden).loss)

    def step() -> None:
        once()
        method.after_step(0.5)

    return step


def supervised_step(trial: Trial) -> Callable[[], None]:
    """Return a function that runs one supervised step of the method's encoder on as many images."""
    method, images, _ = _materials(trial)
    network = _Classifier(method.encoder).to(images.device)
    whole = images[: trial.batch]
    truth = torch.arange(trial.batch, device=images.device) % _CLASSES
    return partial(_backward, network, lambda: nn.functional.cross_entropy(network(whole).float(), truth))


class _Classifier(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.score = nn.Linear(encoder.channels[-1], _CLASSES)

    def forward(self, images: Images) -> Tensor:
        scores: Tensor = self.score(self.encoder(images)[-1].flatten(2).mean(dim=-1))
        return scores


def _materials(trial: Trial) -> tuple[Method, Images, Tensor]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    encoder = build_encoder(trial.encoder, spatial_dims=trial.dims, in_channels=1)
    cell = encoder.total_stride
    method = build_method(trial.method, encoder=encoder, spatial_dims=trial.dims, cell=cell).to(device)
    count = trial.batch * method.views
    images = torch.randn(count, 1, *trial.size, generator=torch_stream(0, "bench images"))
    mask = build_mask(trial.rule, ratio=trial.ratio)
    hidden = mask.sample(count, grid_of(trial.size, cell), generator=torch_stream(0, "bench masks"))
    return method, images.to(device), hidden.to(device)


def _backward(module: nn.Module, forward: Callable[[], Tensor]) -> None:
    module.zero_grad(set_to_none=True)
    torch.autograd.backward(forward())
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _row(trial: Trial, *, runs: int, memory: bool) -> MethodTime:
    steps = (method_step(trial), supervised_step(trial))
    times: tuple[list[float], list[float]] = ([], [])
    for step in steps:  # the first run compiles kernels and fills caches
        step()
    for _ in range(runs):
        for step, taken in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            taken.append(1000 * (time.perf_counter() - start))
    own, supervised = map(statistics.median, times)
    makers = (partial(method_step, trial), partial(supervised_step, trial))
    peaks = [peak_of(maker) if memory else None for maker in makers]
    method, images, hidden = _materials(trial)
    cost = cost_of(method, images[:: trial.batch], hidden[:: trial.batch])  # one image, or its views
    return MethodTime(
        trial.method,
        trial.encoder,
        milliseconds=own,
        supervised_milliseconds=supervised,
        against_supervised=own / supervised,
        peak_mb=peaks[0],
        supervised_peak_mb=peaks[1],
        **asdict(cost),
    )
