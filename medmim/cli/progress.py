"""Lines and bars about progress on stderr, which `medmim -q` omits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


def is_quiet() -> bool:
    """Return whether `medmim -q` was given."""
    context = click.get_current_context(silent=True)
    return bool(context and context.find_root().params.get("quiet"))


def log_line(line: str) -> None:
    """Print a line about progress on stderr; with `medmim -q`, warnings only."""
    if line.startswith("warning") or not is_quiet():
        click.echo(line, err=True)


@contextmanager
def phases() -> Iterator[Callable[[str, int, int], None]]:
    """Show one progress bar per phase on stderr; yield the update function (phase, done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=is_quiet()) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=total)
            bar.update(tasks[phase], completed=done, total=total)

        yield progress
