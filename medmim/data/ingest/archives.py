"""Archives in the source become files of the staging folder; members have numbers and rows of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from medmim.data.dataset.manifest import Fate
from medmim.data.formats.archives import unpack
from medmim.data.ingest.context import READ_LIMITS, IngestContext
from medmim.data.ingest.scan import ScannedFile

ARCHIVE = "archive"
Scan = Callable[[IngestContext, Mapping[int, Path]], dict[int, ScannedFile]]


def members_of(
    bench: IngestContext,
    seen: dict[int, ScannedFile],
    paths: Mapping[int, Path],
    keys: Mapping[int, str],
    *,
    scan: Scan,
) -> tuple[dict[int, ScannedFile], dict[int, Path]]:
    """Unpack archives and look at their members.

    Args:
        bench: where to work; archives get their fate here, and members that are no files.
        seen: what the scan found.
        paths: the files, by number.
        keys: key of each file's path, by number.
        scan: looks at files.

    Returns:
        Both tables, archives replaced by their members under new numbers. A member's path is its place in the
        source, `archive.zip/member`; `IngestContext.file` tells where it can be read.
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
        count = float(len(answer.value))
        bench.ledger.put([number], "skipped", "archive_unpacked", measured={"members": count})
        for member, name in zip(answer.value, _names(answer.value), strict=True):
            bench.ledger.add(following, bench.keys.key("file", f"{keys[number]}!{name}"))
            if "reason" in member:
                fate: Fate = "skipped" if member["reason"] == "link_not_followed" else "quarantined"
                bench.ledger.put([following], fate, member["reason"])
            else:
                inside[following] = paths[number] / name
                bench.unpacked[paths[number] / name] = Path(member["file"])
            following += 1
    found = scan(bench, {number: bench.file(place) for number, place in inside.items()})
    usable = {number: one for number, one in found.items() if _is_usable(bench, number, one)}
    kept = {number: one for number, one in seen.items() if one.reason != ARCHIVE}
    return kept | usable, {**paths, **inside}


def _names(members: Sequence[Mapping[str, str]]) -> list[PurePosixPath]:
    """Return a path below the archive for each member, no two the same; none is read or written there."""
    taken: dict[PurePosixPath, None] = {}
    for place, member in enumerate(members):
        said = PurePosixPath(member["name"].replace("\\", "/"))
        name = said.relative_to(said.anchor) if ".." not in said.parts else PurePosixPath(said.name)
        taken[name if name.parts and name not in taken else PurePosixPath(f"member {place}", name)] = None
    return list(taken)


def _is_usable(bench: IngestContext, number: int, one: ScannedFile) -> bool:
    """Give a damaged member its fate, and an archive in an archive: only one level is unpacked."""
    if one.reason == ARCHIVE:
        bench.ledger.put([number], "skipped", "archive_in_archive")
    elif one.fate == "quarantined":
        bench.ledger.put([number], one.fate, one.reason, measured=one.measured)
    else:
        return True
    return False
