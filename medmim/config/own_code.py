"""Import of users' own code, named as `module:callable`: only here, and only on the user's own request.

An import path is followed only if it comes from the user: from the command line, a `--config` file,
`--trust-code` or a Python call. A path in a weights file, run, pack or store is refused otherwise: by the
function that reads it, and again by `import_callable`, once this process or its parent has trusted a list.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from medmim.errors import TRACEBACK, MedmimError, RunError, UsageError, causes, message_of

_LAST_FRAMES, _LONGEST_MESSAGE = 3, 300
_FRAME = re.compile(r'^ *File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<name>\S+)$', re.MULTILINE)
_RAISED = re.compile(r"^([A-Za-z_][\w.]*(?:: .*)?)$", re.MULTILINE)
_TIMM = re.compile(r"timm:[A-Za-z0-9_.]+")  # a network of timm's table, which no other code can join
CODE_TAG = "own_code"  # tag of a run: modules with the start of their SHA-256, as "masks 0a1b, more 2c3d"
TRUSTED = "MEDMIM_TRUST_CODE"  # import paths separated by commas; child processes inherit them
_sources: dict[str, str] = {}  # digests of the files of modules that this process imported
# settings whose value, or keys, may be import paths; `names`: of masks, on the command line
_NAMING = ("encoder", "mask", "rule", "masks", "augment", "names")


def trust(paths: Iterable[str]) -> None:
    """Allow import paths, in this process and its children."""
    os.environ[TRUSTED] = ",".join(sorted({*_trusted(), *paths}))


def trust_settings(*parts: Mapping[str, Any]) -> None:
    """Allow the import paths in settings that the user gave."""
    trust(path for part in parts for path in _paths_in(part))


def refuse_foreign_code(values: Mapping[str, Any], *, source: str) -> None:
    """Refuse a description or settings that name code which the user has not named.

    Raises:
        RunError: for the first import path that is not trusted.
    """
    for path in _paths_in(values):
        _refuse_untrusted(path, source)


def _refuse_untrusted(path: str, source: str) -> None:
    if path not in _trusted():
        raise RunError(
            f"{source}: needs the code '{path}', which medmim imports only with your permission; if you "
            f"know and trust this code, add --trust-code {path}"
        )


def import_callable(path: str, *, word: str, expected: str) -> Any:
    """Import `module:callable`, from the installed packages or the current folder.

    Raises:
        RunError: for a path that is not trusted, in a process that has a list of trusted paths: every command
            and every function of the Python API. A direct call without such a list is the user's own request.
        UsageError: if it cannot be imported.
    """
    if TRUSTED in os.environ:
        _refuse_untrusted(path, word)
    module, _, attribute = path.partition(":")
    _search_here()
    _sources.setdefault(
        module, _digest_of(module)
    )  # before the import: later changes are not in this process
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:  # ValueError: no module name
        raise UsageError(
            f"{word} {path}: cannot import it ({error}); expected an importable 'module:callable', "
            f"{expected}, in an installed package or the current folder"
        ) from error
    return found


def _search_here() -> None:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last: a file here never replaces an installed module


def code_tags(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the tag with the modules that settings name, each with the SHA-256 of its source file.

    The file is that of the import, if this process has imported the module. What such a module imports itself
    is not part of it. Empty without own code that is read from a file.
    """
    _search_here()
    paths = [path for path in _paths_in(settings) if TRUSTED not in os.environ or path in _trusted()]
    modules = sorted({path.partition(":")[0] for path in paths})
    found = [(one, _sources[one] if one in _sources else _digest_of(one)) for one in modules]
    texts = [f"{module} {digest}" for module, digest in found if digest]
    return {CODE_TAG: ", ".join(texts)} if texts else {}


def _digest_of(module: str) -> str:
    """Return the start of the SHA-256 of the file of a module; "" if it has none, as in a notebook."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):  # no module name, or `__main__`
        spec = None
    file = getattr(sys.modules.get(module), "__file__", None) or (spec and spec.origin)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file and Path(file).is_file() else ""


def explain_own_code(error: BaseException) -> str | None:
    """Return the error and the last frames of the user's own code that raised it; None for other errors.

    Libraries wrap errors, so the causes are searched from the innermost outwards.
    """
    roots = {path.partition(":")[0].partition(".")[0] for path in _trusted()} - {"medmim", "torch"}
    for cause in reversed([*causes(error)]):
        named = message_of(cause)
        if isinstance(cause, MedmimError) or named != str(cause):
            return named
        frames = [
            f"{frame.f_globals['__name__']}:{line} in {frame.f_code.co_name}"
            for frame, line in traceback.walk_tb(cause.__traceback__)
            if str(frame.f_globals.get("__name__")).partition(".")[0] in roots
        ]
        text = f"{type(cause).__name__}: {cause}"
        if not frames and TRACEBACK in str(cause):
            frames, text = _from_worker(str(cause), roots)
        if frames:
            text = text.partition("\n")[0][:_LONGEST_MESSAGE]
            advice = "correct it, or install what it imports"
            if "Packed" in text:
                advice = "it accepts plain tensors only: add --set compute=masked"
            return (
                f"your own code failed at {frames[-1]} ({text}); its last calls: "
                f"{' → '.join(frames[-_LAST_FRAMES:])}; {advice}"
            )
    return None


def _from_worker(text: str, roots: Collection[str]) -> tuple[list[str], str]:
    """Return the frames of own code and the error in the traceback that PyTorch copies from a worker."""
    own = [found for found in _FRAME.finditer(text) if Path(found["file"]).stem in roots]
    if own:
        raised = _RAISED.search(text, own[-1].end())
        frames = [f"{Path(one['file']).stem}:{one['line']} in {one['name']}" for one in own]
        return frames, raised[1] if raised else "error"
    return [], ""


def _trusted() -> set[str]:
    return set(filter(None, os.environ.get(TRUSTED, "").split(",")))


def _is_path(word: str) -> bool:
    """Return whether a name is an import path, and not one of a table, such as `mesh` or `timm:resnet18`."""
    return ":" in word and not _TIMM.fullmatch(word)


def _paths_in(values: Any) -> Iterator[str]:
    """Yield the import paths that settings or a description name, at any depth."""
    if isinstance(values, list | tuple):
        for value in values:
            yield from _paths_in(value)
    if isinstance(values, Mapping):
        for key, value in values.items():
            named = [value, *(value if isinstance(value, Mapping | list | tuple) else ())]
            if key in _NAMING:
                yield from (one for one in named if isinstance(one, str) and _is_path(one))
            yield from _paths_in(value)
