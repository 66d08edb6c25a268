"""The ledger of an ingestion: exactly one outcome, with its reason, for every file of the source."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from medmim.data.dataset.manifest import Fate, LedgerRow
from medmim.errors import RunError, counted


class _SliceOutcome(NamedTuple):
    fate: Fate
    reason: str
    volume: str | None
    measured: Mapping[str, float]


class FileOutcomes:
    """Outcomes of slices, grouped by file; a file is accepted if any of its slices is in a volume."""

    def __init__(self) -> None:
        self._slices: dict[int, list[_SliceOutcome]] = defaultdict(list)

    def add(
        self,
        numbers: Iterable[int],
        fate: Fate,
        reason: str,
        *,
        volume: str | None = None,
        measured: Mapping[str, float] | None = None,
    ) -> None:
        """Record the outcome of slices in the files with these numbers."""
        for number in numbers:
            self._slices[number].append(_SliceOutcome(fate, reason, volume, measured or {}))

    def write(self, ledger: Ledger) -> None:
        """Record one row for each file; the reason ends in `_in_part` if some of its slices were refused."""
        for number, slices in sorted(self._slices.items()):
            accepted = [one for one in slices if one.fate == "accepted"]
            fate, reason, volume, measured = (accepted or slices)[0]
            extra: dict[str, float] = {}
            if accepted and len(slices) > 1:
                extra["volumes"] = float(len(accepted))
            if accepted and len(accepted) < len(slices):
                extra["refused_parts"] = float(len(slices) - len(accepted))
                reason = f"{reason}_in_part"
            ledger.record([number], fate, reason, volume=volume, measured={**measured, **extra})


class Ledger:
    """Ledger rows by file number, the position of the file in the sorted source.

    Args:
        files: key of each file by its number.
    """

    def __init__(self, files: Mapping[int, str]) -> None:
        self._files = dict(files)
        self._rows: dict[int, LedgerRow] = {}

    def add(self, number: int, file: str) -> None:
        """Add a file that was found inside an archive; `file` is its key."""
        self._files[number] = file

    def record(
        self,
        numbers: Iterable[int],
        fate: Fate,
        reason: str,
        *,
        volume: str | None = None,
        measured: Mapping[str, float] | None = None,
    ) -> None:
        """Record the outcome of files; values of `measured` that are not finite are dropped.

        Raises:
            RunError: if a file already has an outcome.
        """
        finite = {name: round(value, 6) for name, value in (measured or {}).items() if math.isfinite(value)}
        for number in numbers:
            if number in self._rows:
                raise RunError(f"file {number} has two outcomes: this is a bug in medmim, please report it")
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
            RunError: if a file has no outcome.
        """
        if missing := sorted(set(self._files) - set(self._rows)):
            raise RunError(f"file {missing[0]} has no outcome: this is a bug in medmim, please report it")
        return [self._rows[number] for number in sorted(self._rows)]

    def summary(self) -> str:
        """Return the counts and the three most frequent reasons as text."""
        rows = self.rows()
        fates = Counter(row.fate for row in rows)
        reasons = Counter(row.reason for row in rows if row.fate != "accepted").most_common(3)
        return (
            f"{counted(len(rows), 'file')}, {fates['quarantined']} quarantined and {fates['skipped']} "
            f"skipped; most frequent reasons: {', '.join(f'{reason} ({count})' for reason, count in reasons)}"
        )
