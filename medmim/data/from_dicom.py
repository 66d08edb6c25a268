"""DICOM slices to volumes: copies out, slices to stacks, stacks through the converter, fates noted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmim.data.bench import READ_LIMITS, Bench, Made, place_of
from medmim.data.convert import convert
from medmim.data.manifest import Volume
from medmim.data.scan import Seen, hash_file
from medmim.data.series import Refused, Slice, Stack, stacks_of
from medmim.data.tokens import VOCABULARY

_DAMAGE = {"truncated", "bad_header", "bad_size", "no_pixel_data", "missing_uid"}


def volumes_from_dicom(bench: Bench, seen: Mapping[int, Seen], paths: Mapping[int, Path]) -> list[Made]:
    """Make a volume of every stack of slices that holds what it promises.

    `slices` of a volume is in the order of the third array axis: entry k is the instance of `array[:, :, k]`.

    Args:
        bench: where to work.
        seen: what the scan found, by number; only slices matter here.
        paths: the files, by number.
    """
    blocked = {one.series: "damaged_series" for one in seen.values() if one.series and one.reason in _DAMAGE}
    slices = [
        Slice(number, paths[number], one.header)
        for number, one in sorted(seen.items())
        if one.header is not None
    ]
    kept = _without_copies(bench, slices, blocked)
    stacks: list[Stack] = []
    for verdict in stacks_of(kept, blocked):
        if isinstance(verdict, Refused):
            numbers = [one.number for one in verdict.slices]
            bench.ledger.put(numbers, "quarantined", verdict.reason, measured=verdict.measured)
        else:
            stacks.append(verdict)
    tasks = [_task(bench, stack) for stack in stacks]
    answers = bench.each("convert", convert, tasks, limits=READ_LIMITS)
    made = []
    for stack, task, answer in zip(stacks, tasks, answers, strict=True):
        facts = answer.value or {"reason": answer.reason, "measured": {}}
        if "reason" in facts:
            numbers = [one.number for one in stack.slices]
            bench.ledger.put(numbers, "quarantined", facts["reason"], measured=facts["measured"])
        else:
            made.append(_accept(bench, stack, facts, Path(task["target"])))
    return made


def _without_copies(bench: Bench, slices: Sequence[Slice], blocked: dict[str, str]) -> list[Slice]:
    """Drop files that repeat another byte for byte; block series with two contents of one instance."""
    places: dict[tuple[str, str], list[Slice]] = defaultdict(list)
    for one in slices:
        places[one.header.series, one.header.instance].append(one)
    repeated = [one for group in places.values() if len(group) > 1 for one in group]
    answers = bench.each("compare", hash_file, [{"path": str(one.path)} for one in repeated])
    dropped: set[int] = set()
    first: dict[tuple[str, str], Any] = {}
    for one, answer in zip(repeated, answers, strict=True):
        place = one.header.series, one.header.instance
        digest = answer.value or f"unreadable {one.number}"
        if first.setdefault(place, digest) != digest:
            blocked[one.header.series] = "duplicate_instance"
        elif one is not places[place][0]:
            dropped.add(one.number)
    bench.ledger.put(sorted(dropped), "skipped", "duplicate_file")
    return [one for one in slices if one.number not in dropped]


def _identifier(bench: Bench, stack: Stack) -> str:
    """Return the volume's id: its series and which instances of it, whatever their files are called."""
    instances = sorted(one.header.instance for one in stack.slices)
    return bench.keys.key("volume", "\0".join([stack.slices[0].header.series, *instances]))


def _task(bench: Bench, stack: Stack) -> dict[str, Any]:
    identifier = _identifier(bench, stack)
    return {
        "files": [str(one.path) for one in stack.slices],
        "affine": stack.affine.tolist(),
        "scales": [[one.header.slope, one.header.intercept] for one in stack.slices],
        "staging": str(bench.staged(f"{identifier}.work")),
        "target": str(bench.staged(f"{identifier}.nii.gz")),
    }


def _accept(bench: Bench, stack: Stack, facts: Mapping[str, Any], staged: Path) -> Made:
    header = stack.slices[0].header
    identifier = _identifier(bench, stack)
    subject = bench.keys.key("subject", header.patient or header.study)
    study = bench.keys.key("study", header.study)
    found = {token for one in stack.slices for token in one.header.tokens}
    volume = Volume(
        id=identifier,
        subject=subject,
        study=study,
        series=bench.keys.key("series", header.series),
        image=place_of("volumes", subject, study, identifier),
        modality=header.modality,
        spatial_dims=3,
        shape=tuple(facts["shape"]),
        spacing_mm=tuple(facts["spacing_mm"]),
        orientation=facts["orientation"],
        sha256=facts["sha256"],
        verdict="repaired" if stack.repairs else "right",
        repairs=stack.repairs,
        tokens=tuple(token for token in VOCABULARY if token in found),
        slices=tuple(bench.keys.key("instance", one.header.instance) for one in stack.slices),
    )
    numbers = [one.number for one in stack.slices]
    reason = _reason(header.patient, facts["measured"])
    bench.ledger.put(numbers, "accepted", reason, volume=identifier, measured=facts["measured"])
    return Made(volume, header.series, staged)


def _reason(patient: str, measured: Mapping[str, float]) -> str:
    if not patient:
        return "volume_without_patient"
    return "volume" if measured["slices_compared"] else "volume_one_decoder"
