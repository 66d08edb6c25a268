"""`medmim ingest`: convert DICOM, NIfTI and image files to a dataset folder of checked volumes."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import dcm2niix

from medmim import files
from medmim.data.dataset.manifest import Dataset, DatasetInfo
from medmim.data.dataset.pseudonyms import KEY_FILE, SECRET_BYTES, Keys
from medmim.data.dicom import conversion_task, slice_spacing
from medmim.data.formats.labels import stored_ignore_label
from medmim.data.formats.slicer_segments import SLICER_NAMES
from medmim.data.ingest.annotation_conflicts import refuse_equal_names
from medmim.data.ingest.archives import locate_links, unpack_archives
from medmim.data.ingest.cases import DatasetLayout
from medmim.data.ingest.context import IngestContext, IngestedVolume, IngestOptions, Progress
from medmim.data.ingest.dataset_warnings import describe_unmatched_labels, layout_warnings
from medmim.data.ingest.dicom_labels import number_slicer_labels
from medmim.data.ingest.dicom_masks import DicomMask, masks_from_dicom, take_given_roles
from medmim.data.ingest.dicom_series import volumes_from_dicom
from medmim.data.ingest.dicom_subjects import apply_subject_rule, doubtful_patients
from medmim.data.ingest.dry_run import Preview, preview_of
from medmim.data.ingest.labels import attach_labels, find_labels
from medmim.data.ingest.layout import FALLBACK
from medmim.data.ingest.ledger import Ledger
from medmim.data.ingest.masks_of_series import SeriesMask
from medmim.data.ingest.path_words import reason_beside_scans
from medmim.data.ingest.publish import FIRST_SOURCE, Publication, earlier_dataset, publish
from medmim.data.ingest.scan import ScannedFile, scan_file_as_json
from medmim.data.ingest.sources import SourceFile, Sources, find_files
from medmim.data.ingest.splits_file import SplitsFile, apply_splits
from medmim.data.ingest.staging import locked_staging_folder
from medmim.data.ingest.volumes import volumes_from_nifti
from medmim.data.sandbox.ray_cluster import connect_ray
from medmim.data.sandbox.ray_sandbox import RaySandbox
from medmim.data.sandbox.sandbox import Sandbox, for_scans
from medmim.errors import DataError, RunError, UsageError


def preview(source: Path, out: Path, *, progress: Progress | None = None, **options: Any) -> Preview:
    """Scan every file below `source` and return what ingestion would make of it; nothing is written.

    Pixels are not read, so a volume of the preview can still be refused by the checks of its conversion.
    """
    given = IngestOptions(**options)
    sources = find_files(source, out, given.labels, follow_links=given.follow_links)
    with tempfile.TemporaryDirectory(prefix="medmim-") as staging, for_scans(given.workers) as sandbox:
        keys = Keys(secrets.token_bytes(SECRET_BYTES))
        context = IngestContext(keys, Ledger({}), Path(staging), sandbox, progress, given)
        locate_links(context, sources)
        return preview_of(context, sources, scan(context, sources.readable))


def ingest(
    source: Path,
    out: Path,
    *,
    home: Path,
    progress: Progress | None = None,
    sandbox: Sandbox | None = None,
    **options: Any,
) -> DatasetInfo:
    """Read everything below `source` and write the dataset folder `out`.

    The result depends only on the source and the project key, not on the number of workers. Subjects of a
    dataset that already exists in `out` keep their split.

    Args:
        source: folder, file or archive with scans; it is only read.
        progress: called with the phase, finished and total number of tasks.
        sandbox: a running sandbox to parse files in; it is not closed.

    Raises:
        UsageError: for invalid paths or an unknown layout.
        DataError: if no file can be used; the ledger is written nevertheless.
        RunError: if the dataset cannot be written; an existing dataset is not changed.
    """
    given = IngestOptions(**options)
    sources = find_files(source, out, given.labels, follow_links=given.follow_links)
    try:
        with contextlib.nullcontext(sandbox) if sandbox else for_scans(given.workers) as parsers:
            return _ingest(sources, given, home=home, progress=progress, sandbox=parsers)
    except OSError as error:  # errors of the source are in the ledger: this one is about writing
        raise RunError(
            f"cannot write to '{out}' or '{home}' ({error.strerror or type(error).__name__}): expected free "
            "space and write permission; nothing was lost, so correct this and run the same command again"
        ) from error


def _ingest(
    sources: Sources, options: IngestOptions, *, home: Path, progress: Progress | None, sandbox: Sandbox
) -> DatasetInfo:
    keys = Keys.load_or_create(home / KEY_FILE)
    out = sources.out
    with locked_staging_folder(out) as staging, _engine(sandbox, sources, staging, options) as parsers:
        old = earlier_dataset(out, _project(keys))
        options = _with_source(options, out, old)
        ledger = Ledger(sources.keys(keys.scoped(options.source_name) if options.source_name else keys))
        context = IngestContext(keys, ledger, staging, parsers, progress, options)
        made, layout, doubts = _read_all(context, sources)
        if not made:
            _fail(ledger, out, old, "no usable file")
        declared = {name: number for number, name in (layout.label_names if layout else {}).items()}
        if options.ignore_label is None:  # nnU-Net's name of voxels that nobody annotated
            options = replace(options, ignore_label=declared.get("ignore"))
        rows = ledger.rows()
        if unmatched := describe_unmatched_labels(sources, rows, made):
            _fail(ledger, out, old, unmatched)
        if options.splits:
            splits = SplitsFile.read(options.splits, options.splits_fold)
            made = apply_splits(made, splits, (context.file_keys, keys))
        info = DatasetInfo(
            name=options.name or (old.info.name if old and options.add else _dataset_name(layout)),
            settings=_settings(keys, layout, options),
            label_names=_label_names(layout, made, options),
            ignore_label=stored_ignore_label(options.ignore_label),
            warnings=(*layout_warnings(layout, rows, made, ignore_label=options.ignore_label), *doubts),
        )
        source = options.source_name or (FIRST_SOURCE if options.add else None)
        return publish(Publication(out, info, made, rows, old, source, fixed_splits=bool(options.splits)))


def _with_source(options: IngestOptions, out: Path, old: Dataset | None) -> IngestOptions:
    """Return the options with the name of the source: the next free one if a source is added."""
    if not options.add:
        known = {volume.source for volume in old.volumes} if old else set()
        if options.source_name and not known <= {options.source_name}:
            raise UsageError(
                f"--source {options.source_name}: '{out}' contains another source; use --add '{out}' instead "
                "of --out, or choose another --out"
            )
        return options
    if old is None:
        raise UsageError(
            f"--add '{out}': expected an existing dataset; ingest the first source with --out '{out}'"
        )
    known = {volume.source or FIRST_SOURCE for volume in old.volumes}
    free = next(name for number in count(2) if (name := f"source-{number}") not in known)
    source = options.source_name or free
    return replace(options, source_name=None if source == FIRST_SOURCE else source)


@contextlib.contextmanager
def _engine(
    sandbox: Sandbox, sources: Sources, staging: Path, options: IngestOptions
) -> Iterator[Sandbox | RaySandbox]:
    """Yield the sandbox of this machine, or one on the nodes of a Ray cluster."""
    if options.engine == "local":
        yield sandbox
        return
    folders = [sources.source, *([sources.labels] if sources.labels else [])]
    with connect_ray(options.address or "auto", at_once=options.workers) as engine:
        yield RaySandbox(engine, staging, folders)


def _read_all(
    context: IngestContext, sources: Sources
) -> tuple[list[IngestedVolume], DatasetLayout | None, tuple[dict[str, Any], ...]]:
    """Scan every file, ingest DICOM and other volumes, attach labels, and return warnings."""
    locate_links(context, sources)
    paths = sources.readable
    scanned = scan(context, paths)
    _record_unreadable(context, sources.entries, scanned)
    scanned, paths = unpack_archives(context, scanned, paths, sources.keys(context.keys), scan=scan)
    scanned = apply_subject_rule(context.options.rules.subjects, scanned, paths, sources.source)
    readable = {number: context.file(path) for number, path in paths.items()}
    slicer = [path for path in paths.values() if path.name.lower().endswith(SLICER_NAMES)]
    segment_names, overlaps = number_slicer_labels(context, slicer)
    images, labels, skipped = take_given_roles(context, sources.source, scanned, paths)
    context.ledger.record(skipped, "skipped", "skipped_by_role")
    made = volumes_from_dicom(context, images, readable)
    drawn = masks_from_dicom(context, labels, readable)
    label_files, masks, rest = _route(context, sources, images, paths, drawn)
    more, layout = volumes_from_nifti(
        context, sources.source, seen=rest, paths=paths, beside_dicom=bool(made)
    )
    doubts = (*overlaps, *doubtful_patients(scanned, paths, sources.source))
    if made and more and not context.options.rules.subjects:
        doubts = ({"kind": "patients_by_two_rules", "images": len(more), "dicom": len(made)}, *doubts)
    made = attach_labels(context, [*made, *more], label_files, scanned, masks)
    return [_with_names(one, segment_names) for one in made], layout, doubts


def _with_names(one: IngestedVolume, names: Mapping[int, str]) -> IngestedVolume:
    """Return a volume with the names of the classes of its label that have none."""
    found = {number: names[number] for number in one.classes if number in names}
    return replace(one, class_names={**found, **one.class_names}) if found else one


def _route(
    context: IngestContext,
    sources: Sources,
    scanned: Mapping[int, ScannedFile],
    paths: Mapping[int, Path],
    drawn: Sequence[DicomMask],
) -> tuple[dict[int, Path], list[SeriesMask], dict[int, ScannedFile]]:
    """Return the files that are labels without a layout, the masks of series, and all other files."""
    has_dicom = any(one.header is not None for one in scanned.values())
    undescribed = has_dicom and context.options.layout is None
    label_files, masks = find_labels(context, sources, scanned, paths, drawn)
    rest: dict[int, ScannedFile] = {}
    for number, one in scanned.items():
        path = paths[number]
        if one.header is not None or one.fate == "quarantined" or number in label_files:
            continue
        if one.reason == "mac_metadata":  # has the name of an image
            context.ledger.record([number], "skipped", one.reason)
        elif one.reason == "picture" and undescribed:
            context.ledger.record([number], "skipped", reason_beside_scans(path.name))
        elif path.is_relative_to(sources.source):
            rest[number] = one
        else:
            context.ledger.record([number], "skipped", one.reason)
    return label_files, masks, rest


def _record_unreadable(
    context: IngestContext, entries: Sequence[SourceFile], scanned: Mapping[int, ScannedFile]
) -> None:
    """Record the outcome of entries that are not files, and of files that cannot be used."""
    for entry in entries:
        if entry.reason is not None:
            fate = "quarantined" if entry.reason == "unreadable" else "skipped"
            context.ledger.record([entry.number], fate, entry.reason)  # type: ignore[arg-type]
    for number, one in scanned.items():
        if one.fate == "quarantined":
            context.ledger.record([number], one.fate, one.reason, measured=one.measured)


def scan(context: IngestContext, paths: Mapping[int, Path]) -> dict[int, ScannedFile]:
    """Return the type of each file; files that crash their parser are quarantined."""
    secret = context.keys.key("person", "")
    tasks = [{"path": str(context.file(path)), "secret": secret} for path in paths.values()]
    answers = context.each("scan", scan_file_as_json, tasks, keep=ScannedFile.model_validate)
    return {
        number: answer.value or ScannedFile(fate="quarantined", reason=answer.reason or "parser_error")
        for number, answer in zip(paths, answers, strict=True)
    }


def _fail(ledger: Ledger, out: Path, old: Dataset | None, problem: str) -> None:
    """Raise an error because the result would be useless; write the ledger unless `out` has a dataset."""
    if old is None:
        files.write_jsonl(out / "ledger.jsonl", (row.model_dump(mode="json") for row in ledger.rows()))
    kept = "the existing dataset is unchanged" if old else f"'{out}/ledger.jsonl' states each file's reason"
    uneven = any(row.reason in ("uneven_spacing", "missing_slice") for row in ledger.rows())
    remedy = "; --regrid or --keep-spacing accepts uneven or missing slices" if uneven else ""
    raise DataError(f"{problem}: {ledger.summary()}; {kept}{remedy}", reason="nothing_usable")


def _dataset_name(layout: DatasetLayout | None) -> str:
    named = layout and (layout.cases or layout.arrays) and (layout.called or layout.name != FALLBACK)
    return layout.title if layout and named else "dataset"


def _project(keys: Keys) -> str:
    """Return the fingerprint of the project key."""
    return keys.key("project", "")


def _settings(keys: Keys, layout: DatasetLayout | None, options: IngestOptions) -> dict[str, Any]:
    """Return how the dataset was made, without any text of the source."""
    return {
        "project": _project(keys),
        "layout": layout.name if layout else None,
        "labels": options.labels is not None,
        "converter": f"dcm2niix {dcm2niix.__version__}",
        "min_slices": slice_spacing.MIN_SLICES,
        "even_voxels": slice_spacing.EVEN_VOXELS,
        "repaired_voxels": slice_spacing.REPAIRED_VOXELS,
        "max_voxels_off": conversion_task.MAX_VOXELS_OFF,
    }


def _label_names(
    layout: DatasetLayout | None, made: Sequence[IngestedVolume], options: IngestOptions
) -> dict[int, str]:
    """Return the name of every class that occurs: the user's, the layout's, the label's, or its number."""
    known: dict[int, str] = {}
    for one in made:
        known = {**one.class_names, **known}
    known |= (layout.label_names if layout else {}) | dict(options.label_names)
    used = {number for one in made for number in one.classes}
    named = used if any(one.regions for one in made) else known.keys() | used  # codes of regions all occur
    known = {number: known.get(number, f"class {number}") for number in named}
    known.pop(stored_ignore_label(options.ignore_label) or 0, None)
    refuse_equal_names(known)
    return dict(sorted(known.items()))
