"""A study on a tiny dataset, its trainings run in this process; interruption and failure as they happen."""

import json
import sqlite3
from types import SimpleNamespace

import pytest
import tiny

from medmim.errors import UsageError
from medmim.stages.job import Outcome, run_here
from medmim.stages.study import _alone, study
from medmim.study import StudySettings
from medmim.tracking.store import Store
from medmim.tracking.tree import PARENT

SHARED = {**tiny.TINY, "steps": 1, "evaluations": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Thirty patients, of whom six test."""
    return tiny.make_dataset(tmp_path_factory.mktemp("sources") / "secret-place", patients=30, seed=5)


def settings(data, **words):
    shared = {"pretrain": {**SHARED, "method_options": {"decoder_width": 8}}, "finetune": SHARED}
    return StudySettings.model_validate(
        {"name": "tiny", "data": data, "masks": ["random", "mesh"], **shared, **words}
    )


def no_timing(task):
    return 1.0


class Engine:
    """Runs jobs in this process and remembers them; some fail on request."""

    def __init__(self, failing=()):
        self.ran = []
        self.failing = failing

    def __call__(self, job, home):
        self.ran.append(job.title)
        if any(word in job.title for word in self.failing):
            return Outcome(None, "its process ended with signal 9")
        return run_here(job, home)


@pytest.fixture(scope="module")
def done(data, new_home):
    """A study in which one pretraining failed at first, then the same command again, then once more."""
    home, said = new_home(), []
    engines = [Engine(failing=["pretrain spark random"]), Engine(), Engine()]
    results = [
        study(settings(data), home=home, engine=engine, timer=no_timing, say=said.append)
        for engine in engines
    ]
    return SimpleNamespace(home=home, store=Store(home), engines=engines, results=results, said=said)


def test_a_failure_stays_alone_and_is_listed(done):
    first = done.results[0]
    assert first.failures == (
        "pretrain spark random 0.7 decoder_width=8 seed 0: its process ended with signal 9",
        "finetune spark random 0.7 decoder_width=8 seed 0: not run, because its pretraining failed",
    )
    assert [one.arm for one in first.concluded.findings.variants] == [
        "scratch",
        "spark mesh 0.7 decoder_width=8",
    ]
    assert any("1 of 3 cells are not finished" in note for note in first.concluded.notes)


def test_finished_trainings_are_never_repeated(done):
    assert len(done.engines[0].ran) == 4
    assert done.engines[1].ran == [
        "pretrain spark random 0.7 decoder_width=8 seed 0",
        "finetune spark random 0.7 decoder_width=8 seed 0",
    ]
    assert done.engines[2].ran == []
    assert done.results[2].failures == ()
    assert len(done.results[2].concluded.findings.variants) == 3


def test_the_plan_comes_first(done):
    assert done.said[0] == "3 cells: 2 pretrainings, 3 fine-tunings; 0 of 5 are done"
    assert "predicted 0.1 hours" in done.said[1]
    assert "a short timing" in done.said[1]
    assert "median of" in done.results[2].plan.source


def test_arms_share_split_budget_and_seed(done):
    cells = done.store.runs(role="cell")
    assert len(cells) == 3
    for key in ("split_hash", "budget", "seed", "labelled", "encoder", "size", "batch_size", "lr"):
        assert len({run.data.tags[key] for run in cells}) == 1, key


def test_runs_form_a_tree(done):
    (root,) = done.store.runs(role="study")
    arms = {run.info.run_id: run for run in done.store.runs(role="arm")}
    assert {arm.data.tags[PARENT] for arm in arms.values()} == {root.info.run_id}
    for run in (*done.store.runs(role="cell"), *done.store.runs(role="pretraining")):
        assert run.data.tags["arm"] == arms[run.data.tags[PARENT]].data.tags["arm"]
    experiments = {run.info.experiment_id for run in done.store.runs(study="tiny")}
    assert len(experiments) == 1
    assert {run.info.status for run in done.store.runs(study="tiny")} == {"FINISHED"}


def test_arms_carry_what_the_ui_compares(done):
    keys = [set(run.data.metrics) for run in done.store.runs(role="arm", arm="scratch")]
    assert {"score/mean", "score/sd", "score/lo", "score/hi", "score/n_patients", "score/n_seeds"} <= keys[0]
    assert {"cost/minutes", "cost/peak_memory_gb"} <= keys[0]
    (mesh,) = [run for run in done.store.runs(role="arm") if "mesh" in run.data.tags["arm"]]
    assert {"gain/mean", "gain/lo", "gain/hi", "gain/p_adjusted", "card/unevenness"} <= set(mesh.data.metrics)
    assert mesh.data.params["mask"] == "mesh"
    assert mesh.data.params["ratio"] == "0.7"
    columns = [set(run.data.params) for run in done.store.runs(role="arm")]
    assert all(column == columns[0] for column in columns)


def test_the_report_is_an_artifact_of_the_study(done):
    (root,) = done.store.runs(role="study")
    page = done.store.read_text(root, "report/report.html")
    for word in (
        "Mask and ratio",
        "Paired differences",
        "Arms, scores and costs",
        "Provenance",
        "data:image/png",
    ):
        assert word in page
    for name in ("arms.csv", "contrasts.csv", "cases.csv", "findings.json"):
        assert done.store.read_text(root, f"report/{name}")


def test_datasets_and_models_are_logged_as_mlflow_has_them(done):
    for run in done.store.runs(study="tiny", role="cell"):
        (given,) = run.inputs.dataset_inputs
        assert given.dataset.name == "tiny"
        assert len(run.outputs.model_outputs) == 1


def test_every_version_carries_its_certificate(done):
    found = done.store.client.search_model_versions("name = 'tiny-segment'")
    assert len(found) == 3
    for version in found:
        assert version.tags["contamination"] == "unknown"  # the tiny dataset has no pixel hashes
        run = done.store.run(version.run_id)
        certificate = json.loads(done.store.read_text(run, "model/certificate.json"))
        assert certificate["overlaps"]["pretraining"]["by_key"] == 0
        assert certificate["test_patients"] == 6
    (challenger,) = [one for one in found if "challenger" in one.aliases] or [None]
    assert challenger is None or challenger.version == max(one.version for one in found)


def test_nobody_and_no_place_is_in_the_store(done, data):
    """Params, tags, metric keys and artifacts name no path, file, patient or volume."""
    from medmim.data.manifest import read_dataset

    volumes = read_dataset(data).volumes
    words = {word for volume in volumes for word in (volume.id, volume.subject, volume.series, volume.image)}
    words |= {"secret-place", str(data), str(done.home), "/tmp".replace("/t", "/t")}
    texts = []
    with sqlite3.connect(done.home / "mlflow.db") as database:
        for table, column in (
            ("params", "value"),
            ("tags", "value"),
            ("metrics", "key"),
            ("model_version_tags", "value"),
        ):
            texts += [str(value) for (value,) in database.execute(f"select {column} from {table}")]
    for path in (done.home / "artifacts").rglob("*"):
        if path.is_file():
            texts += [path.name, path.read_bytes().decode("latin-1")]
    for text in texts:
        found = [word for word in words if word in text]
        assert not found, (found, text[:80])


def test_a_dry_run_runs_nothing(data, new_home):
    engine = Engine()
    planned = study(settings(data), home=new_home(), dry_run=True, engine=engine, timer=no_timing, say=str)
    assert engine.ran == []
    assert planned.as_json()["plan"]["cells"] == 3
    assert planned.concluded is None


def test_hours_are_kept(data, new_home):
    engine = Engine(failing=[""])
    cut = study(settings(data), home=new_home(), max_hours=1.5 / 60, engine=engine, timer=no_timing, say=str)
    assert len(engine.ran) == 1
    assert len(cut.left) == 4


def test_a_pretraining_is_shared_by_cells_that_differ_in_labels(data, new_home):
    engine = Engine(failing=[""])
    words = settings(data, masks=["mesh"], label_fractions=[0.5, 1.0])
    planned = study(words, home=new_home(), dry_run=True, engine=engine, timer=no_timing, say=str)
    stages = [task.job.stage for task in planned.plan.tasks]
    assert stages.count("pretrain") == 1
    assert stages.count("finetune") == 4


def test_one_study_at_a_time(tmp_path):
    with (
        _alone(tmp_path, "s"),
        pytest.raises(UsageError, match="study 's' is running in another process"),
        _alone(tmp_path, "s"),
    ):
        pass


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"masks": ["mehs"]}, "unknown mask 'mehs'; did you mean 'mesh'"),
        ({"methods": ["sprak"]}, "unknown method 'sprak'; did you mean 'spark'"),
        ({"encoders": ["resnet81"]}, "unknown encoder 'resnet81'; did you mean 'resnet18'"),
    ],
)
def test_a_wrong_word_is_found_before_hours_of_work(words, message, data, new_home):
    with pytest.raises(UsageError, match=message):
        study(settings(data, **words), home=new_home(), engine=Engine(), timer=no_timing, say=str)
