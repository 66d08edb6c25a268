"""Studies on a tiny dataset with trainings in this process: resuming, failures and time limits."""

import json
import shutil
import sqlite3
import tempfile
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import tiny

from medmim import files
from medmim.config.study import StudySettings
from medmim.data.dataset.manifest import read_dataset
from medmim.errors import SettingsError, UsageError
from medmim.stages.compare import compare_study
from medmim.stages.study.engines import LocalEngine
from medmim.stages.study.planning import timed_minutes
from medmim.stages.study.runner import StudyOptions, study
from medmim.stages.study.training_process import Outcome, run_here
from medmim.tracking.mlflow_store import Store
from medmim.tracking.study_archive import pack, unpack
from medmim.tracking.study_runs import PARENT, runs_of_study

SHARED = {**tiny.TINY, "steps": 1, "num_evaluations": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset of thirty patients, six of them in the test set, for comparisons."""
    return tiny.make_dataset(tmp_path_factory.mktemp("sources") / "secret-place", patients=30, seed=5)


def settings(data, **words):
    shared = {"pretrain": {**SHARED, "method_options": {"decoder_width": 8}}, "finetune": SHARED}
    return StudySettings.model_validate(
        {"name": "tiny", "data": data, "masks": ["random", "mesh"], **shared, **words}
    )


DRY = StudyOptions(dry_run=True)


def no_timing(task):
    return 1.0


class Engine:
    """Runs jobs in this process and lists their titles; chosen jobs fail."""

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
    """A study run three times; one pretraining fails in the first run."""
    home, lines = new_home(), []
    engines = [Engine(failing=["pretrain spark random"]), Engine(), Engine()]
    results = [
        study(settings(data), home=home, engine=LocalEngine(engine), timer=no_timing, log=lines.append)
        for engine in engines
    ]
    return SimpleNamespace(home=home, store=Store(home), engines=engines, results=results, lines=lines)


def test_a_failed_training_is_listed_and_does_not_stop_the_others(done):
    first = done.results[0]
    assert first.failures == (
        "pretrain spark random 0.7 decoder_width=8 seed 0: its process ended with signal 9",
        "finetune spark random 0.7 decoder_width=8 seed 0: not run, because its pretraining failed",
    )
    assert [arm.name for arm in first.compared.findings.arms] == [
        "scratch",
        "spark mesh 0.7 decoder_width=8",
    ]
    assert any("1 trial is not finished" in note for note in first.compared.notes)


def test_finished_trainings_are_never_repeated(done):
    assert len(done.engines[0].ran) == 4
    assert done.engines[1].ran == [
        "pretrain spark random 0.7 decoder_width=8 seed 0",
        "finetune spark random 0.7 decoder_width=8 seed 0",
    ]
    assert done.engines[2].ran == []
    assert done.results[2].failures == ()
    assert len(done.results[2].compared.findings.arms) == 3
    assert done.results[2].as_json()["hypotheses"] == []  # two masks are too few to rank


def test_the_plan_is_logged_first(done):
    assert done.lines[0].startswith("study      'tiny' on ")
    assert done.lines[1] == "3 trials: 2 pretrainings, 3 fine-tunings; 0 of 5 are finished"
    assert "predicted 0.1 hours" in done.lines[2]
    assert "a short timing" in done.lines[2]
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


def test_arms_have_the_metrics_and_parameters_that_the_ui_compares(done):
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
        "Arms: costs, classes and contamination",
        "Provenance",
        "data:image/png",
    ):
        assert word in page
    for name in ("arms.csv", "contrasts.csv", "cases.csv", "findings.json"):
        assert done.store.read_text(root, f"report/{name}")


def test_datasets_and_models_are_logged_as_mlflow_inputs_and_outputs(done):
    for run in done.store.runs(study="tiny", role="cell"):
        (given,) = run.inputs.dataset_inputs
        assert given.dataset.name == "tiny"
        assert len(run.outputs.model_outputs) == 1


def test_every_model_version_has_its_certificate(done):
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


def test_the_store_contains_no_patient_and_no_path(done, data):
    """Params, tags, metric keys and artifacts contain no path, file name, patient or volume."""
    from medmim.data.dataset.manifest import read_dataset

    volumes = read_dataset(data).volumes
    words = {word for volume in volumes for word in (volume.id, volume.subject, volume.series, volume.image)}
    words |= {"secret-place", str(data), str(done.home), "its process ended", tempfile.gettempdir()}
    texts = _texts(done.home / "mlflow.db")
    assert len(texts) > 1000
    for path in (done.home / "artifacts").rglob("*"):
        if path.is_file():
            texts += [path.name, path.read_bytes().decode("latin-1")]
    for text in texts:
        found = [word for word in words if word in text]
        assert not found, (found, text[:80])


# columns in which MLflow stores the location of artifacts; `sync` and `pack` leave them out
PLACES = {"artifact_location", "artifact_uri", "source", "storage_location"}


def _texts(path):
    """Return all values of all tables of a database, except artifact locations."""
    found = []
    with sqlite3.connect(path) as database:
        for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
            columns = [row[1] for row in database.execute(f"pragma table_info('{table}')")]
            for row in database.execute(f"select * from '{table}'"):
                kept = [value for key, value in zip(columns, row, strict=True) if key not in PLACES]
                found += [str(value) for value in kept if value is not None]
    return found


def test_a_dry_run_runs_nothing(data, new_home):
    engine = Engine()
    planned = study(
        settings(data), home=new_home(), options=DRY, engine=LocalEngine(engine), timer=no_timing, log=str
    )
    assert engine.ran == []
    assert planned.as_json()["plan"]["cells"] == 3
    assert planned.compared is None


def test_predicted_hours_come_from_two_short_trainings_of_each_kind(tiny_dataset, new_home):
    """The second reads prepared volumes from the cache, as most steps do; only the cache is kept."""
    engine, home = Engine(), new_home()
    words = {"dataset": read_dataset(tiny_dataset), "engine": LocalEngine(engine), "near": home / "studies"}
    timer = partial(timed_minutes, **words, limit_s=3600.0)  # a busy machine trains twice too
    planned = study(settings(tiny_dataset), home=home, options=DRY, timer=timer, log=str)
    assert [title.split()[0] for title in engine.ran] == ["finetune", "finetune", "pretrain", "pretrain"]
    assert planned.plan.source == "finetune dynunet: a short timing, pretrain dynunet: a short timing"
    assert 0 < planned.plan.hours < 1
    assert Store(home).runs() == []
    assert len(list((home / "prepared").rglob("*.safetensors"))) > 0
    assert sorted(path.name for path in (home / "studies").iterdir()) == ["timings.json", "tiny"]


def test_predicted_hours_are_divided_by_the_trainings_that_run_at_a_time(data, new_home):
    class Two(LocalEngine):
        width = 2

    words = {"home": new_home(), "options": DRY, "timer": lambda task: 60.0, "log": str}
    planned = study(settings(data), engine=Two(), **words).plan
    assert planned.hours == pytest.approx(2.5)
    assert "predicted 2.5 hours for the rest, 2 at a time (" in planned.lines()[1]


def test_each_encoder_has_its_own_predicted_hours(data, new_home):
    words = settings(data, masks=[], encoders=["resnet18", "dynunet"])
    slow = {"resnet18": 60.0, "dynunet": 600.0}
    planned = study(
        words, home=new_home(), options=DRY, timer=lambda task: slow[task.trial.finetune.encoder], log=str
    )
    assert planned.plan.hours == pytest.approx(11)
    assert planned.plan.minutes == {"finetune resnet18": 60.0, "finetune dynunet": 600.0}


def test_no_training_starts_that_would_exceed_max_hours(data, new_home):
    clock = SimpleNamespace(now=0.0)
    ran = []

    def a_minute(job, home):
        clock.now += 60.0
        ran.append(job.title)
        return Outcome(None, "fails")

    words = {"home": new_home(), "options": StudyOptions(max_hours=1.5 / 60), "timer": no_timing, "log": str}
    cut = study(settings(data), engine=LocalEngine(a_minute), clock=lambda: clock.now, **words)
    assert len(ran) == 1
    assert len(cut.left) == 4


def test_predictions_follow_the_minutes_that_trainings_took(tiny_dataset, new_home):
    """Each takes 15 minutes instead of the predicted 35, so that the third still ends within the hour."""
    clock, lines = SimpleNamespace(now=0.0), []

    def faster(job, home):
        clock.now += 900.0
        return replace(run_here(job, home), minutes=15.0)

    words = {
        "home": new_home(),
        "options": StudyOptions(max_hours=1.0),
        "timer": lambda task: 35.0,
        "log": lines.append,
    }
    whole = study(
        settings(tiny_dataset, masks=["mesh"]), engine=LocalEngine(faster), clock=lambda: clock.now, **words
    )
    assert whole.left == ()
    left = [line.partition("; ")[2] for line in lines if line.startswith("    15.0 minutes")]
    assert left == ["about 50 minutes left", "about 15 minutes left", ""]


def test_max_hours_must_be_a_number(data, new_home):
    with pytest.raises(UsageError, match="--max-hours: expected a number of hours, 0 or more, got nan"):
        study(settings(data), home=new_home(), options=StudyOptions(max_hours=float("nan")), timer=no_timing)


def test_a_comparison_that_fails_leaves_finished_trainings_finished(done, tmp_path, data):
    home, lines = shutil.copytree(done.home, tmp_path / "home"), []
    shutil.rmtree(home / "reports")
    (home / "reports").write_text("a file where the folder of reports should be")
    with pytest.raises(OSError, match="Not a directory"):
        study(settings(data), home=home, engine=LocalEngine(Engine()), timer=no_timing, log=lines.append)
    assert lines[-1] == "finished trainings are kept; `medmim compare --study tiny` compares them again"
    assert {run.info.status for run in Store(home).runs(study="tiny")} == {"FINISHED"}


@pytest.fixture
def moved(done, new_home, tmp_path):
    """Home folder of another site, which contains only the unpacked study."""
    pack(done.store, runs_of_study(done.store, "tiny"), tmp_path / "tiny.zip")
    there = new_home()
    unpack(Store(there), tmp_path / "tiny.zip")
    return there


def numbers(compared):
    """Return the findings without run ids, which change when a study is unpacked."""
    found = compared.findings.as_json()
    return {**found, "arms": [{**arm, "runs": []} for arm in found["arms"]]}


def test_an_unpacked_study_is_compared_and_resumed_like_the_original(done, moved, data):
    here, there = compare_study("tiny", home=done.home), compare_study("tiny", home=moved)
    assert numbers(there) == numbers(here)
    assert there.notes == here.notes
    panels = [[len(arm.panels) for arm in one.findings.arms] for one in (here, there)]
    assert panels[0] == panels[1] == [1, 2, 2]
    engine = Engine()
    words = settings(data, label_fractions=[None, 0.5], masks=["mesh"])
    again = study(words, home=moved, engine=LocalEngine(engine), timer=no_timing, log=str)
    assert again.failures == ()
    assert all(title.startswith("finetune ") and "0.5 of labels" in title for title in engine.ran)
    assert len(engine.ran) == 2


@pytest.mark.slow
def test_trials_that_another_plan_names_differently_stay_one_arm(data, new_home):
    home, words = new_home(), {"masks": ["mesh"], "seeds": [0]}
    study(settings(data, **words), home=home, engine=LocalEngine(Engine()), timer=no_timing, log=str)
    words |= {"label_fractions": [None, 0.5], "seeds": [0, 1]}
    found = study(settings(data, **words), home=home, engine=LocalEngine(Engine()), timer=no_timing, log=str)
    arms = found.compared.findings.arms
    assert [(arm.stratum, arm.seeds) for arm in arms] == [
        (stratum, (0, 1)) for stratum in ("0.5 of labels", "1 of labels") for _ in range(2)
    ]
    compared = compare_study("tiny", home=home)
    assert compared.findings.as_json() == found.compared.findings.as_json()


def test_trials_of_an_earlier_plan_are_left_out(tiny_dataset, new_home):
    home, words = new_home(), {"masks": [], "name": "changed"}
    for steps in (1, 2):
        changed = settings(tiny_dataset, finetune={**SHARED, "steps": steps}, **words)
        study(changed, home=home, engine=LocalEngine(Engine()), timer=no_timing, log=str)
    compared = compare_study("changed", home=home)
    (only,) = compared.findings.arms
    assert len(only.runs) == 1
    assert Store(home).run(only.runs[0]).data.tags["budget"] == "steps=2"
    assert "left out: 1 finished trial of an earlier plan of this name" in compared.notes


def test_trials_trained_by_another_study_are_reused(tiny_dataset, new_home):
    home, words = new_home(), {"masks": []}
    for name in ("first", "second"):
        named = settings(tiny_dataset, name=name, **words)
        study(named, home=home, engine=LocalEngine(Engine()), timer=no_timing, log=str)
    assert len(compare_study("second", home=home).findings.arms) == 1
    assert any(run.data.tags.get("role") == "cell" for run in runs_of_study(Store(home), "second"))


class Ahead(LocalEngine):
    """Requests all jobs at once and runs two at a time, like a cluster."""

    width = 2
    asks_ahead = True

    def run(self, jobs, home):
        yield from super().run(list(jobs), home)


def test_on_a_cluster_fine_tunings_wait_for_all_pretrainings(tiny_dataset, new_home):
    engine = Engine()
    words = {"home": new_home(), "timer": no_timing, "log": str}
    found = study(settings(tiny_dataset), engine=Ahead(engine), **words)
    assert found.failures == ()
    assert [title.split()[0] for title in engine.ran] == [
        "finetune",
        "pretrain",
        "pretrain",
        "finetune",
        "finetune",
    ]
    assert len(found.compared.findings.arms) == 3


def test_max_hours_of_a_cluster_counts_the_trainings_that_run_at_a_time(data, new_home):
    words = {"home": new_home(), "options": StudyOptions(max_hours=1.5 / 60), "timer": no_timing, "log": str}
    found = study(settings(data), engine=Ahead(Engine(failing=[""])), **words)
    assert len(found.failures) == 2
    assert len(found.left) == 3


def test_trials_that_differ_in_labels_share_a_pretraining(data, new_home):
    engine = Engine(failing=[""])
    words = settings(data, masks=["mesh"], label_fractions=[0.5, 1.0])
    planned = study(words, home=new_home(), options=DRY, engine=LocalEngine(engine), timer=no_timing, log=str)
    stages = [task.job.stage for task in planned.plan.trainings]
    assert stages.count("pretrain") == 1
    assert stages.count("finetune") == 4


def test_a_study_cannot_run_in_two_processes_at_once(data, new_home):
    home = new_home()
    with (
        files.lock(home / "studies" / "tiny"),
        pytest.raises(UsageError, match="study 'tiny' is running in another process"),
    ):
        study(settings(data), home=home, timer=no_timing, log=str)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"masks": ["mehs"]}, "unknown mask 'mehs'; did you mean 'mesh'"),
        ({"methods": ["sprak"]}, "unknown method 'sprak'; did you mean 'spark'"),
        (
            {"methods": ["mae"], "pretrain": {}, "finetune": {}},
            r"expected one encoder for all arms, such as encoders: .*vit",
        ),
        ({"encoders": ["resnet81"]}, "unknown encoder 'resnet81'; did you mean 'resnet18'"),
    ],
)
def test_unknown_names_are_rejected_before_the_first_training(words, message, data, new_home):
    with pytest.raises((UsageError, SettingsError), match=message):
        study(
            settings(data, **words), home=new_home(), engine=LocalEngine(Engine()), timer=no_timing, log=str
        )
