"""Bars and lines about progress on stderr, which `medmim -q` omits."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from medmim.data.ingest.context import Progress


def is_quiet() -> bool:
    """Return whether `medmim -q` was given."""
    context = click.get_current_context(silent=True)
    return bool(context and context.find_root().params.get("quiet"))


def log_line(line: str) -> None:
    """Print a line about progress on stderr; with `medmim -q`, warnings only."""
    if line.startswith("warning") or not is_quiet():
        click.echo(line, err=True)


@contextmanager
def phases(first_line_after_s: float = 2.0, line_every_s: float = 30.0) -> Iterator[Progress]:
    """Show the progress of phases on stderr: bars on a terminal, lines in a file or the log of a cluster.

    Args:
        first_line_after_s: Seconds before the first line where stderr is not a terminal.
        line_every_s: Seconds between such lines.
    """
    if is_quiet() or not sys.stderr.isatty():
        yield _lines(first_line_after_s, line_every_s)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=total)
            bar.update(tasks[phase], completed=done, total=total)

        yield progress


def _lines(first_line_after_s: float, line_every_s: float) -> Progress:
    """Return an update function that prints `phase  done of total` from time to time."""
    due = time.monotonic() + first_line_after_s

    def progress(phase: str, done: int, total: int) -> None:
        nonlocal due
        if time.monotonic() >= due:
            log_line(f"{phase}  {done} of {total}")
            due = time.monotonic() + line_every_s

    return progress
