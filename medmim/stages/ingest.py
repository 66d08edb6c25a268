"""`medmim ingest`: a folder of DICOM and NIfTI becomes a dataset folder in which every volume was checked."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dcm2niix

from medmim import files
from medmim.data.dataset.manifest import Dataset, DatasetInfo
from medmim.data.dicom import convert, slice_spacing
from medmim.data.ingest.archives import members_of
from medmim.data.ingest.context import IngestContext, IngestedVolume, IngestOptions, Progress
from medmim.data.ingest.dataset_json import dataset_json_in
from medmim.data.ingest.dicom_series import volumes_from_dicom
from medmim.data.ingest.dry_run import Preview, preview_of
from medmim.data.ingest.labels import is_label, with_labels
from medmim.data.ingest.layout import FALLBACK, DatasetLayout
from medmim.data.ingest.ledger import Ledger
from medmim.data.ingest.pseudonyms import SECRET_BYTES, Keys
from medmim.data.ingest.publish import earlier_dataset, publish, sole_use
from medmim.data.ingest.scan import ScannedFile, scan_file_as_json
from medmim.data.ingest.sources import SourceFile, Sources, find_files
from medmim.data.ingest.volumes import volumes_from_nifti
from medmim.data.sandbox.ray_cluster import connect_ray
from medmim.data.sandbox.ray_sandbox import RaySandbox
from medmim.data.sandbox.sandbox import Sandbox, for_scans
from medmim.errors import DataError, RunError


def preview(source: Path, out: Path, *, progress: Progress | None = None, **wishes: Any) -> Preview:
    """Look at every file below `source` and say what each series would become.

    Pixels are not read, so a volume of this table can still be refused by the checks of its conversion.

    Args:
        source: folder with scans; it is only read.
        out: the dataset folder that is meant; neither it nor the project's key is made.
        progress: told the phase, and how much of it is done.
        wishes: fields of `IngestOptions`.

    Raises:
        UsageError: for folders that are missing or lie in each other, or an unknown layout.
        DataError: if there is no file, or the named layout finds no image.
    """
    wanted = IngestOptions(**wishes)
    sources = find_files(source, out, wanted.labels)
    paths = {one.number: one.path for one in sources.entries if one.reason is None}
    keys = Keys(secrets.token_bytes(SECRET_BYTES))
    with tempfile.TemporaryDirectory(prefix="medmim-") as staging, for_scans(wanted.workers) as sandbox:
        bench = IngestContext(keys, Ledger({}), Path(staging), sandbox, progress, wanted)
        seen = scan(bench, paths)
        read = partial(dataset_json_in, bench)
        return preview_of(seen, paths, source=sources.source, layout=wanted.layout, read=read)


KEY_FILE = "project.key"


def ingest(
    source: Path,
    out: Path,
    *,
    home: Path,
    progress: Progress | None = None,
    sandbox: Sandbox | None = None,
    **wishes: Any,
) -> DatasetInfo:
    """Read everything below `source` and write the dataset folder `out`.

    The result depends on the source and the project's key only, never on the number of workers; subjects of
    a dataset that is already in `out` keep their split.

    Args:
        source: folder with DICOM and NIfTI files; it is only read.
        out: dataset folder, outside of the source.
        home: folder of the project, where the secret behind all keys is kept.
        progress: told the phase, and how much of it is done.
        sandbox: where files are parsed, if it was started before; it is left open.
        wishes: fields of `IngestOptions`.

    Raises:
        UsageError: for folders that are missing or lie in each other, or an unknown layout.
        DataError: if nothing can be used; the ledger is written all the same.
        RunError: if the disk is full or cannot be written to; what was there before is left as it was.
    """
    wanted = IngestOptions(**wishes)
    sources = find_files(source, out, wanted.labels)
    try:
        with contextlib.nullcontext(sandbox) if sandbox else for_scans(wanted.workers) as parsers:
            return _ingest(sources, wanted, home=home, progress=progress, sandbox=parsers)
    except OSError as error:  # those of the source end in the ledger: this is about what is written
        raise RunError(
            f"cannot write to '{out}' or '{home}' ({error.strerror or type(error).__name__}): expected room "
            "and the right to write there; see to it and run the same command again, nothing is lost"
        ) from error


def _ingest(
    sources: Sources, wishes: IngestOptions, *, home: Path, progress: Progress | None, sandbox: Sandbox
) -> DatasetInfo:
    keys = Keys.load_or_create(home / KEY_FILE)
    out = sources.out
    with sole_use(out) as staging, _at(sandbox, sources, staging, wishes) as parsers:
        old = earlier_dataset(out, _project(keys))
        ledger = Ledger(sources.keys(keys))
        bench = IngestContext(keys, ledger, staging, parsers, progress, wishes)
        made, used = _read_all(bench, sources)
        if not made:
            _give_up(ledger, out, old)
        info = DatasetInfo(
            name=wishes.name or _name_of(used),
            settings=_settings(keys, used, wishes),
            label_names=_label_names(used, made, wishes),
        )
        return publish(out, info, made, ledger=ledger, old=old)


@contextlib.contextmanager
def _at(
    sandbox: Sandbox, sources: Sources, staging: Path, wishes: IngestOptions
) -> Iterator[Sandbox | RaySandbox]:
    """Give child processes, on this machine or on the nodes of a cluster."""
    if wishes.engine == "local":
        yield sandbox
        return
    folders = [sources.source, *([sources.labels] if sources.labels else [])]
    with connect_ray(wishes.address or "auto", at_once=wishes.workers) as engine:
        yield RaySandbox(engine, staging, folders)


def _read_all(bench: IngestContext, sources: Sources) -> tuple[list[IngestedVolume], DatasetLayout | None]:
    """Look at every file, then make volumes of DICOM, volumes of NIfTI, and attach labels."""
    source, entries = sources.source, sources.entries
    paths = {one.number: one.path for one in entries if one.reason is None}
    seen = scan(bench, paths)
    _refuse_unreadable(bench, entries, seen)
    seen, paths = members_of(bench, seen, paths, sources.keys(bench.keys), scan=scan)
    made = volumes_from_dicom(bench, seen, {number: bench.file(path) for number, path in paths.items()})
    label_files, rest = _route(bench, sources, seen, paths)
    more, used = volumes_from_nifti(bench, source, seen=rest, paths=paths, layout=bench.wishes.layout)
    return with_labels(bench, [*made, *more], label_files, seen), used


def _route(
    bench: IngestContext, sources: Sources, seen: Mapping[int, ScannedFile], paths: Mapping[int, Path]
) -> tuple[dict[int, Path], dict[int, ScannedFile]]:
    """Return the files that are labels by themselves, and those that a data set's layout must explain."""
    series = {one.series for one in seen.values() if one.series}
    scans = any(one.header is not None for one in seen.values())
    label_files: dict[int, Path] = {}
    rest: dict[int, ScannedFile] = {}
    for number, one in seen.items():
        path = paths[number]
        if one.header is not None or one.fate == "quarantined":
            continue
        if is_label(path, one, folder=sources.labels, series=series):
            label_files[number] = path
        elif one.reason == "mac_metadata":  # called like the image that it lies beside
            bench.ledger.put([number], "skipped", one.reason)
        elif one.reason == "picture" and scans and bench.wishes.layout is None:
            bench.ledger.put([number], "skipped", "picture_beside_scans")  # often a screen with a name on it
        elif _below(path, sources.source):
            rest[number] = one
        else:
            bench.ledger.put([number], "skipped", one.reason)
    return label_files, rest


def _refuse_unreadable(
    bench: IngestContext, entries: Sequence[SourceFile], seen: Mapping[int, ScannedFile]
) -> None:
    """Write the fate of entries that are no files, and of files that cannot be used."""
    for entry in entries:
        if entry.reason == "unreadable":
            bench.ledger.put([entry.number], "quarantined", entry.reason)
        elif entry.reason is not None:
            bench.ledger.put([entry.number], "skipped", entry.reason)
    for number, one in seen.items():
        if one.fate == "quarantined":
            bench.ledger.put([number], one.fate, one.reason, measured=one.measured)


def scan(bench: IngestContext, paths: Mapping[int, Path]) -> dict[int, ScannedFile]:
    """Return what each file is; those whose reader did not survive are quarantined."""
    tasks = [{"path": str(path)} for path in paths.values()]
    answers = bench.each("scan", scan_file_as_json, tasks, keep=ScannedFile.model_validate)
    return {
        number: answer.value or ScannedFile(fate="quarantined", reason=answer.reason or "parser_error")
        for number, answer in zip(paths, answers, strict=True)
    }


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


def _name_of(layout: DatasetLayout | None) -> str:
    return (
        layout.name if layout and (layout.cases or layout.arrays) and layout.name != FALLBACK else "dataset"
    )


def _project(keys: Keys) -> str:
    """Return what tells one project's key from another's."""
    return keys.key("project", "")


def _settings(keys: Keys, layout: DatasetLayout | None, wishes: IngestOptions) -> dict[str, Any]:
    """Return how the dataset was made, without any word of the source."""
    return {
        "project": _project(keys),
        "layout": layout.name if layout else None,
        "labels": wishes.labels is not None,
        "converter": f"dcm2niix {dcm2niix.__version__}",
        "min_slices": slice_spacing.MIN_SLICES,
        "even_voxels": slice_spacing.EVEN_VOXELS,
        "repaired_voxels": slice_spacing.REPAIRED_VOXELS,
        "max_voxels_off": convert.MAX_VOXELS_OFF,
    }


def _label_names(
    layout: DatasetLayout | None, made: Sequence[IngestedVolume], wishes: IngestOptions
) -> dict[int, str]:
    """Return a name for every class that occurs: the user's, the layout's, the label's own, or its number."""
    known = dict(layout.label_names) if layout else {}
    for one in made:
        known = {**one.class_names, **known}
    known |= wishes.label_names
    for number in sorted({number for one in made for number in one.classes}):
        known.setdefault(number, f"class {number}")
    return dict(sorted(known.items()))
