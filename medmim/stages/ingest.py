"""`medmim ingest`: a folder of DICOM and NIfTI becomes a dataset folder in which every volume was checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dcm2niix

from medmim import files
from medmim.data import convert, series
from medmim.data.bench import Bench, Made, Progress, stem_of
from medmim.data.descriptors import FALLBACK, Layout
from medmim.data.from_dicom import volumes_from_dicom
from medmim.data.from_labels import with_labels
from medmim.data.from_nifti import volumes_from_nifti
from medmim.data.ledger import Ledger
from medmim.data.manifest import Dataset, DatasetInfo
from medmim.data.privacy import Keys
from medmim.data.publish import earlier_dataset, publish, sole_use
from medmim.data.sandbox import Sandbox
from medmim.data.scan import Seen, look
from medmim.data.walk import Found, walk
from medmim.errors import DataError, UsageError

KEY_FILE = "project.key"


def ingest(
    source: Path,
    out: Path,
    *,
    labels: Path | None = None,
    layout: str | None = None,
    name: str | None = None,
    workers: int | None = None,
    home: Path,
    progress: Progress | None = None,
) -> DatasetInfo:
    """Read everything below `source` and write the dataset folder `out`.

    The result depends on the source and the project's key only, never on `workers`; subjects of a dataset
    that is already in `out` keep their split.

    Args:
        source: folder with DICOM and NIfTI files; it is only read.
        out: dataset folder, outside of the source.
        labels: folder with labels called `<SeriesInstanceUID>.nii.gz`; those in the source are found too.
        layout: name of a shipped data set descriptor, or a descriptor file; detected without it.
        name: name of the dataset; never taken from the source's own folder.
        workers: processes at one time; all processors without it.
        home: folder of the project, where the secret behind all keys is kept.
        progress: told the phase, and how much of it is done.

    Raises:
        UsageError: for folders that are missing or lie in each other, or an unknown layout.
        DataError: if nothing can be used; the ledger is written all the same.
    """
    source, out, labels = _folders(source, out, labels)
    found = walk(source)
    outside = _outside(source, labels, start=len(found))
    if not found and not outside:
        raise DataError(
            f"no files below '{source}': expected DICOM or NIfTI; check the folder", reason="no_files"
        )
    keys = Keys.load_or_create(home / KEY_FILE)
    with sole_use(out) as staging, Sandbox(workers or len(os.sched_getaffinity(0))) as sandbox:
        old = earlier_dataset(out, _project(keys))
        ledger = Ledger(
            _file_keys(keys, source, found) | _file_keys(keys, labels or source, outside, "labels:")
        )
        bench = Bench(keys, ledger, staging, sandbox, progress)
        made, used = _read_all(bench, source, labels, entries=[*found, *outside], layout=layout)
        if not made:
            _give_up(ledger, out, old)
        info = DatasetInfo(
            name=name or _name_of(used),
            settings=_settings(keys, used, labels),
            label_names=_label_names(used, made),
        )
        return publish(out, info, made, ledger=ledger, old=old)


def _folders(source: Path, out: Path, labels: Path | None) -> tuple[Path, Path, Path | None]:
    """Return the folders without links, or say which of them cannot be used together."""
    for what, folder in (("source", source), ("labels", labels)):
        if folder is not None and not folder.is_dir():
            raise UsageError(
                f"{what} folder '{folder}' is not there: expected an existing folder; check the path"
            )
    source, out, labels = source.resolve(), out.resolve(), labels.resolve() if labels else None
    if out.exists() and not out.is_dir():
        raise UsageError(
            f"--out '{out}' is a file: expected a folder, new or of an earlier run; choose another"
        )
    for what, folder in (("source", source), ("labels", labels)):
        if folder is not None and (out.is_relative_to(folder) or folder.is_relative_to(out)):
            raise UsageError(
                f"--out '{out}' and the {what} folder '{folder}' lie in each other: expected two places, "
                "so that a dataset is never read as its own source; choose another --out"
            )
    if labels and labels != source and source.is_relative_to(labels):
        raise UsageError(
            f"labels folder '{labels}' holds the source: expected it beside or below; choose another"
        )
    return source, out, labels


def _outside(source: Path, labels: Path | None, *, start: int) -> list[Found]:
    """Return the files of a labels folder that the walk of the source does not meet."""
    return [] if labels is None or labels.is_relative_to(source) else walk(labels, start=start)


def _file_keys(keys: Keys, root: Path, entries: Sequence[Found], prefix: str = "") -> dict[int, str]:
    return {one.number: keys.key("file", prefix + str(one.path.relative_to(root))) for one in entries}


def _read_all(
    bench: Bench, source: Path, labels: Path | None, *, entries: Sequence[Found], layout: str | None
) -> tuple[list[Made], Layout | None]:
    """Look at every file, then make volumes of DICOM, volumes of NIfTI, and attach labels."""
    paths = {one.number: one.path for one in entries if one.reason is None}
    seen = _scan(bench, paths)
    _refuse_unreadable(bench, entries, seen)
    made = volumes_from_dicom(bench, seen, paths)
    series_names = {one.series for one in seen.values() if one.series}
    label_files: dict[int, Path] = {}
    rest: dict[int, Seen] = {}
    for number, one in seen.items():
        path = paths[number]
        if one.header is not None or one.fate == "quarantined":
            continue
        if one.nifti and (_below(path, labels) or stem_of(path) in series_names):
            label_files[number] = path
        elif _below(path, source):
            rest[number] = one
        else:
            bench.ledger.put([number], "skipped", one.reason)
    more, used = volumes_from_nifti(bench, source, seen=rest, paths=paths, layout=layout)
    return with_labels(bench, [*made, *more], label_files), used


def _refuse_unreadable(bench: Bench, entries: Sequence[Found], seen: Mapping[int, Seen]) -> None:
    """Write the fate of entries that are no files, and of files that cannot be used."""
    for entry in entries:
        if entry.reason == "unreadable":
            bench.ledger.put([entry.number], "quarantined", entry.reason)
        elif entry.reason is not None:
            bench.ledger.put([entry.number], "skipped", entry.reason)
    for number, one in seen.items():
        if one.fate == "quarantined":
            bench.ledger.put([number], one.fate, one.reason, measured=one.measured)


def _scan(bench: Bench, paths: Mapping[int, Path]) -> dict[int, Seen]:
    answers = bench.each("scan", look, [{"path": str(path)} for path in paths.values()])
    seen = {}
    for number, answer in zip(paths, answers, strict=True):
        if answer.value is None:
            seen[number] = Seen(fate="quarantined", reason=answer.reason or "parser_error")
        else:
            seen[number] = Seen.model_validate(answer.value)
    return seen


def _below(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.is_relative_to(folder)


def _give_up(ledger: Ledger, out: Path, old: Dataset | None) -> None:
    """Write the ledger, unless that of a dataset is there, and say why there is nothing."""
    if old is None:
        files.write_jsonl(out / "ledger.jsonl", (row.model_dump(mode="json") for row in ledger.rows()))
    kept = (
        "the dataset that was there is left as it was"
        if old
        else f"each file's fate is in '{out}/ledger.jsonl'"
    )
    raise DataError(f"nothing usable: {ledger.summary()}; {kept}", reason="nothing_usable")


def _name_of(layout: Layout | None) -> str:
    return layout.name if layout and layout.cases and layout.name != FALLBACK else "dataset"


def _project(keys: Keys) -> str:
    """Return what tells one project's key from another's."""
    return keys.key("project", "")


def _settings(keys: Keys, layout: Layout | None, labels: Path | None) -> dict[str, Any]:
    """Return how the dataset was made, without any word of the source."""
    return {
        "project": _project(keys),
        "layout": layout.name if layout else None,
        "labels": labels is not None,
        "converter": f"dcm2niix {dcm2niix.__version__}",
        "min_slices": series.MIN_SLICES,
        "even_voxels": series.EVEN_VOXELS,
        "repaired_voxels": series.REPAIRED_VOXELS,
        "max_voxels_off": convert.MAX_VOXELS_OFF,
    }


def _label_names(layout: Layout | None, made: Sequence[Made]) -> dict[int, str]:
    """Return a name for every class that occurs: the layout's, or its number."""
    known = dict(layout.label_names) if layout else {}
    for number in sorted({number for one in made for number in one.classes}):
        known.setdefault(number, f"class {number}")
    return dict(sorted(known.items()))
