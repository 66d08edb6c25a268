"""Which names of classes may be kept: plain words; anything else becomes `class N`."""

from __future__ import annotations

import re
from typing import Any

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _+-]{0,39}")


def plain_name(name: Any, number: int) -> str:
    """Return the name in lower case if it is plain words, else `class` and its number."""
    plain = isinstance(name, str) and _PLAIN_NAME.fullmatch(name.strip())
    return name.strip().lower() if plain else f"class {number}"
