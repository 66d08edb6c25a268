"""`medmim bench`: every variant is timed and compared; figures are checked for sense, never for speed."""

import json

import pytest
from click.testing import CliRunner

from medmim.cli import main

WORDS = ["bench", "--encoder", "dynunet", "--size", "32", "--batch-size", "1", "--ratio", "0.5"]
WORDS += ["--precision", "fp32", "--runs", "1", "--no-memory", "--json"]


@pytest.mark.parametrize("dims", ["2", "3"])
def test_every_variant_is_timed(dims):
    result = CliRunner().invoke(main, [*WORDS, "--dims", dims])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    assert {row["part"] for row in rows} == {"encoder", "step"}
    assert {"packed", "masked"} <= {row["variant"] for row in rows}
    assert all(row["milliseconds"] > 0 for row in rows)


def test_a_wrong_ratio_is_one_line():
    result = CliRunner().invoke(main, ["bench", "--ratio", "1.2", "--runs", "1"])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
