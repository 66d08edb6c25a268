"""Time and memory of a training step of every method, relative to a supervised step of its encoder.

python tests/benchmarks/method_steps.py [--dims 3] [--encoder NAME] [--runs 5] [--no-memory]

A step is one forward and one backward pass of one batch (two views per image for contrastive methods) with
the method's own update, such as that of an EMA teacher; the optimizer, equal for all, is left out. The
supervised step classifies the mean of the encoder's coarsest feature map into ten classes.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import click
import torch
from torch import Tensor, nn

from medmim.encoders import Encoder, build_encoder
from medmim.masks import build_mask
from medmim.methods import METHODS, Method, build_method
from medmim.randomness import torch_stream
from medmim.shapes import Images, Size, as_size, grid_of
from medmim.stages.bench.workload import peak_of
from medmim.stages.pretrain.setup import usual_encoder
from medmim.training.cost import cost_of

_USUAL = {2: (8, 128), 3: (2, 64)}  # batch and voxels along each axis
_CLASSES = 10


@dataclass(frozen=True)
class Trial:
    """One batch for one method."""

    method: str
    encoder: str
    dims: int
    batch: int
    size: Size
    rule: str
    ratio: float


@dataclass(frozen=True)
class MethodTime:
    """Time, memory and cost of one method; peaks in MiB, costs of one image in 10⁹ operations."""

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


def default_trials(
    dims: int,
    *,
    encoder: str | None = None,
    size: Size | None = None,
    batch: int | None = None,
    rule: str = "mesh",
    ratio: float = 0.7,
) -> list[Trial]:
    """Return a trial for every method, equal but for the encoder, which defaults to the method's own."""
    usual_batch, usual_size = _USUAL[dims]
    space, images = as_size(size or usual_size, dims, what="--size"), batch or usual_batch
    return [
        Trial(name, encoder or usual_encoder(name, dims), dims, images, space, rule, ratio)
        for name in METHODS
    ]


def bench_methods(trials: Sequence[Trial], *, runs: int = 5, memory: bool = True) -> list[MethodTime]:
    """Measure methods; steps alternate with supervised ones."""
    return [_row(trial, runs=runs, memory=memory) for trial in trials]


def method_step(trial: Trial) -> Callable[[], None]:
    """Return a function that runs one step of the method."""
    method, images, hidden = _materials(trial)
    once = partial(_backward, method, lambda: method(images, hidden).loss)

    def step() -> None:
        once()
        method.on_step_end(0.5)

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


@click.command()
@click.option("--dims", type=click.IntRange(2, 3), default=2)
@click.option("--encoder")
@click.option("--runs", type=int, default=5)
@click.option("--memory/--no-memory", default=True)
def main(dims: int, encoder: str | None, runs: int, memory: bool) -> None:
    """Print one line per method."""
    titles = ("method", "encoder", "ms", "×supervised", "peak MiB", "supervised MiB", "GFLOP", "parameters")
    sys.stdout.write("  ".join(f"{title:>14}" for title in titles) + "\n")
    for row in bench_methods(default_trials(dims, encoder=encoder), runs=runs, memory=memory):
        values = (row.milliseconds, row.against_supervised, row.peak_mb, row.supervised_peak_mb, row.gflop)
        numbers = ["–" if value is None else f"{value:.2f}" for value in values]
        cells = [row.method, row.encoder, *numbers, f"{row.parameters}"]
        sys.stdout.write("  ".join(f"{cell:>14}" for cell in cells) + "\n")


if __name__ == "__main__":
    main()
