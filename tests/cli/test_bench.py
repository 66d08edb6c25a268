"""`medmim bench`: its rows, its table, and its warning on a busy machine."""

import json

import pytest
from click.testing import CliRunner

from medmim.cli import main

WORDS = ["bench", "--encoder", "dynunet", "--size", "32", "--batch-size", "1", "--precision", "fp32"]
WORDS += ["--runs", "1", "--no-memory"]


@pytest.mark.parametrize("dims", ["2", "3"])
def test_the_command_times_every_variant(dims):
    result = CliRunner().invoke(main, [*WORDS, "--dims", dims, "--ratio", "0.5", "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    steps = ["packed", "masked", "official", "dense"] if dims == "2" else ["packed", "masked", "dense"]
    assert [(row["part"], row["variant"]) for row in rows] == [
        *(("encoder", variant) for variant in ("packed", "masked", "dense")),
        *(("step", variant) for variant in steps),
    ]
    assert all(row["milliseconds"] > 0 for row in rows)


def test_the_table_has_one_line_per_row():
    result = CliRunner().invoke(main, [*WORDS, "--ratio", "0.5", "--ratio", "0.75", "--part", "encoder"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("dynunet on 1×3×32×32, cell 8×8, mask mesh; ")
    assert [line.split()[2:4] for line in lines[4:10]] == [
        [ratio, variant] for ratio in ("0.50", "0.75") for variant in ("packed", "masked", "dense")
    ]
    assert max(map(len, lines)) <= 110


def test_an_invalid_ratio_is_a_one_line_error():
    result = CliRunner().invoke(main, ["bench", "--ratio", "1.2", "--runs", "1"])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
