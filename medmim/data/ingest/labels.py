"""Label files that name a series or an image, attached to the volumes whose grid they are on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medmim.data.dicom import sop_classes
from medmim.data.dicom.read_labels import read_labels
from medmim.data.formats.case import merge_labels, read_label
from medmim.data.formats.overlapping_classes import merge_regions
from medmim.data.ingest.context import READ_LIMITS, IngestContext, IngestedVolume, stem_of, stored_path
from medmim.data.ingest.dicom_labels import LabelObject, read_objects
from medmim.data.ingest.dicom_masks import DicomMask
from medmim.data.ingest.finding_tables import TABLE_SUFFIXES, add_tables, read_label_map
from medmim.data.ingest.label_regions import RegionLabel, recode_labels
from medmim.data.ingest.masks_of_series import SeriesMask, masks_of_series, merge_series_masks
from medmim.data.ingest.scan import ScannedFile
from medmim.data.ingest.sources import Sources
from medmim.data.ingest.volumes import layout_query, record_label
from medmim.data.sandbox.sandbox import Answer


def find_labels(
    context: IngestContext,
    sources: Sources,
    scanned: Mapping[int, ScannedFile],
    paths: Mapping[int, Path],
    drawn: Sequence[DicomMask] = (),
) -> tuple[dict[int, Path], list[SeriesMask]]:
    """Return the files that are labels by type, name or folder, without a layout, and the masks of series.

    Args:
        drawn: masks stored as DICOM.

    Raises:
        AmbiguousLayoutError: if the labels of a series may be several readings of one finding.
    """
    series = {one.series for one in scanned.values() if one.series}
    found = {}
    for number, one in scanned.items():
        path = paths[number]
        inside = sources.labels is not None and path.is_relative_to(sources.labels)
        volume = (one.nifti or one.reason == "volume_file") and (inside or stem_of(path) in series)
        typed = one.reason == sop_classes.LABEL or path.suffix.lower() in TABLE_SUFFIXES
        typed = typed and not context.options.rules.skips(path, sources.source)
        if one.header is None and one.fate != "quarantined" and (typed or volume):
            found[number] = path
    if context.options.layout is not None:
        return found, []
    query = layout_query(context, sources.source, ())
    masks = masks_of_series(query, scanned, paths, known=found, drawn=drawn)
    return found | {number: mask.path for mask in masks for number in mask.numbers}, masks


def attach_labels(
    context: IngestContext,
    made: Sequence[IngestedVolume],
    labels: Mapping[int, Path],
    scanned: Mapping[int, ScannedFile],
    masks: Sequence[SeriesMask] = (),
) -> list[IngestedVolume]:
    """Attach label files to volumes; the volume of a refused label stays unlabelled.

    If a series has several volumes, each of them on the grid of the label gets it. Several DICOM label
    objects of one series are merged to one label, unless they overlap.

    Args:
        labels: label files by number: DICOM label objects, CSV tables, and volumes named
            `<SeriesInstanceUID>.nii.gz` or like the image file.
        masks: the labels of series that are not in their own names.
    """
    given = read_label_map(context.options.label_map) if context.options.label_map else {}
    merged = merge_series_masks(context, [one for one in masks if one.path.name not in given])
    taken = {number for one in masks if one.path.name not in given for number in one.numbers}
    labels = {number: path for number, path in labels.items() if number not in taken}
    labels |= {one.numbers[0]: one.path for one in merged}
    of_series = {one.numbers[0]: one for one in merged}
    tables = {number: path for number, path in labels.items() if path.suffix.lower() in TABLE_SUFFIXES}
    objects = {number: path for number, path in labels.items() if scanned[number].reason == sop_classes.LABEL}
    volumes = {
        number: path for number, path in labels.items() if number not in tables and number not in objects
    }
    series_of = {one.header.instance: one.header.series for one in scanned.values() if one.header}
    known = read_objects(context, objects, series_of)
    stems = {number: stem_of(path) for number, path in volumes.items()}
    names: dict[int, tuple[str, ...]] = {
        number: (given.get(volumes[number].name, given.get(stem, stem)),) for number, stem in stems.items()
    }
    names |= {number: one.series for number, one in of_series.items()}
    names |= {number: (one.series,) for number, one in known.items()}
    pairs = _pairs(context, made, names, set(known), of_series)
    files = [pair for pair in pairs if pair.number not in known]
    ignore = {"ignore_label": context.options.ignore_label}
    tasks = [_task(context, labels[pair.number], made[pair.place], pair.number) | ignore for pair in files]
    answers = context.each("labels", read_label, tasks, limits=READ_LIMITS)
    drawn = [pair for pair in pairs if pair.number in known]
    tasks = [
        _task(context, labels[pair.number], made[pair.place], pair.number)
        | {"numbers": known[pair.number].numbers, "keep_overlap": context.options.overlap == "regions"}
        for pair in drawn
    ]
    answers += context.each("labels", read_labels, tasks, limits=READ_LIMITS)
    result = _attach(context, made, _facts([*files, *drawn], answers), objects=known, masks=of_series)
    return add_tables(context, result, tables)


@dataclass(frozen=True)
class _LabelPair:
    """Number of a label file, and index of a volume that it may belong to."""

    number: int
    place: int


def _pairs(
    context: IngestContext,
    made: Sequence[IngestedVolume],
    names: Mapping[int, tuple[str, ...]],
    objects: set[int],
    masks: Mapping[int, SeriesMask],
) -> list[_LabelPair]:
    """Return the labels that may belong to each volume; record the outcome of the others."""
    known = _by_name(made)
    taken: dict[str, bool] = {}
    pairs: list[_LabelPair] = []
    for number, wanted in sorted(names.items()):
        found = [name for name in wanted if name in known]
        places = [place for name in found for place in known[name]]
        shared = number in objects and all(taken.get(name, True) for name in found)
        if not found:
            context.ledger.record(_files(number, masks), "quarantined", "label_without_image")
        elif (taken.keys() & found and not shared) or any(made[place].volume.label for place in places):
            context.ledger.record(_files(number, masks), "quarantined", "label_duplicate")
        else:
            taken |= dict.fromkeys(found, number in objects)
            pairs += [_LabelPair(number, place) for place in places]
    return pairs


def _files(number: int, masks: Mapping[int, SeriesMask]) -> tuple[int, ...]:
    """Return the numbers of the files of a label."""
    return masks[number].numbers if number in masks else (number,)


def _facts(pairs: Sequence[_LabelPair], answers: Sequence[Answer]) -> dict[_LabelPair, dict[str, Any]]:
    return {
        pair: answer.value or {"reason": answer.reason or "unusable", "measured": {}}
        for pair, answer in zip(pairs, answers, strict=True)
    }


def _attach(
    context: IngestContext,
    made: Sequence[IngestedVolume],
    found: dict[_LabelPair, dict[str, Any]],
    *,
    objects: Mapping[int, LabelObject],
    masks: Mapping[int, SeriesMask],
) -> list[IngestedVolume]:
    """Return the volumes with the labels that fit them, merged; record the outcome of every label file."""
    fitting: dict[int, list[int]] = {}
    for pair, facts in found.items():
        if "reason" not in facts:
            fitting.setdefault(pair.place, []).append(pair.number)
    several = {place: numbers for place, numbers in fitting.items() if len(numbers) > 1}
    merged = _merged(context, made, several, found)
    regions = _recode(context, made, fitting, found=found, merged=merged, objects=objects)
    pairs = ((place, masks.get(numbers[0])) for place, numbers in fitting.items())
    regions |= {place: one.drawn for place, one in pairs if one and one.drawn}
    named = {number: one.names for group in (objects, masks) for number, one in group.items()}
    tried: dict[int, list[tuple[int, dict[str, Any]]]] = {}
    for pair, facts in found.items():
        outcome = facts if "reason" in facts else merged.get(pair.place, facts)
        tried.setdefault(pair.number, []).append((pair.place, outcome | _resampled(facts)))
    result = list(made)
    for place, numbers in fitting.items():
        facts = merged.get(place) or found[_LabelPair(numbers[0], place)]
        if "reason" not in facts:
            names = _names(named, numbers) if place not in regions else regions[place].names
            staged = _staged(context, made[place], None if place in merged else numbers[0])
            resampled = [_resampled(found[_LabelPair(number, place)]) for number in numbers]
            facts = facts | max(resampled, key=len)
            labelled = _labelled(made[place], facts, staged=staged, names=names)
            result[place] = replace(labelled, regions=regions[place].regions if place in regions else {})
    for number, outcomes in tried.items():
        place, facts = next((one for one in outcomes if "reason" not in one[1]), outcomes[0])
        record_label(context, _files(number, masks), made[place].volume.id, facts)
    return result


def _resampled(facts: Mapping[str, Any]) -> dict[str, bool]:
    return {"resampled": True} if facts.get("resampled") else {}


def _names(named: Mapping[int, Mapping[int, str]], numbers: Iterable[int]) -> dict[int, str]:
    """Return the class names of label files, by class number."""
    return {n: name for one in numbers for n, name in named.get(one, {}).items()}


def _recode(
    context: IngestContext,
    made: Sequence[IngestedVolume],
    fitting: Mapping[int, Sequence[int]],
    *,
    found: dict[_LabelPair, dict[str, Any]],
    merged: dict[int, dict[str, Any]],
    objects: Mapping[int, LabelObject],
) -> dict[int, RegionLabel]:
    """Give combinations of overlapping classes equal codes in all labels; update the facts of the labels."""
    places: dict[Path, int] = {}
    combinations = {}
    for place, numbers in fitting.items():
        facts = merged.get(place) or found[_LabelPair(numbers[0], place)]
        if "combinations" in facts and "reason" not in facts:
            file = _staged(context, made[place], None if place in merged else numbers[0])
            places[file], combinations[file] = place, facts["combinations"]
    known = {number: one.names for number, one in objects.items()}
    recoded = recode_labels(context, combinations, _names(known, known))
    for file, one in recoded.items():
        place = places[file]
        facts = merged.get(place) or found[_LabelPair(fitting[place][0], place)]
        facts |= one.facts
    return {places[file]: one for file, one in recoded.items()}


def _merged(
    context: IngestContext,
    made: Sequence[IngestedVolume],
    several: Mapping[int, Sequence[int]],
    found: Mapping[_LabelPair, Mapping[str, Any]],
) -> dict[int, dict[str, Any]]:
    """Merge the labels of each volume that has several; return the facts or refusal of the result."""
    regions = context.options.overlap == "regions"
    tasks = [
        {
            "labels": [str(_staged(context, made[place], number)) for number in numbers],
            "target": str(_staged(context, made[place], None)),
        }
        | (
            {"combinations": [found[_LabelPair(number, place)]["combinations"] for number in numbers]}
            if regions
            else {}
        )
        for place, numbers in several.items()
    ]
    answers = context.each("labels", merge_regions if regions else merge_labels, tasks, limits=READ_LIMITS)
    pairs = [_LabelPair(-1, place) for place in several]
    return {pair.place: facts for pair, facts in _facts(pairs, answers).items()}


def _by_name(made: Sequence[IngestedVolume]) -> dict[str, list[int]]:
    """Return indices of volumes by label name; a name that several series share is left out."""
    series = Counter(name for name, _ in {(one.name, one.volume.series) for one in made})
    known: dict[str, list[int]] = {}
    for place, one in enumerate(made):
        if series[one.name] == 1:
            known.setdefault(one.name, []).append(place)
    return known


def _staged(context: IngestContext, made: IngestedVolume, number: int | None) -> Path:
    """Return the staging path of a volume's label: of one label file, or of all of them merged."""
    part = "" if number is None else f".{number}"
    return context.staged(f"{made.volume.id}{part}.label.nii.gz")


def _task(context: IngestContext, label: Path, made: IngestedVolume, number: int) -> dict[str, Any]:
    return {
        "label": str(context.file(label)),
        "image": str(made.staged),
        "target": str(_staged(context, made, number)),
        "resample": context.options.resample_labels,
    }


def _labelled(
    made: IngestedVolume, facts: Mapping[str, Any], *, staged: Path, names: Mapping[int, str]
) -> IngestedVolume:
    volume = made.volume
    update: dict[str, Any] = {
        "label": stored_path("labels", volume.subject, volume.study, volume.id),
        "label_sha256": facts["sha256"],
    }
    if facts.get("resampled"):
        update |= {"repairs": (*volume.repairs, "label_resampled"), "verdict": "repaired"}
    return replace(
        made,
        volume=volume.model_copy(update=update),
        staged_label=staged,
        classes=tuple(facts["values"]),
        class_names=names,
    )
