"""Processor seconds of a training step of a network with and without bf16 and channels last.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.step_speed --out docs/results/step_speed.csv

The fastest of four steps of AdamW on random images is written.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch

from medmim.encoders import build_encoder
from medmim.heads import build_head

_STEPS = 4


@dataclass(frozen=True)
class Network:
    """A network of a task and the batch that it is timed with."""

    task: str
    encoder: str
    options: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, ...] = (128, 128)
    batch: int = 16


HALF, POOLED = {"widths": [32, 64, 128, 256]}, {"max_pool": True}
NETWORKS = (
    *(
        Network(task, "resnet18", options)
        for task in ("classify", "segment")
        for options in ({}, HALF, POOLED)
    ),
    *(Network(task, "resenc", {"size": "S"}) for task in ("classify", "segment")),
    *(Network("segment", name, {}, (40, 56, 40), 2) for name in ("dynunet", "resenc")),
    Network("segment", "dynunet", {"filters": [32, 64, 128, 256]}, (40, 56, 40), 2),
)


def step_times(networks: Sequence[Network]) -> Iterator[dict[str, Any]]:
    """Yield one row for each network, precision and memory format."""
    for network, bf16, last in product(networks, (False, True), (False, True)):
        torch.manual_seed(0)
        dims = len(network.size)
        encoder = build_encoder(network.encoder, spatial_dims=dims, in_channels=1, **network.options)
        model: Any = build_head(network.task, encoder=encoder, spatial_dims=dims, classes=4)
        images = torch.randn(network.batch, 1, *network.size)
        if last:
            form = torch.channels_last if dims == 2 else torch.channels_last_3d
            model, images = model.to(memory_format=form), images.to(memory_format=form)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        seconds = []
        for _ in range(_STEPS):
            begun = time.process_time()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                loss = model(images).float().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.process_time() - begun)
        weights = sum(one.numel() for one in model.parameters()) / 1e6
        yield {
            "task": network.task,
            "encoder": f"{network.encoder} {network.options or ''}".strip(),
            "size": "×".join(map(str, network.size)),
            "batch": network.batch,
            "bf16": bf16,
            "channels_last": last,
            "million_weights": round(weights, 1),
            "seconds": round(min(seconds), 3),
        }


def main() -> None:
    """Time all networks and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results/step_speed.csv"))
    rows = list(step_times(NETWORKS))
    with parser.parse_args().out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
