"""Archives and links in the source, made readable; members of archives get ledger rows of their own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from medmim.data.formats.archives import unpack
from medmim.data.ingest.context import READ_LIMITS, IngestContext
from medmim.data.ingest.scan import ScannedFile
from medmim.data.ingest.sources import Sources

ARCHIVE = "archive"
Scan = Callable[[IngestContext, Mapping[int, Path]], dict[int, ScannedFile]]


def unpack_archives(
    context: IngestContext,
    scanned: Mapping[int, ScannedFile],
    paths: Mapping[int, Path],
    keys: Mapping[int, str],
    *,
    scan: Scan,
) -> tuple[dict[int, ScannedFile], dict[int, Path]]:
    """Unpack archives and scan their members; record the outcome of archives and of unusable members.

    Returns:
        `scanned` and `paths` with archives replaced by their members under new numbers. The path of a member
        is its place in the source, `archive.zip/member`; `IngestContext.file` returns the unpacked file.
    """
    archives = [number for number, one in scanned.items() if one.reason == ARCHIVE]
    if not archives:
        return dict(scanned), dict(paths)
    tasks = [
        {"path": str(context.file(paths[number])), "target": str(context.staged(f"archive-{number}"))}
        for number in archives
    ]
    answers = context.each("unpack", unpack, tasks, limits=READ_LIMITS)
    members: dict[int, Path] = {}
    next_number = max(keys) + 1
    for number, answer in zip(archives, answers, strict=True):
        if answer.value is None:
            context.ledger.record([number], "quarantined", answer.reason or "archive_damaged")
            continue
        measured = {"members": float(len(answer.value))}
        context.ledger.record([number], "skipped", "archive_unpacked", measured=measured)
        for member, name in zip(answer.value, _unique_names(answer.value), strict=True):
            context.ledger.add(next_number, context.keys.key("file", f"{keys[number]}!{name}"))
            if reason := member.get("reason"):
                fate = "skipped" if reason == "link_not_followed" else "quarantined"
                context.ledger.record([next_number], fate, reason)  # type: ignore[arg-type]
            elif any(part.startswith(".") or part == "__MACOSX" for part in name.parts[:-1]):
                context.ledger.record([next_number], "skipped", "hidden_folder")
            else:
                members[next_number] = paths[number] / name
                context.unpacked[paths[number] / name] = Path(member["file"])
            next_number += 1
    found = scan(context, members)
    usable = {number: one for number, one in found.items() if _is_usable(context, number, one)}
    rest = {number: one for number, one in scanned.items() if one.reason != ARCHIVE}
    return rest | usable, {**paths, **members}


def _unique_names(members: Sequence[Mapping[str, str]]) -> list[PurePosixPath]:
    """Return a distinct path below the archive for each member; nothing is read or written there."""
    taken: dict[PurePosixPath, None] = {}
    for place, member in enumerate(members):
        raw = PurePosixPath(member["name"].replace("\\", "/"))
        name = raw.relative_to(raw.anchor) if ".." not in raw.parts else PurePosixPath(raw.name)
        taken[name if name.parts and name not in taken else PurePosixPath(f"member {place}", name)] = None
    return list(taken)


def _is_usable(context: IngestContext, number: int, one: ScannedFile) -> bool:
    """Record the outcome of a damaged member or a nested archive; only one level is unpacked."""
    if one.reason == ARCHIVE:
        context.ledger.record([number], "skipped", "archive_in_archive")
    elif one.fate == "quarantined":
        context.ledger.record([number], one.fate, one.reason, measured=one.measured)
    else:
        return True
    return False


def locate_links(context: IngestContext, sources: Sources) -> None:
    """Make the targets of symbolic links readable under names that keep the extension of the link."""
    for entry in sources.entries:
        if entry.target is None:
            continue
        file, ending = entry.target, "".join(entry.path.suffixes[-2:])
        if not file.name.endswith(ending):  # readers depend on the extension
            file = context.staged(f"link-{entry.number}{ending}")
            try:
                file.hardlink_to(entry.target)
            except OSError:  # on another filesystem
                shutil.copyfile(entry.target, file)
        context.unpacked[entry.path] = file
