"""`medmim doctor`: checks of this machine and its tracking server, and the result of one."""

from typing import Literal, NamedTuple


class Check(NamedTuple):
    """Result of one check.

    Attributes:
        status: ok, note (works with a limitation) or bad (must be fixed).
        advice: what to do; empty if ok.
    """

    name: str
    status: Literal["ok", "note", "bad"]
    found: str
    advice: str = ""
