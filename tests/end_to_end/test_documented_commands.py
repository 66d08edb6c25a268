"""Every command line in README.md, docs, `--help` and pipelines can be used as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import tiny
from click.testing import CliRunner

from medmim.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]


def command_lines(text):
    """The lines of a text that begin with `medmim `, without comments and column text."""
    lines = [re.split(r"\s{3,}|\s+#", line.strip())[0] for line in text.splitlines()]
    return [line for line in lines if line.startswith("medmim ")]


def documents():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def in_documents():
    """The lines of the blocks, and the inline ones with arguments."""
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", documents(), flags=re.DOTALL)
    inline = re.findall(r"`(medmim \w+ (?!--help`)[^`]+)`", documents())
    return [*(line for block in blocks for line in command_lines(block)), *inline]


def test_commands_that_a_sentence_names_exist():
    named = re.findall(r"`medmim (\w+)(?: --help)?`", documents())
    assert named
    assert set(named) <= set(COMMANDS)


def in_help():
    found = [main.epilog]
    with click.Context(main) as context:
        found += [main.get_command(context, name).epilog for name in COMMANDS]
    return [line for text in found for line in command_lines(text)]


def parse(line):
    """Let click read a command line without running it."""
    words = shlex.split(line)[1:]
    with main.make_context("medmim", list(words)) as context:
        name, command, rest = main.resolve_command(context, words)
        with command.make_context(name, rest, parent=context):
            return name


def runnable(line):
    """Whether the line is whole: without placeholders and alternatives."""
    return not re.search(r"[|<>…$]|\bSRC\b", line)


DOCUMENTED = sorted(set(filter(runnable, in_documents())))
HELP = sorted(set(in_help()))


def test_there_are_lines_to_check():
    assert len(DOCUMENTED) > 15
    assert len(HELP) > 15
    assert {parse(line) for line in HELP} == set(COMMANDS)


@pytest.mark.parametrize("line", sorted({*DOCUMENTED, *HELP}))
def test_the_line_parses(line):
    assert parse(line) in COMMANDS


def test_the_five_commands_of_the_readme_run_in_their_order(tiny_dataset, home, monkeypatch):
    """Ingestion and the UI have tests of their own; the rest is run with tiny settings."""
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL)
    lines = next(found for found in map(command_lines, blocks) if len(found) == 5)
    ran = []
    for line in lines:
        words = shlex.split(line)[1:]
        if words[0] in ("pretrain", "finetune"):
            words += ["--data", str(tiny_dataset), "--steps", "1", *tiny.TINY_WORDS]
        elif words[0] != "compare":
            continue
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        ran.append(words[0])
    assert ran == ["pretrain", "finetune", "finetune", "compare"]


PIPELINES = [path for path in sorted((ROOT / "pipelines").glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_pipeline_has_help(path):
    ran = subprocess.run(
        [sys.executable, str(path), "--help"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert ran.returncode == 0, ran.stderr
    assert "Usage:" in ran.stdout
