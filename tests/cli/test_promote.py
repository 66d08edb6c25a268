"""`medmim promote` is the short form of `medmim models promote`."""

from click.testing import CliRunner

from medmim.cli import main


def test_a_promotion_needs_force_and_a_reason():
    assert CliRunner().invoke(main, ["promote", "m:1", "--why", "because"]).exit_code == 2
    assert "--why" in CliRunner().invoke(main, ["promote", "m:1", "--force"]).output
