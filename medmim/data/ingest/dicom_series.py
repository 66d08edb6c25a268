"""DICOM files to volumes and pictures: copies out, slices to stacks, stacks converted, fates noted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.dataset.vocabulary import VOCABULARY
from medmim.data.dicom.convert import convert
from medmim.data.dicom.gantry_tilt import is_tilted
from medmim.data.dicom.series import stacks_of
from medmim.data.dicom.single_image import convert_picture
from medmim.data.dicom.slices import RejectedSlices, SingleImage, Slice, SliceStack, own_place
from medmim.data.dicom.uncompressed import convert_raw
from medmim.data.ingest.context import READ_LIMITS, IngestContext, IngestedVolume, stored_path
from medmim.data.ingest.ledger import FileOutcomes
from medmim.data.ingest.scan import ScannedFile, hash_content, hash_file

_Way = Literal["convert", "decode", "pictures"]
_WAYS: dict[_Way, Callable[..., dict[str, Any]]] = {
    "convert": convert_raw,
    "decode": convert,
    "pictures": convert_picture,
}
_DAMAGE = {"truncated", "bad_header", "bad_size", "no_pixel_data", "missing_uid", "damaged", "memory"}


def volumes_from_dicom(
    bench: IngestContext, seen: Mapping[int, ScannedFile], paths: Mapping[int, Path]
) -> list[IngestedVolume]:
    """Make a volume of every stack of slices that holds what it promises, and a picture of every lone one.

    `slices` of a volume is in the order of the third array axis: entry k is the instance of `array[:, :, k]`.

    Args:
        bench: where to work.
        seen: what the scan found, by number; only images matter here.
        paths: the files, by number.
    """
    slices, blocked = slices_of(seen, paths)
    fates = FileOutcomes()
    kept = _without_copies(bench, fates, _without_risks(bench, fates, slices), blocked)
    accepted: dict[_Way, list[SliceStack | SingleImage]] = {way: [] for way in _WAYS}
    for verdict in stacks_of(kept, blocked):
        if isinstance(verdict, RejectedSlices):
            fates.add(_numbers(verdict), "quarantined", verdict.reason, measured=verdict.measured)
        else:
            accepted[_way_of(verdict)].append(verdict)
    made = [one for way, found in accepted.items() for one in _converted(bench, fates, found, way=way)]
    fates.write(bench.ledger)
    return made


def slices_of(
    seen: Mapping[int, ScannedFile], paths: Mapping[int, Path]
) -> tuple[list[Slice], dict[str, str]]:
    """Return every slice in the order of the walk, and the series that a damaged file blocks, with why."""
    sound = {header.instance for one in seen.values() for header in one.headers[:1]}
    blocked = {
        one.series: "damaged_series"
        for one in seen.values()
        if one.series and one.reason in _DAMAGE and one.instance not in sound
    }
    slices = [
        Slice(number, paths[number], header) for number, one in sorted(seen.items()) for header in one.headers
    ]
    return slices, blocked


def _without_copies(
    bench: IngestContext, fates: FileOutcomes, slices: Sequence[Slice], blocked: dict[str, str]
) -> list[Slice]:
    """Drop files that repeat another's content; block series with two contents of one instance."""
    places: dict[tuple[str, str], dict[int, Slice]] = defaultdict(dict)
    for one in slices:
        places[one.header.series, one.header.instance].setdefault(one.number, one)
    groups = [list(group.values()) for group in places.values() if len(group) > 1]
    dropped: set[int] = set()
    for function in (hash_file, hash_content):
        digests = _digests(bench, function, [one for group in groups for one in group])
        left = []
        for group in groups:
            repeats = {one.number for one in group if digests[one.number] in _others(digests, group, one)}
            dropped |= repeats
            if len(rest := [one for one in group if one.number not in repeats]) > 1:
                left.append(rest)
        groups = left
    fates.add(sorted(dropped), "skipped", "duplicate_file")
    for group in groups:
        if group[0].header.kind == "picture":  # stands alone: no other slice is in doubt
            dropped |= {one.number for one in group}
            fates.add([one.number for one in group], "quarantined", "duplicate_instance")
        else:
            blocked[group[0].header.series] = "duplicate_instance"
    return [one for one in slices if one.number not in dropped]


def _digests(
    bench: IngestContext, function: Callable[[str], str], repeated: Sequence[Slice]
) -> dict[int, str]:
    """Return what tells contents apart; what cannot be read is like nothing else."""
    answers = bench.each("compare", function, [{"path": str(one.path)} for one in repeated])
    return {
        one.number: answer.value or f"unreadable {one.number}"
        for one, answer in zip(repeated, answers, strict=True)
    }


def _others(digests: Mapping[int, str], group: Sequence[Slice], one: Slice) -> set[str]:
    """Return the contents of the files in front of `one`."""
    return {digests[other.number] for other in group if other.number < one.number}


def _without_risks(bench: IngestContext, fates: FileOutcomes, slices: Sequence[Slice]) -> list[Slice]:
    """Keep back images that often show the patient's name, unless the user said that these do not."""
    if bench.options.allow_burned_in:
        return list(slices)
    fates.add({one.number for one in slices if one.header.risky}, "quarantined", "burned_in_risk")
    return [one for one in slices if not one.header.risky]


def _way_of(found: SliceStack | SingleImage) -> _Way:
    """Return how a stack or picture becomes a file of the dataset."""
    if isinstance(found, SingleImage):
        return "pictures"
    plain = all(one.header.raw for one in found.slices) and not is_tilted(found.affine, len(found.slices))
    return "convert" if plain else "decode"


def _converted(
    bench: IngestContext, fates: FileOutcomes, found: Sequence[SliceStack | SingleImage], *, way: _Way
) -> list[IngestedVolume]:
    """Convert all that go one way, and note what became of their files."""
    made = []
    names = [_identifier(bench, one) for one in found]
    tasks = [_task(bench, one, name) for one, name in zip(found, names, strict=True)]
    answers = bench.each(way, _WAYS[way], tasks, limits=READ_LIMITS)
    for one, name, task, answer in zip(found, names, tasks, answers, strict=True):
        facts = answer.value or {"reason": answer.reason or "unusable", "measured": {}}
        if "reason" in facts:
            fates.add(_numbers(one), "quarantined", facts["reason"], measured=facts["measured"])
            continue
        reason = _reason(one, facts["measured"])
        fates.add(_numbers(one), "accepted", reason, volume=name, measured=facts["measured"])
        volume = _volume(bench, one, name, facts=facts)
        made.append(IngestedVolume(volume, one.slices[0].header.series, Path(task["target"])))
    return made


def _identifier(bench: IngestContext, found: SliceStack | SingleImage) -> str:
    """Return the volume's id: its series and which instances of it, whatever their files are called."""
    instances = sorted(_instance(one) for one in found.slices)
    return bench.keys.key("volume", "\0".join([found.slices[0].header.series, *instances]))


def _instance(one: Slice) -> str:
    """Return the instance, and which frame of it, where it has several."""
    header = one.header
    return (
        header.instance if header.kind == "slice" or not header.frame else f"{header.instance} {header.frame}"
    )


def _task(bench: IngestContext, found: SliceStack | SingleImage, name: str) -> dict[str, Any]:
    headers = [one.header for one in found.slices]
    task: dict[str, Any] = {
        "affine": found.affine.tolist(),
        "staging": str(bench.staged(f"{name}.work")),
        "target": str(bench.staged(f"{name}.nii.gz")),
    }
    if isinstance(found, SingleImage):
        return {**task, "file": str(found.slices[0].path), "frame": headers[0].frame}
    task |= {
        "files": [str(one.path) for one in found.slices],
        "scales": [[header.slope, header.intercept] for header in headers],
        "size": [headers[0].rows, headers[0].columns],
    }
    if _way_of(found) == "convert":
        return {
            **task,
            "raws": [header.raw for header in headers],
            "places": [own_place(header) for header in headers],
        }
    return {**task, "frames": [header.frame for header in headers], "kind": headers[0].kind}


def _volume(
    bench: IngestContext, found: SliceStack | SingleImage, name: str, *, facts: Mapping[str, Any]
) -> VolumeRecord:
    header = found.slices[0].header
    subject = bench.keys.key("subject", header.patient or header.study)
    study = bench.keys.key("study", header.study)
    tokens = {token for one in found.slices for token in one.header.tokens}
    flags = {**found.flags, **facts.get("flags", {})}
    if any(one.header.risky for one in found.slices):
        flags["burned_in_text"] = "possible"
    repairs = found.repairs if isinstance(found, SliceStack) else tuple(facts["repairs"])
    return VolumeRecord(
        id=name,
        subject=subject,
        study=study,
        series=bench.keys.key("series", header.series),
        image=stored_path("volumes", subject, study, name),
        modality=header.modality,
        spatial_dims=3 if isinstance(found, SliceStack) else 2,
        shape=tuple(facts["shape"]),
        spacing_mm=tuple(facts["spacing_mm"]),
        orientation=facts["orientation"],
        sha256=facts["sha256"],
        pixels_sha256=facts["pixels_sha256"],
        verdict="repaired" if repairs else "right",
        repairs=repairs,
        tokens=tuple(token for token in VOCABULARY if token in tokens),
        slices=tuple(bench.keys.key("instance", one.header.instance) for one in found.slices),
        flags=flags,
    )


def _numbers(found: SliceStack | SingleImage | RejectedSlices) -> set[int]:
    return {one.number for one in found.slices}


def _reason(found: SliceStack | SingleImage, measured: Mapping[str, float]) -> str:
    what = "volume" if isinstance(found, SliceStack) else "picture"
    if not found.slices[0].header.patient:
        return f"{what}_without_patient"
    return f"{what}_one_decoder" if measured.get("slices_compared") == 0 else what
