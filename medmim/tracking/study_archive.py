"""Archives that contain a study in one file: runs, artifacts, and a manifest with the SHA-256 of every file.

manifest.json              format version, and path → SHA-256 and size of every other file
runs/<number>/run.json     values of a run
runs/<number>/artifacts/   artifacts of the run
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from medmim import __version__, files
from medmim.data.formats.file_types import open_regular
from medmim.errors import DataError, RunError
from medmim.tracking.mlflow_store import Store
from medmim.tracking.rebuild import write_missing_records
from medmim.tracking.run_copies import RunCopy, copy_of, with_parents
from medmim.tracking.run_ids import ORIGIN
from medmim.tracking.study_runs import PARENT
from medmim.tracking.upload import Uploader, UploadSummary

MANIFEST = "manifest.json"
FORMAT = 1
_NAME = re.compile(r"runs/[0-9]+/(run\.json|artifacts/[^\\:\x00-\x1f]+)")
_WORD = re.compile(r"[^/\\:\x00-\x1f.][^/\\:\x00-\x1f]{0,249}")
_KEY = re.compile(r"[\w./ :-]{1,250}")  # of MLflow
_UNPACKING = ".unpacking"
_MAX_BYTES, _SMALL_BYTES = 64 << 30, 64 << 20
_MAX_RATIO = 50  # unpacked to packed bytes; weights have 1.1, text and pictures up to 20
_MANIFEST_BYTES = 64 << 20
# raised by zipfile and json for damaged data, including encrypted or unsupported entries
_DAMAGE = (
    *(OSError, MlflowException, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, struct.error),
    *(ValueError, KeyError, TypeError, AttributeError),
)
_STAMP = (1980, 1, 1, 0, 0, 0)  # a fixed time, so that equal content gives equal files


def pack(store: Store, runs: Sequence[Run], out: Path) -> int:
    """Write runs and their ancestors into one file; return the number of runs."""
    if not runs:
        raise RunError(
            "nothing to pack: this home folder has no run of that study; list the studies with `medmim ui`"
        )
    chosen = with_parents(store, runs)
    manifest: dict[str, Any] = {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}.", delete=False) as staged:
        place = Path(staged.name)
    try:
        with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
            for number, run in enumerate(chosen):
                copy = copy_of(store, run)
                _add(archive, manifest, f"runs/{number}/run.json", files.json_bytes(copy.as_json()))
                for path in copy.artifacts:
                    content = (copy.folder / path).read_bytes()
                    _add(archive, manifest, f"runs/{number}/artifacts/{path}", content)
            described = {"format": FORMAT, "medmim_version": __version__, "files": manifest}
            archive.writestr(zipfile.ZipInfo(MANIFEST, _STAMP), files.json_bytes(described))
        files.move(place, out)
    finally:
        place.unlink(missing_ok=True)
    return len(chosen)


def unpack(store: Store, path: Path) -> UploadSummary:
    """Merge a pack into the local store; runs that the store already contains stay unchanged.

    Raises:
        RunError: if the file is not a pack, is damaged, or contains unsafe names; nothing is merged.
    """
    folder = store.home / _UNPACKING
    with files.lock(folder):
        _clear(folder)  # files left by a killed process
        try:
            copies = _read(path, folder)
            delivery = Uploader(store.client, store.experiment)
            for copy in copies:
                delivery.put(copy)
            write_missing_records(store)
        finally:
            _clear(folder)
    return delivery.sent


def _clear(folder: Path) -> None:
    shutil.rmtree(folder / "runs", ignore_errors=True)


def _add(archive: zipfile.ZipFile, manifest: dict[str, Any], name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _STAMP)
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, content)
    manifest[name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def _read(path: Path, folder: Path) -> list[RunCopy]:
    """Extract and verify every file into `folder`, then return the copies of the runs."""
    try:
        with open_regular(path) as packed, zipfile.ZipFile(packed) as archive:
            listed = _manifest(archive, packed=path.stat().st_size)
            for name, facts in listed.items():
                _extract(archive, name, facts, folder / name)
            places = sorted((folder / "runs").iterdir(), key=lambda place: int(place.name))
            copies = [_copy(place) for place in places]
    except DataError as error:
        raise RunError(f"'{path}' cannot be unpacked: {error}") from error
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the file
            raise
        raise RunError(
            f"'{path}' cannot be unpacked ({type(error).__name__}): expected a complete file written by "
            "`medmim pack`"
        ) from error
    for copy in copies:
        _refuse_foreign(copy)
    return copies


def _copy(place: Path) -> RunCopy:
    content = json.loads((place / "run.json").read_text(encoding="utf-8"))
    return RunCopy.from_json(content, folder=place / "artifacts")


def _refuse_foreign(copy: RunCopy) -> None:
    """Reject a pack that refers to files it does not contain, or whose names could act as paths."""
    held = {path.relative_to(copy.folder).as_posix() for path in copy.folder.rglob("*") if path.is_file()}
    words = [copy.experiment, *(version.model for version in copy.versions)]
    ids = [copy.origin, *([copy.parent] if copy.parent else [])]
    keys = [*copy.params, *copy.tags, *(key for version in copy.versions for key in version.tags)]
    named = all(map(_WORD.fullmatch, words)) and all(map(_KEY.fullmatch, keys))
    ours = {ORIGIN, PARENT}.isdisjoint(copy.tags) and all(word.isalnum() for word in ids)
    if held != set(copy.artifacts) or not named or not ours:
        raise RunError(
            "this pack contains unexpected files, or unsafe names of experiments, models, runs or tags: do "
            "not trust it"
        )


def _manifest(archive: zipfile.ZipFile, *, packed: int) -> dict[str, Any]:
    if archive.getinfo(MANIFEST).file_size > _MANIFEST_BYTES:
        raise RunError("the manifest of this pack is too large: it was not written by `medmim pack`")
    described = json.loads(archive.read(MANIFEST))
    if described["format"] > FORMAT:
        raise RunError(f"this pack has format {described['format']}: install a newer medmim")
    listed: dict[str, Any] = described["files"]
    if set(archive.namelist()) != {*listed, MANIFEST}:
        raise RunError("the files of this pack do not match its manifest: request the pack again")
    for name in listed:
        if not _NAME.fullmatch(name) or ".." in name.split("/") or "" in name.split("/"):
            raise RunError("this pack contains a path outside its own folder: do not trust it")
    sizes = [int(facts["size"]) for facts in listed.values()]
    if min(sizes, default=0) < 0 or sum(sizes) > min(_MAX_BYTES, max(_SMALL_BYTES, _MAX_RATIO * packed)):
        raise RunError(
            f"this pack of {packed >> 20} MiB claims to contain {sum(sizes) >> 20} MiB: do not trust it "
            f"(expected at most {_MAX_BYTES >> 30} GiB and {_MAX_RATIO} times its size)"
        )
    return listed


def _extract(archive: zipfile.ZipFile, name: str, facts: dict[str, Any], target: Path) -> None:
    """Extract a file in chunks, at most as many bytes as the manifest lists, and verify its SHA-256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), int(facts["size"])
    with archive.open(name) as stream, target.open("wb") as written:
        while piece := stream.read(min(left + 1, 1 << 20)):
            left -= len(piece)
            if left < 0:
                break
            digest.update(piece)
            written.write(piece)
    if left or digest.hexdigest() != facts["sha256"]:
        raise RunError(
            "this pack is damaged: the SHA-256 of a file differs from the manifest; request the pack again"
        )
