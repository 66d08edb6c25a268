"""Names of metrics as MLflow takes them: those of classes may hold any sign, and no run may end over one."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LONGEST = 240  # MLflow keeps 250
_OTHER = re.compile(r"[^\w.\- :]")


def stored_names(keys: Iterable[str]) -> dict[str, str]:
    """Return for each key, such as `test/f1_<5 mm`, the name that it is stored under.

    Letters, digits, `_`, `-`, `.`, spaces and colons stay, and the stage before the first slash; anything
    else becomes `_`. Names that would be the same then are numbered.

    Args:
        keys: that are stored together.
    """
    wanted = list(keys)
    taken = {key for key in wanted if _plain(key) == key}
    found: dict[str, str] = {}
    for key in wanted:
        name, number = _plain(key), 1
        while name != key and name in taken:
            number += 1
            name = f"{_plain(key)}_{number}"
        taken.add(name)
        found[key] = name
    return found


def _plain(key: str) -> str:
    stage, slash, rest = key.partition("/")
    return f"{stage}{slash}{_OTHER.sub('_', rest)}"[:_LONGEST].strip()
