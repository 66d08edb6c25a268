import json

from click.testing import CliRunner

from medmim.cli import main


def test_the_command_prints_the_recipe_for_another_machine(tiny_dataset):
    """Nothing is measured on this machine, so the answer is immediate."""
    words = ["plan", "segment", "--machine", "gpu_24gb", "--set", f"data={tiny_dataset}"]
    lines = CliRunner().invoke(main, words)
    assert lines.exit_code == 0, lines.output
    assert "recipe   encoder=resenc (GPU of 24 to 80 GB, 3D)" in lines.output
    answer = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert answer["recipe"]["batch_size"] >= 2


def test_a_plan_resumes_nothing():
    refused = CliRunner().invoke(main, ["plan", "pretrain", "--resume"])
    assert refused.exit_code == 2
    assert "No such option '--resume'" in refused.stderr
