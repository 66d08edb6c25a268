"""Copies of DICOM files and slices: equal files, equal contents in another compression, equal pixels."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medmim import files
from medmim.data.dicom.decode import Reader
from medmim.data.dicom.slices import Slice
from medmim.data.ingest.context import IngestContext
from medmim.data.ingest.ledger import FileOutcomes
from medmim.data.ingest.scan import scan_file


def hash_file(path: str) -> str:
    """Return the SHA-256 of a file; runs in a sandbox."""
    return files.sha256_of(Path(path))


def hash_content(path: str) -> str:
    """Return a SHA-256 of headers and decoded pixels that does not depend on compression; runs in a sandbox.

    Raises:
        DataError: with reason no_decoder, if pydicom cannot decode all of the file.
    """
    headers = scan_file(Path(path)).headers
    digest = hashlib.sha256("".join(one.model_dump_json(exclude={"raw"}) for one in headers).encode())
    for frame in sorted({one.frame if one.kind != "tile" else 0 for one in headers}):
        digest.update(hash_pixels(path, frame).encode())
    return digest.hexdigest()


def hash_pixels(path: str, frame: int = 0) -> str:
    """Return a SHA-256 of the shape and stored values of one frame; runs in a sandbox.

    Raises:
        DataError: with reason no_decoder.
    """
    pixels = Reader("frame").frame(path, frame)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.astype(np.int64).tobytes()).hexdigest()


def drop_copies(
    context: IngestContext, outcomes: FileOutcomes, slices: Sequence[Slice], blocked: dict[str, str]
) -> list[Slice]:
    """Drop copies of files; block series with two contents of one instance at one position."""
    files: dict[tuple[str, str], dict[int, Slice]] = defaultdict(dict)
    for one in slices:
        files[one.header.series, one.header.instance].setdefault(one.number, one)
    groups = [list(group.values()) for group in files.values() if len(group) > 1]
    dropped: set[int] = set()
    for function in (hash_file, hash_content):
        groups, copies = compare(context, groups, function)
        dropped |= copies
    outcomes.add(sorted(dropped), "skipped", "duplicate_file")
    for group in groups:
        if group[0].header.kind == "picture":  # stands alone: no other slice is in doubt
            dropped |= {one.number for one in group}
            outcomes.add([one.number for one in group], "quarantined", "duplicate_instance")
        elif len({one.header.position for one in group}) < len(group):
            blocked[group[0].header.series] = "duplicate_instance"
    return [one for one in slices if one.number not in dropped]


def compare(
    context: IngestContext, groups: Sequence[list[Slice]], function: Callable[[str], str]
) -> tuple[list[list[Slice]], set[int]]:
    """Return groups with several contents, each content once, and the numbers of files that are copies.

    Args:
        groups: slices of different files that may be copies.
        function: returns the hash of a file; an unreadable file is like no other.
    """
    members = [one for group in groups for one in group]
    answers = context.each("compare", function, [{"path": str(one.path)} for one in members])
    digests = {
        one.number: answer.value or f"unreadable {one.number}"
        for one, answer in zip(members, answers, strict=True)
    }
    left: list[list[Slice]] = []
    copies: set[int] = set()
    for group in groups:
        first: dict[str, Slice] = {}
        for one in sorted(group, key=lambda one: one.number):
            if first.setdefault(digests[one.number], one) is not one:
                copies.add(one.number)
        if len(first) > 1:
            left.append(list(first.values()))
    return left, copies
