"""What became of files that hold several slices: one fate each, however many volumes they went into."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medmim.data.ledger import Ledger
from medmim.data.manifest import Fate


@dataclass(frozen=True)
class _Part:
    fate: Fate
    reason: str
    volume: str | None
    measured: Mapping[str, float]


class Fates:
    """Fates of parts of files, gathered by file; a file with a part in a volume is accepted."""

    def __init__(self) -> None:
        self._parts: dict[int, list[_Part]] = defaultdict(list)

    def add(
        self,
        numbers: Iterable[int],
        fate: Fate,
        reason: str,
        *,
        volume: str | None = None,
        measured: Mapping[str, float] | None = None,
    ) -> None:
        """Note the fate of slices that are in these files."""
        for number in numbers:
            self._parts[number].append(_Part(fate, reason, volume, measured or {}))

    def write(self, ledger: Ledger) -> None:
        """Give each file its row: `…_in_part` where some of its slices were refused."""
        for number, parts in sorted(self._parts.items()):
            accepted = [part for part in parts if part.fate == "accepted"]
            chosen = (accepted or parts)[0]
            measured = dict(chosen.measured)
            reason = chosen.reason
            if accepted and len(parts) > 1:
                measured |= {"volumes": float(len(accepted))}
            if accepted and len(accepted) < len(parts):
                measured |= {"refused_parts": float(len(parts) - len(accepted))}
                reason = f"{reason}_in_part"
            ledger.put([number], chosen.fate, reason, volume=chosen.volume, measured=measured)
