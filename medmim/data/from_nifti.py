"""NIfTI files to volumes, with the labels that their data set's layout gives them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medmim.data.accept import read_case
from medmim.data.bench import READ_LIMITS, Bench, Made, place_of, stem_of
from medmim.data.descriptors import Case, Layout, find_layout
from medmim.data.manifest import Volume
from medmim.data.scan import Seen
from medmim.data.tokens import VOCABULARY


def volumes_from_nifti(
    bench: Bench, source: Path, *, seen: Mapping[int, Seen], paths: Mapping[int, Path], layout: str | None
) -> tuple[list[Made], Layout | None]:
    """Make a volume of every image that the layout knows.

    Args:
        bench: where to work.
        source: the folder that was walked.
        seen: NIfTI files and files of no use so far, by number; all of them get their fate here.
        paths: the files, by number.
        layout: name of a data set descriptor; None to detect it.
    """
    if layout is None and not any(one.nifti for one in seen.values()):
        _put_others(bench, seen, {}, {})
        return [], None
    numbers = {paths[number]: number for number in seen}
    found = find_layout(source, sorted(numbers), name=layout)
    others = {numbers[path]: reason for path, reason in found.other.items()}
    _put_others(
        bench,
        seen,
        others,
        {numbers[path] for case in found.cases for path in (case.image, case.label) if path},
    )
    identifiers = [bench.keys.key("volume", str(case.image.relative_to(source))) for case in found.cases]
    tasks = [_task(bench, case, name) for case, name in zip(found.cases, identifiers, strict=True)]
    answers = bench.each("read", read_case, tasks, limits=READ_LIMITS)
    made = []
    for case, name, answer in zip(found.cases, identifiers, answers, strict=True):
        image, label = numbers[case.image], None if case.label is None else numbers[case.label]
        if answer.value is None:
            bench.ledger.put([image], "quarantined", answer.reason or "unusable")
            bench.ledger.put([] if label is None else [label], "quarantined", "label_without_image")
        else:
            made.append(_accept(bench, case, name, facts=answer.value, source=source))
            bench.ledger.put([image], "accepted", "volume", volume=name)
            put_label(bench, label, name, answer.value["label"])
    return made, found


def put_label(bench: Bench, number: int | None, volume: str, facts: Mapping[str, Any] | None) -> None:
    """Write the fate of a label file."""
    if number is None or facts is None:
        return
    if "reason" in facts:
        bench.ledger.put([number], "quarantined", facts["reason"], volume=volume, measured=facts["measured"])
    else:
        reason = "label" if facts["values"] else "label_empty"
        bench.ledger.put([number], "accepted", reason, volume=volume)


def _put_others(
    bench: Bench, seen: Mapping[int, Seen], others: Mapping[int, str], used: set[int] | Mapping[int, str]
) -> None:
    """Give files that are no case their reason: the layout's, or what the file itself showed."""
    for number, one in seen.items():
        if number in used:
            continue
        said = others.get(number, "not_in_layout")
        own = one.fate is not None and said in ("not_an_image", "not_in_layout")
        fate = (one.fate if own else None) or "skipped"
        bench.ledger.put([number], fate, one.reason if own else said, measured=one.measured)


def _task(bench: Bench, case: Case, name: str) -> dict[str, Any]:
    return {
        "image": str(case.image),
        "label": None if case.label is None else str(case.label),
        "target": str(bench.staged(f"{name}.nii.gz")),
        "label_target": str(bench.staged(f"{name}.label.nii.gz")),
    }


def _accept(bench: Bench, case: Case, name: str, *, facts: Mapping[str, Any], source: Path) -> Made:
    subject, study = bench.keys.key("subject", case.subject), bench.keys.key("study", case.study)
    label = facts["label"] if facts["label"] and "reason" not in facts["label"] else None
    volume = Volume(
        id=name,
        subject=subject,
        study=study,
        series=bench.keys.key("series", str(case.image.relative_to(source))),
        image=place_of("volumes", subject, study, name),
        modality=case.modality,
        spatial_dims=3,
        shape=tuple(facts["image"]["shape"]),
        spacing_mm=tuple(facts["image"]["spacing_mm"]),
        orientation=facts["image"]["orientation"],
        sha256=facts["image"]["sha256"],
        verdict="right",
        label=place_of("labels", subject, study, name) if label else None,
        label_sha256=label["sha256"] if label else None,
        group=None if case.group is None else bench.keys.key("group", case.group),
        tokens=tuple(token for token in VOCABULARY if token in case.tokens),
    )
    staged_label = bench.staged(f"{name}.label.nii.gz") if label else None
    classes = tuple(label["values"]) if label else ()
    return Made(volume, stem_of(case.image), bench.staged(f"{name}.nii.gz"), staged_label, classes)
