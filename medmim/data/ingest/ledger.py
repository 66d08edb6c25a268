"""The fate of every file, gathered while they are read: none is forgotten, none has two."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medmim.data.dataset.manifest import Fate, LedgerRow
from medmim.errors import RunError


@dataclass(frozen=True)
class _SliceOutcome:
    fate: Fate
    reason: str
    volume: str | None
    measured: Mapping[str, float]


class FileOutcomes:
    """Fates of parts of files, gathered by file; a file with a part in a volume is accepted."""

    def __init__(self) -> None:
        self._parts: dict[int, list[_SliceOutcome]] = defaultdict(list)

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
            self._parts[number].append(_SliceOutcome(fate, reason, volume, measured or {}))

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


class Ledger:
    """Rows by the number of the file in the walk."""

    def __init__(self, files: Mapping[int, str]) -> None:
        """Open a ledger.

        Args:
            files: key of each file by its number.
        """
        self._files = dict(files)
        self._rows: dict[int, LedgerRow] = {}

    def add(self, number: int, file: str) -> None:
        """Open a row for a file that was found inside another; `file` is its key."""
        self._files[number] = file

    def put(
        self,
        numbers: Iterable[int],
        fate: Fate,
        reason: str,
        *,
        volume: str | None = None,
        measured: Mapping[str, float] | None = None,
    ) -> None:
        """Give files their fate; numbers that are not finite are left out of `measured`."""
        finite = {name: round(value, 6) for name, value in (measured or {}).items() if math.isfinite(value)}
        for number in numbers:
            if number in self._rows:
                raise RunError(
                    f"file {number} of the walk has two fates: this is a fault of medmim, report it"
                )
            self._rows[number] = LedgerRow(
                number=number,
                file=self._files[number],
                fate=fate,
                reason=reason,
                volume=volume,
                measured=finite,
            )

    def rows(self) -> list[LedgerRow]:
        """Return one row for each file.

        Raises:
            RunError: if a file has no fate.
        """
        if missing := sorted(set(self._files) - set(self._rows)):
            raise RunError(f"file {missing[0]} of the walk has no fate: this is a fault of medmim, report it")
        return [self._rows[number] for number in sorted(self._rows)]

    def summary(self) -> str:
        """Return counts and the commonest reasons in words."""
        rows = self.rows()
        fates = Counter(row.fate for row in rows)
        reasons = Counter(row.reason for row in rows if row.fate != "accepted").most_common(3)
        return (
            f"{len(rows)} files, {fates['quarantined']} quarantined and {fates['skipped']} skipped; "
            f"commonest reasons: {', '.join(f'{reason} ({count})' for reason, count in reasons)}"
        )
