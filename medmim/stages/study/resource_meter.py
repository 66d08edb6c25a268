"""Measures the cost of a training: wall-clock time, peak memory and, if the machine has counters, energy."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import torch

_COUNTERS = Path("/sys/class/powercap")
_BYTES_PER_UNIT = 1 if sys.platform == "darwin" else 1024


class Meter:
    """Measures this process, starting when the meter is created.

    Args:
        counters: folder of the Linux energy counters of CPU packages, in microjoules.
    """

    def __init__(self, counters: Path = _COUNTERS) -> None:
        self._begun = time.monotonic()
        self._counters = [place for place in counters.glob("intel-rapl:[0-9]") if _read(place) is not None]
        self._energy = [_read(place) or 0 for place in self._counters]

    def costs(self) -> dict[str, float]:
        """Return minutes, GB and Wh under stable keys; energy is left out if it cannot be read."""
        found = {
            "cost/minutes": (time.monotonic() - self._begun) / 60,
            "cost/peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _BYTES_PER_UNIT / 1e9,
        }
        if torch.cuda.is_available():
            found["cost/peak_gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        if self._counters:
            found["cost/energy_wh"] = self._microjoule() / 3.6e9
        return found

    def _microjoule(self) -> float:
        spent = 0
        for place, begun in zip(self._counters, self._energy, strict=True):
            now = _read(place) or begun
            wrapped = _read(place, "max_energy_range_uj") or 0
            spent += now - begun if now >= begun else now - begun + wrapped
        return float(spent)


def _read(place: Path, name: str = "energy_uj") -> int | None:
    try:
        return int((place / name).read_text())
    except (OSError, ValueError):
        return None
