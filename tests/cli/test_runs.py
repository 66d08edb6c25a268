"""`medmim runs` filters, sorts and deletes."""

from click.testing import CliRunner

from medmim.cli import main


def test_the_command_filters_and_sorts(stored):
    def run(*words):
        *lines, following = CliRunner().invoke(main, ["runs", *words]).stdout.splitlines()
        assert following.split(maxsplit=1) == [
            "next",
            "medmim compare" if len(lines) > 1 else "medmim pretrain",
        ]
        return lines

    head, first, *_ = run("segment", "--sort", "score")
    assert head.split()[:3] == ["run", "task", "score"]
    assert "0.800 dice" in first
    assert "0.700 to 0.900" in first
    assert len(run("--arm", "scratch", "--status", "failed")) == 2
    assert run("--study", "other") == ["no runs"]
    assert run("--limit", "1")[-1] == "and 2 more: --limit 3"
