"""Reports of internal errors: modules, lines and versions, without messages, values or paths."""

from __future__ import annotations

import hashlib
import platform
import traceback
from importlib.metadata import PackageNotFoundError, version

from medmim import __version__, files
from medmim.cli.options import home
from medmim.errors import UsageError, causes, raised_in

_PACKAGES = ("torch", "lightning", "monai", "mlflow", "numpy", "pydicom")


def report_error(error: Exception) -> str:
    """Write a report of an internal error to the home folder; return the line for the user."""
    content = report_text(error)
    name = f"error-{hashlib.sha256(content.encode()).hexdigest()[:8]}.txt"
    try:
        folder = home() / "errors"
        files.private_folder(folder)
        files.write_text(folder / name, content)
    except (OSError, UsageError):  # MEDMIM_HOME is a file
        where = "please report it"
    else:
        where = f"please report it with '{folder / name}', which contains no data"
    # without the message of the error, because it may quote a scan
    kind = f"internal error, {type(error).__name__} in {raised_in(error)}"
    return f"{kind}; {where} (MEDMIM_DEBUG=1 shows the traceback)"


def report_text(error: BaseException) -> str:
    """Return the types and frames of an error and its causes, with the versions of packages."""
    lines = [f"medmim {__version__}, Python {platform.python_version()}, {platform.system()}"]
    lines += [f"{name} {_version(name)}" for name in _PACKAGES]
    for cause in causes(error):
        lines += ["", type(cause).__name__]
        lines += [
            f"  {frame.f_globals.get('__name__')}:{line} {frame.f_code.co_name}"
            for frame, line in traceback.walk_tb(cause.__traceback__)
        ]
    return "\n".join(lines) + "\n"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is not installed"
