"""Named random streams: each draw is keyed by what it is for, never by who happens to draw it.

A stream depends only on the seed, a name and counters (the number of the draw, the number of the step). So
the same run gives the same crops and masks with any number of workers, and a resumed run continues them.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def stream_seed(seed: int, name: str, *counters: int) -> int:
    """Return a 63-bit seed for the stream `name` at `counters`: equal arguments, equal seed, anywhere."""
    text = "\0".join(
        [str(seed), name, *map(str, counters)]
    )  # a NUL: "crop/1" is another stream than "crop", 1
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def torch_stream(seed: int, name: str, *counters: int) -> torch.Generator:
    """Return a CPU generator for the stream `name` at `counters`."""
    return torch.Generator().manual_seed(stream_seed(seed, name, *counters))


def numpy_stream(seed: int, name: str, *counters: int) -> np.random.Generator:
    """Return a NumPy generator for the stream `name` at `counters`."""
    return np.random.default_rng(stream_seed(seed, name, *counters))
