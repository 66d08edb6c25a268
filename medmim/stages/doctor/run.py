"""`medmim doctor`: checks of this machine, each with advice on what to do."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

import dcm2niix
from packaging.requirements import Requirement
from packaging.version import Version
from pydicom import uid
from pydicom.pixels import get_decoder

from medmim.data.dataset.pseudonyms import KEY_FILE, SECRET_BYTES
from medmim.errors import RunError
from medmim.stages.doctor import Check
from medmim.stages.doctor.graphics_cards import check_graphics, graphics_of_this_machine
from medmim.stages.doctor.repair import check_permissions, check_store
from medmim.stages.doctor.tracking_server import Client, check_server
from medmim.training.precision import has_bf16

_GB = 1e9
_REQUIRED_GB, _RECOMMENDED_GB = 2.0, 20.0
_NEWEST_TESTED = {"torch": (2, 15)}  # with which the suite has passed
_EXTRAS = {
    "itk": "only for NRRD, MetaImage, and a second decoder of lossless and 12-bit JPEG in DICOM",
    "ui": "only for `medmim ui`",
}
_SYNTAXES = {
    "JPEG": (uid.JPEGBaseline8Bit, "Pillow"),
    "JPEG-LS": (uid.JPEGLSLossless, "pyjpegls"),
    "JPEG 2000": (uid.JPEG2000Lossless, "pylibjpeg-openjpeg"),
    "RLE": (uid.RLELossless, "pylibjpeg-rle"),
}


@dataclass(frozen=True)
class DoctorReport:
    """All checks, in the order of the table."""

    checks: tuple[Check, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        bad = any(check.status == "bad" for check in self.checks)
        return {"ok": not bad, "checks": [check._asdict() for check in self.checks]}


def doctor(
    home: Path, environment: Mapping[str, str] = os.environ, *, data: Sequence[Path] = ()
) -> DoctorReport:
    """Check versions, devices, decoders, disk, key file, permissions and the tracking server."""
    return DoctorReport(
        (
            *check_packages(requires("medmim") or ()),
            check_graphics(graphics_of_this_machine()),
            _precision(),
            *check_decoders(),
            check_disk(home),
            _key_file(home / KEY_FILE),
            check_permissions((home, *data)),
            check_store(home),
            check_server(environment, Client()),
        )
    )


def refuse_bad(result: DoctorReport) -> None:
    """Raise RunError with the number of failed checks and the first one, if any failed."""
    bad = [check for check in result.checks if check.status == "bad"]
    if bad:
        raise RunError(
            f"{len(bad)} of {len(result.checks)} checks failed, first '{bad[0].name}': {bad[0].advice}"
        )


def check_packages(
    requirements: Iterable[str], newest_tested: Mapping[str, tuple[int, int]] = _NEWEST_TESTED
) -> Iterator[Check]:
    """Compare installed packages with requirements, such as `torch>=2.11`, also of some extras.

    Args:
        requirements: as in the metadata of a package.
        newest_tested: newest version with which medmim was tested, by package.
    """
    yield Check("python", "ok", sys.version.split()[0])
    for text in sorted(requirements):
        wanted = Requirement(text)
        marker = wanted.marker
        of = next((one for one in ("", *_EXTRAS) if marker is None or marker.evaluate({"extra": one})), None)
        if of is not None:
            yield _check_version(wanted, of, newest_tested.get(wanted.name))


def _check_version(wanted: Requirement, extra: str, tested: tuple[int, int] | None) -> Check:
    install = f"pip install '{wanted.name}{wanted.specifier}'"
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        if extra:
            advice = f"{_EXTRAS[extra]}: pip install 'medmim[{extra}]'"
            return Check(wanted.name, "note", "not installed", advice)
        return Check(wanted.name, "bad", "not installed", install)
    if not wanted.specifier.contains(found, prereleases=True):
        return Check(wanted.name, "bad", f"{found}, expected {wanted.specifier}", install)
    if tested and Version(found).release[:2] > tested:
        newest = ".".join(map(str, tested))
        advice = f"newer than {newest}, the newest that medmim was tested with: report what differs"
        return Check(wanted.name, "note", f"{found}, expected {wanted.specifier}", advice)
    return Check(wanted.name, "ok", f"{found}, expected {wanted.specifier}")


def _precision() -> Check:
    if has_bf16():
        return Check("precision", "ok", "bf16: --precision auto uses it")
    return Check("precision", "note", "fp32", "no bf16 on this machine: --precision auto uses fp32")


def check_decoders(decoder_of: Callable[[str], Any] = get_decoder) -> Iterator[Check]:
    """Check the converter of volumes and the decoders of single images.

    Args:
        decoder_of: returns the decoder of a transfer syntax; `is_available` is whether it can be used.
    """
    program = Path(dcm2niix.bin)
    if os.access(program, os.X_OK):
        yield Check("dcm2niix program", "ok", dcm2niix.__version__)
    else:
        yield Check("dcm2niix program", "bad", "not installed", "pip install --force-reinstall dcm2niix")
    for name, (syntax, package) in _SYNTAXES.items():
        if decoder_of(syntax).is_available:
            yield Check(f"{name} pictures", "ok", "decoder installed")
        else:
            yield Check(f"{name} pictures", "bad", "no decoder", f"pip install {package}")


def check_disk(home: Path, free_bytes: Callable[[Path], float] | None = None) -> Check:
    """Check the home folder, or its nearest existing parent.

    Args:
        free_bytes: returns the free space of a folder; None: that of the disk.
    """
    # a dangling link counts as existing: no folder can be created in its place
    place = next(path for path in (home.absolute(), *home.absolute().parents) if os.path.lexists(path))
    advice = "set MEDMIM_HOME to a folder that you can write to"
    if not place.is_dir():
        return Check("disk", "bad", "MEDMIM_HOME is not a folder: runs cannot be written", advice)
    if not os.access(place, os.W_OK | os.X_OK):
        return Check("disk", "bad", "no write permission: runs cannot be written", advice)
    free = (free_bytes(place) if free_bytes else shutil.disk_usage(place).free) / _GB
    found = f"{free:.0f} GB free for runs"
    if free < _RECOMMENDED_GB:
        status: Literal["note", "bad"] = "bad" if free < _REQUIRED_GB else "note"
        return Check(
            "disk", status, found, f"expected {_RECOMMENDED_GB:.0f} GB: free disk space or move MEDMIM_HOME"
        )
    return Check("disk", "ok", found)


def _key_file(path: Path) -> Check:
    """Check the key file as `Keys` reads it, without following links."""
    if not os.path.lexists(path):
        return Check("key file", "ok", "none; the first ingest creates it")
    found, place = path.lstat(), f"$MEDMIM_HOME/{path.name}"
    mode = found.st_mode & 0o777
    if not stat.S_ISREG(found.st_mode):
        kind = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder"}.get(
            stat.S_IFMT(found.st_mode), "a special file"
        )
        advice = f"move it away and put the key file itself at {place}, or no file to start a new project"
        return Check("key file", "bad", f"{kind}, expected a regular file", advice)
    if found.st_size != SECRET_BYTES:
        advice = "restore it from a copy (then `chmod 600` it), or remove it to start a new project"
        return Check("key file", "bad", f"{found.st_size} bytes, expected {SECRET_BYTES}", advice)
    if mode & 0o077:
        return Check("key file", "bad", f"permissions {mode:o}", f"chmod 600 {place}")
    return Check("key file", "ok", f"permissions {mode:o}")
