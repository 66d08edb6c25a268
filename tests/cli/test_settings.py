"""`medmim settings` prints the reference."""

from click.testing import CliRunner

from medmim.cli import main


def test_the_command_lists_limits_and_defaults():
    printed = CliRunner().invoke(main, ["settings", "pretrain"]).output
    assert "ratio   number > 0 and < 1   [default: 0.7]\n    share of mask cells to hide." in printed
