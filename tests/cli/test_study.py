"""`medmim study`: the template, and options of a cluster without one."""

from click.testing import CliRunner
from command_line import assert_one_line_error

from medmim.cli import main


def test_the_command_writes_the_template_and_names_the_next_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["study", "--init", "my.yaml"])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "next     medmim study my.yaml --dry-run"
    assert CliRunner().invoke(main, ["study"]).exit_code == 2


def test_options_of_a_cluster_need_the_engine():
    assert_one_line_error(["study", "quick", "--gpus", "0.5"], 2, "describe a cluster: expected --engine ray")
    assert_one_line_error(["study", "quick", "--engine", "ray"], 2, "--engine ray: expected --address")
