"""Archives in the source become files of the staging folder; members have numbers and rows of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from medmim.data.archives import unpack
from medmim.data.bench import READ_LIMITS, Bench
from medmim.data.manifest import Fate
from medmim.data.scan import Seen

ARCHIVE = "archive"
Scan = Callable[[Bench, Mapping[int, Path]], dict[int, Seen]]


def members_of(
    bench: Bench, seen: dict[int, Seen], paths: Mapping[int, Path], keys: Mapping[int, str], *, scan: Scan
) -> tuple[dict[int, Seen], dict[int, Path]]:
    """Unpack archives and look at their members.

    Args:
        bench: where to work; archives get their fate here, and members that are no files.
        seen: what the scan found.
        paths: the files, by number.
        keys: key of each file's path, by number.
        scan: looks at files.

    Returns:
        Both tables, archives replaced by their members under new numbers.
    """
    archives = [number for number, one in seen.items() if one.reason == ARCHIVE]
    if not archives:
        return seen, dict(paths)
    tasks = [
        {"path": str(paths[number]), "target": str(bench.staged(f"archive-{number}"))} for number in archives
    ]
    answers = bench.each("unpack", unpack, tasks, limits=READ_LIMITS)
    inside: dict[int, Path] = {}
    following = max(keys) + 1
    for number, answer in zip(archives, answers, strict=True):
        if answer.value is None:
            bench.ledger.put([number], "quarantined", answer.reason or "archive_damaged")
            continue
        bench.ledger.put(
            [number], "skipped", "archive_unpacked", measured={"members": float(len(answer.value))}
        )
        for member in answer.value:
            bench.ledger.add(following, bench.keys.key("file", f"{keys[number]}!{member['name']}"))
            if "reason" in member:
                fate: Fate = "skipped" if member["reason"] == "link_not_followed" else "quarantined"
                bench.ledger.put([following], fate, member["reason"])
            else:
                inside[following] = Path(member["file"])
            following += 1
    found = {number: _as_member(one) for number, one in scan(bench, inside).items()}
    for number, one in found.items():
        if one.fate is not None:
            bench.ledger.put([number], one.fate, one.reason, measured=one.measured)
    images = {number: one for number, one in found.items() if one.fate is None}
    kept = {number: one for number, one in seen.items() if one.reason != ARCHIVE}
    return kept | images, {**paths, **inside}


def _as_member(one: Seen) -> Seen:
    """Only DICOM is read from inside an archive: names and folders of other data sets would be lost."""
    if one.nifti:
        return _skipped(one, "nifti_in_archive")
    return _skipped(one, "archive_in_archive") if one.reason == ARCHIVE else one


def _skipped(one: Seen, reason: str) -> Seen:
    return one.model_copy(update={"fate": "skipped", "reason": reason, "nifti": False})
