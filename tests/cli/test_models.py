import json

from click.testing import CliRunner

from medmim.cli import main
from medmim.cli.models import command
from medmim.tracking.comparison.champion import champion_of
from medmim.tracking.mlflow_store import Store


def registered(home):
    store = Store(home)
    recorder = store.begin(experiment="e", name="n", tags={})
    store.register(model="m", run_id=recorder.run_id, tags={"contamination": "unknown"}, alias="challenger")
    return store


def test_models_are_listed_and_one_is_promoted_by_force(new_home, monkeypatch):
    home = new_home()
    store = registered(home)
    monkeypatch.setenv("MEDMIM_HOME", str(home))
    run = CliRunner().invoke
    listed = json.loads(run(command, ["--json"]).stdout)
    assert listed["models"][0]["aliases"] == ["challenger"]
    assert "contamination: unknown" in run(command, []).stdout
    promoted = run(command, ["promote", "m:1", "--force", "--why", "our scanner"])
    assert promoted.stdout == "m 1 is champion by force: our scanner\n"
    assert champion_of(store, "m").version == 1


def test_without_force_the_paired_test_is_named():
    done = CliRunner().invoke(main, ["models", "promote", "m:1", "--why", "because"])
    assert done.exit_code == 2
    assert "use `medmim compare --promote`" in done.stderr
