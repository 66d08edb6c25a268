"""A context of ingestion whose sandbox calls every function in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medmim.data.dataset.pseudonyms import Keys
from medmim.data.ingest.context import IngestContext, IngestOptions
from medmim.data.ingest.ledger import Ledger
from medmim.data.sandbox.sandbox import Answer, Sandbox
from medmim.errors import DataError


class InlineSandbox(Sandbox):
    """Calls functions in this process and starts none; a `DataError` becomes its reason."""

    def __init__(self) -> None:
        pass

    def run_each(
        self, function: Callable[..., Any], tasks: Sequence[Any], *, keep: Any = None, **_: Any
    ) -> list[Answer]:
        """Return the answer of each task."""
        answers = []
        for task in tasks:
            try:
                value = function(**task)
                answers.append(Answer(keep(value) if keep else value))
            except DataError as error:
                answers.append(Answer(reason=error.reason))
        return answers


def make_context(staging: Path, *, files: int = 1, **options: Any) -> IngestContext:
    """Return a context with `files` ledger entries."""
    ledger = Ledger({number: f"key {number}" for number in range(files)})
    return IngestContext(Keys(bytes(32)), ledger, staging, InlineSandbox(), options=IngestOptions(**options))
