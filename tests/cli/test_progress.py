"""Progress is printed on stderr; `medmim -q` leaves warnings only."""

import click
import pytest
from click.testing import CliRunner

from medmim.cli.progress import log_line, phases


@click.group()
@click.option("-q", "--quiet", is_flag=True)
def main(*, quiet):
    pass


@main.command()
def work():
    with phases() as progress:
        progress("read", 1, 2)
    log_line("step 1")
    log_line("warning: few volumes")


@pytest.mark.parametrize(("words", "shown"), [([], True), (["-q"], False)], ids=["usual", "quiet"])
def test_quiet_leaves_warnings(words, shown):
    result = CliRunner().invoke(main, [*words, "work"])
    assert ("step 1" in result.stderr) is shown
    assert result.stderr.endswith("warning: few volumes\n")
    assert result.stdout == ""


@main.command()
def long_work():
    with phases(first_line_after_s=0.0, line_every_s=0.0) as progress:
        progress("read", 1, 2)
        progress("read", 2, 2)
    with phases() as progress:  # ends before its first line
        progress("write", 1, 1)


@pytest.mark.parametrize(
    ("words", "expected"), [([], "read  1 of 2\nread  2 of 2\n"), (["-q"], "")], ids=["usual", "quiet"]
)
def test_a_file_receives_lines_instead_of_bars(words, expected):
    assert CliRunner().invoke(main, [*words, "long-work"]).stderr == expected
