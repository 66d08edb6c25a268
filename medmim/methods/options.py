"""A choice from a table, alone or with its options: `hog`, or `{hog: {bins: 6}}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, TypeVar

from medmim.errors import UsageError, refuse_unknown_options, unknown_name

Choice = str | Mapping[str, Mapping[str, Any]]
Made = TypeVar("Made")


def build_choice(what: str, choice: Choice, table: Mapping[str, Callable[..., Made]], **given: Any) -> Made:
    """Build one entry of a table.

    Args:
        what: the option's name, such as `target`, for messages.
        choice: a key of the table, or a mapping from one to its options.
        **given: further arguments; each builder gets those that it accepts.
    """
    named = {choice: {}} if isinstance(choice, str) else choice
    if len(named) != 1:
        raise UsageError(
            f"method option {what}: expected one name, alone or with its options as in "
            f"{{{next(iter(table))}: {{…}}}}, got {len(named)}"
        )
    [(name, options)] = named.items()
    if name not in table:
        raise unknown_name(what, name, table)
    taken = signature(table[name]).parameters.keys()
    refuse_unknown_options(f"{what} '{name}'", options, taken - given.keys())
    return table[name](**{key: value for key, value in given.items() if key in taken}, **options)
