import json

import pytest
from click.testing import CliRunner
from store_faults import damage, set_schema

from medmim.cli import main
from medmim.cli.models import command
from medmim.tracking.comparison.champion import champion_of
from medmim.tracking.database import DATABASE
from medmim.tracking.mlflow_store import Store


def registered(home):
    store = Store(home)
    recorder = store.begin(experiment="e", name="n", tags={})
    store.register(
        model="m",
        run_id=recorder.run_id,
        tags={"contamination": "unknown", "lineage": f"{recorder.run_id} ← {'a' * 32}"},
        alias="challenger",
    )
    return store


def test_models_are_listed_and_one_is_promoted_by_force(new_home, monkeypatch):
    home = new_home()
    store = registered(home)
    monkeypatch.setenv("MEDMIM_HOME", str(home))
    run = CliRunner().invoke
    listed = json.loads(run(command, ["--json"]).stdout)
    assert listed["models"][0]["aliases"] == ["challenger"]
    _, row, origin, following = run(command, []).stdout.splitlines()
    assert row.endswith("unknown")
    assert origin == f"  weights from {listed['models'][0]['run'][:8]} ← aaaaaaaa"
    assert following.split(maxsplit=1) == ["next", "medmim predict SCANS --model m"]
    promoted = run(command, ["promote", "m:1", "--force", "--why", "our scanner"])
    assert promoted.stdout.startswith("m 1 is champion by force: our scanner\nnext  medmim predict")
    assert champion_of(store, "m").version == 1


def test_without_force_the_paired_test_is_named():
    done = CliRunner().invoke(main, ["models", "promote", "m:1", "--why", "because"])
    assert done.exit_code == 2
    assert "use `medmim compare --promote`" in done.stderr


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (lambda path: path.write_text("no database" * 999), "is not an SQLite database: run `medmim doctor"),
        (damage, "`medmim doctor --repair`"),
        (lambda path: set_schema(path, "ffffffffffff"), "`pip install -U mlflow`"),
    ],
    ids=["no database", "damaged", "newer"],
)
def test_an_unusable_store_is_one_line_with_the_remedy(new_home, monkeypatch, fault, line):
    home = new_home()
    fault(home / DATABASE)
    monkeypatch.setenv("MEDMIM_HOME", str(home))
    done = CliRunner().invoke(main, ["models"])
    assert done.exit_code == 1
    assert done.stderr.startswith("medmim: ")
    assert done.stderr.count("\n") == 1
    assert line in done.stderr


def test_a_path_that_is_too_long_is_one_line(monkeypatch):
    monkeypatch.setenv("MEDMIM_HOME", "x" * 300)
    done = CliRunner().invoke(main, ["models"])
    assert done.exit_code == 1
    assert done.stderr == "medmim: a path is too long for this filesystem: use shorter names\n"


def test_a_home_without_a_store_has_no_models(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    assert json.loads(CliRunner().invoke(main, ["models", "--json"]).stdout) == {"models": []}
    assert not (tmp_path / "home").exists()
