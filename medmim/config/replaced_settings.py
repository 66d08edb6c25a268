"""How later settings replace earlier ones, and a line where a word of the command line replaces another."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

_LOG = logging.getLogger(__name__)
_BUDGETS = ("steps", "epochs", "minutes")
_LABEL_BUDGETS = ("num_labelled", "label_fraction")


def merge(values: dict[str, Any], newer: Mapping[str, Any]) -> None:
    """Update `values`; a newer budget replaces an older one in another unit."""
    for group in (_BUDGETS, _LABEL_BUDGETS):
        if any(newer.get(key) is not None for key in group):
            for key in group:
                values.pop(key, None)
    values.update(newer)


def nested(values: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return the change that `a.b=value` makes: `a` with a new `b` and everything else kept."""
    first, _, rest = key.partition(".")
    if not rest:
        return {first: value}
    known = values.get(first)
    inner = known if isinstance(known, Mapping) else {}
    changed = dict(inner)
    merge(changed, nested(inner, rest, value))
    return {first: changed}


class Replacements:
    """The words of a command line so far; a later word that changes a setting again is reported.

    Args:
        flags: settings given as options.
    """

    def __init__(self, flags: Mapping[str, Any]) -> None:
        self._said = {
            key: (f"--{key.replace('_', '-')} {_as_text(value)}", value) for key, value in flags.items()
        }

    def log(self, key: str, value: Any, *, word: str) -> None:
        """Warn of an earlier word that `word`, which sets `key`, replaces by another value or budget."""
        group = next((group for group in (_BUDGETS, _LABEL_BUDGETS) if key in group), (key,))
        for other in group:
            earlier, old = self._said.pop(other, ("", None))
            if earlier and (other != key or _as_text(old) != _as_text(value)):
                _LOG.warning("%s replaces %s", word, earlier)
        self._said[key] = (word, value)


def _as_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
