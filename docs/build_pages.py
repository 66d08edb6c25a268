"""MkDocs hook: fill the parts of the reference that are generated from the code.

A line `<!-- generated: NAME -->` of a page is replaced by the text of the function NAME in `PARTS`.
"""

from __future__ import annotations

import ast
import csv
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from medmim.cli import COMMANDS, main
from medmim.cli.early_checks import NAMES
from medmim.cli.machine_errors import BY_NUMBER, BY_TEXT

PACKAGE = Path(__file__).parents[1] / "medmim"
RESULTS = Path(__file__).parent / "results"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Return a page with its generated parts."""
    return re.sub(r"<!-- generated: (\w+) -->", lambda match: PARTS[match[1]](), markdown)


def commands() -> str:
    """Return the help of every command."""
    context = click.Context(main, info_name="medmim", max_content_width=100, terminal_width=100)
    parts = []
    for name, words in COMMANDS.items():
        command = main.get_command(context, name)
        assert command is not None
        with click.Context(command, parent=context, info_name=name, terminal_width=100) as own:
            parts.append(f"## {name}\n\n{words[:1].upper()}{words[1:]}.\n\n```text\n{own.get_help()}\n```\n")
    return "\n".join(parts)


def reasons() -> str:
    """Return a table of the reasons why files and volumes cannot be used, with the messages of the code."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for reason, message in _reasons_of(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(reason, set()).add(message)
    rows = [f"| `{reason}` | {'<br>'.join(sorted(found[reason]))} |" for reason in sorted(found)]
    return "\n".join(["| reason | what it means, and what to do |", "|---|---|", *rows])


def _reasons_of(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield reason and message of every `DataError(message, reason="…")`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != "DataError" or not node.args:
            continue
        given = {word.arg: word.value for word in node.keywords}.get("reason")
        if isinstance(given, ast.Constant):
            yield str(given.value), _template(node.args[0])


def _template(node: ast.expr) -> str:
    """Return a message with `…` for the values that are inserted."""
    if isinstance(node, ast.JoinedStr):
        text = "".join(str(one.value) if isinstance(one, ast.Constant) else "…" for one in node.values)
    else:
        text = str(node.value) if isinstance(node, ast.Constant) else "…"
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def machine_errors() -> str:
    """Return a table of failures of the machine, with their remedies."""
    rows = [f"| {os.strerror(number)} | {words} |" for number, words in BY_NUMBER.items()]
    rows += [f"| {text} | {words} |" for text, words in BY_TEXT.items()]
    return "\n".join(["| the system reports | message of medmim |", "|---|---|", *rows])


def methods() -> str:
    """Return a section for each method: the description in its module."""
    return _sections("method")


def masks() -> str:
    """Return a section for each mask: picture, and the description in its module."""
    return _sections("mask", picture="pictures/masks/{}.png")


def _sections(kind: str, *, picture: str = "") -> str:
    """Return the docstrings of the modules of a table, read without PyTorch."""
    parts = []
    for name in sorted(NAMES[kind]):
        place = PACKAGE / f"{kind}s" / name
        module = place.with_suffix(".py")  # a folder of the name may be a rest of an earlier version
        file = module if module.is_file() else place / "__init__.py"
        first, _, rest = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition(
            "\n"
        )
        image = f"![The mask {name} at 50, 70 and 90 %]({picture.format(name)})\n\n" if picture else ""
        parts.append(f"## {name}\n\n{first}\n\n{image}{rest.strip()}\n")
    return "\n".join(parts)


def parity() -> str:
    """Return the table of `tests/benchmarks/parity.py`."""
    with (RESULTS / "parity.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = ("line", "compared", "reference", "before", "now", "bound")
    parts = [f"| {' | '.join(row[name] for name in names)} |" for row in rows]
    return "\n".join([f"| {' | '.join(names)} |", "|---" * len(names) + "|", *parts])


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "reasons": reasons,
    "machine_errors": machine_errors,
    "methods": methods,
    "masks": masks,
    "parity": parity,
}
