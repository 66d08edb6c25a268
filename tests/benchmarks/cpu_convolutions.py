"""Compare random convolutions on the CPU with a higher precision, forward and backward.

    python -m tests.benchmarks.cpu_convolutions            # as medmim computes them
    python -m tests.benchmarks.cpu_convolutions --plain    # as PyTorch computes them

Freed memory is filled before each pass, so that kernels that read beyond their tensors are seen. Each seed
is a process of its own, because kernels that write beyond theirs may end it. Prints a JSON line for
each wrong convolution and the counts of each seed; exits with 1 if one was wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

from convolution_passes import BOUND, FUNCTIONS, passes

_HIGHER = {torch.bfloat16: torch.float32, torch.float32: torch.float64}


def main() -> None:
    """Run the seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--count", type=int, default=250, help="convolutions of a seed")
    parser.add_argument("--seed", type=int, help="run this seed only, in this process")
    given = parser.parse_args()
    if given.seed is not None:
        raise SystemExit(run_seed(given))
    repeated = [*sys.argv[1:], "--seed"]
    command = [sys.executable, "-m", "tests.benchmarks.cpu_convolutions", *repeated]
    codes = [subprocess.run([*command, str(seed)], check=False).returncode for seed in range(given.seeds)]
    ended = sum(code not in (0, 1) for code in codes)
    click.echo(
        json.dumps({"seeds": given.seeds, "with wrong convolutions": codes.count(1), "ended early": ended})
    )
    raise SystemExit(any(codes))


def run_seed(given: argparse.Namespace) -> int:
    """Return 1 if one of the seed's convolutions is wrong."""
    if not given.plain:
        import medmim.encoders.cpu_convolutions  # noqa: F401 - replaces PyTorch's kernels
    random.seed(given.seed)
    torch.manual_seed(given.seed)
    dtype = torch.bfloat16 if given.precision == "bf16" else torch.float32
    wrong, drawn = 0, [one for _ in range(given.count) if (one := draw()) is not None]
    for one in drawn:
        errors = errors_of(one, dtype)
        if not max(errors) < BOUND[dtype]:
            wrong += 1
            click.echo(json.dumps({**one, "errors": [round(error, 4) for error in errors]}))
    click.echo(json.dumps({"seed": given.seed, "convolutions": len(drawn), "wrong": wrong}))
    return int(wrong > 0)


def draw() -> dict[str, Any] | None:
    """Return a random convolution; None where the kernel does not fit into the padded map."""
    dims, transposed = random.choice([2, 3]), random.random() < 0.25
    equal = random.random() < 0.7
    kernel = (
        [random.choice([1, 2, 3, 3, 3, 4, 5, 7])] * dims if equal else random.choices([1, 2, 3, 5], k=dims)
    )
    stride = [random.choice([1, 2, 2, 4])] * dims if random.random() < 0.7 else random.choices([1, 2], k=dims)
    padding = (
        [random.choice([0, k // 2]) for k in kernel] if random.random() < 0.3 else [k // 2 for k in kernel]
    )
    space = random.choices([1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 20, 24], k=dims)
    dilation = 1 if transposed else random.choice([1, 1, 1, 2])
    before, after = random.choice([1, 4, 16, 32, 48, 64, 128]), random.choice([1, 3, 16, 32, 64, 128])
    groups = random.choice([1, 1, 1, 1, 4, before])
    after = before if groups == before else after
    groups = groups if before % groups == 0 and after % groups == 0 else 1
    axes = list(zip(space, kernel, stride, padding, strict=True))
    if transposed:
        fits = all((n - 1) * step - 2 * pad + k > 0 for n, k, step, pad in axes)
    else:
        fits = all(n + 2 * pad > dilation * (k - 1) for n, k, _, pad in axes)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    sizes = (before, after // groups) if transposed else (after, before // groups)
    found = {"transposed": transposed, "values": [random.choice([1, 2, 4]), before, *space]}
    last = random.random() < 0.4
    return {**found, "weight": [*sizes, *kernel], "options": options, "channels_last": last} if fits else None


def errors_of(drawn: dict[str, Any], dtype: torch.dtype) -> list[float]:
    """Return the largest errors of result and gradients, relative to the largest value."""
    dims = len(drawn["weight"]) - 2
    function = FUNCTIONS[dims, drawn["transposed"]]
    values, weight = torch.randn(drawn["values"]).to(dtype), torch.randn(drawn["weight"]).to(dtype)
    if drawn["channels_last"]:
        layout = torch.channels_last if dims == 2 else torch.channels_last_3d
        values = values.contiguous(memory_format=layout)
    higher = _HIGHER[dtype]
    true = function(values.to(higher), weight.to(higher), **drawn["options"])
    upstream = torch.randn_like(true).to(dtype)
    expected = passes(function, values.to(higher), weight.to(higher), upstream.to(higher), **drawn["options"])
    found = passes(function, values, weight, upstream, **drawn["options"])
    return [_error(one, other) for one, other in zip(found, expected, strict=True)]


def _error(found: Tensor, expected: Tensor) -> float:
    if not torch.isfinite(found).all():
        return float("inf")
    return float((found.double() - expected.double()).abs().max() / expected.abs().max().clamp_min(1e-3))


if __name__ == "__main__":
    main()
