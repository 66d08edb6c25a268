"""Named random streams, keyed by purpose instead of by process.

A stream depends only on the seed, a name and counters such as the sample or step number. A run therefore
draws the same crops and masks with any number of workers, and a resumed run continues the same sequence.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def stream_seed(seed: int, name: str, *counters: int) -> int:
    """Return a 63-bit seed for the stream `name` at `counters`, the same on every machine."""
    # NUL as separator: the stream "crop/1" differs from the stream "crop" at counter 1
    text = "\0".join([str(seed), name, *map(str, counters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def torch_stream(seed: int, name: str, *counters: int) -> torch.Generator:
    """Return a CPU generator for the stream `name` at `counters`."""
    return torch.Generator().manual_seed(stream_seed(seed, name, *counters))


def numpy_stream(seed: int, name: str, *counters: int) -> np.random.Generator:
    """Return a NumPy generator for the stream `name` at `counters`."""
    return np.random.default_rng(stream_seed(seed, name, *counters))
