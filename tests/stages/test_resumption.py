"""An interrupted run is found and continues with its settings, weights and dataset, wherever that is now."""

import multiprocessing
import shutil

import pytest
import tiny

from medmim import files
from medmim.config.own_code import CODE_TAG, code_tags
from medmim.config.runs import PretrainSettings
from medmim.data.dataset.manifest import read_dataset
from medmim.errors import DataError, RunError, UsageError
from medmim.stages.resumption import (
    PLACES,
    find_dataset_folders,
    find_unfinished,
    note_dataset_folders,
    resume_run,
    stored_settings,
    to_resume,
)
from medmim.stages.run_lifecycle import managed_run
from medmim.tracking.mlflow_store import Store


def begin(store, status, stage="pretrain"):
    recorder = store.begin(experiment="test", name="x", tags={"stage": stage})
    if status:
        recorder.finish(status)
    return recorder


def test_the_newest_unfinished_run_is_latest(home):
    store = Store(home)
    begin(store, "FAILED")
    wanted = begin(store, "KILLED").run_id
    begin(store, "FINISHED")
    begin(store, "FAILED", stage="finetune")
    assert find_unfinished(store, "pretrain", "latest") == wanted
    assert find_unfinished(store, "pretrain", wanted) == wanted


def test_a_classification_that_became_multilabel_is_found(home):
    store = Store(home)
    recorder = store.begin(experiment="test", name="x", tags={"stage": "finetune", "task": "multilabel"})
    recorder.finish("KILLED")
    for word in ("latest", recorder.run_id):
        assert find_unfinished(store, "finetune", word, task="classify") == recorder.run_id
        with pytest.raises(RunError, match="finetune segment"):
            find_unfinished(store, "finetune", word, task="segment")


def test_a_run_that_was_cut_off_is_unfinished(home):
    store = Store(home)
    run_id = begin(store, None).run_id  # a power cut leaves it RUNNING
    assert find_unfinished(store, "pretrain", "latest") == run_id


def hold(folder, ready, end):
    with files.lock(folder):
        ready.set()
        end.wait(60)


@pytest.fixture
def hold_elsewhere():
    """A function that lets another process keep a folder until the test ends."""
    context = multiprocessing.get_context("fork")
    end, processes = context.Event(), []

    def start(folder):
        ready = context.Event()
        processes.append(context.Process(target=hold, args=(folder, ready, end)))
        processes[-1].start()
        assert ready.wait(60)

    yield start
    end.set()
    for process in processes:
        process.join()


def two_runs(store):
    """The ids of two runs as the store orders them, the newest last; they may begin in one millisecond."""
    for _ in range(2):
        begin(store, None)
    return [run.info.run_id for run in store.runs(stage="pretrain")][::-1]


def test_a_run_that_is_being_trained_is_left_alone(home, hold_elsewhere):
    store = Store(home)
    older, newer = two_runs(store)
    assert find_unfinished(store, "pretrain", "latest") == newer
    hold_elsewhere(store.checkpoints(newer))
    assert find_unfinished(store, "pretrain", "latest") == older
    told = f"run {newer} is being trained by another process: wait for it"
    with pytest.raises(RunError, match=told):
        find_unfinished(store, "pretrain", newer)
    with pytest.raises(RunError, match=told), managed_run(store.resume(newer), store):
        raise AssertionError
    assert store.run(newer).info.status == "RUNNING"
    hold_elsewhere(store.checkpoints(older))
    with pytest.raises(RunError, match="all of them are being trained by other processes"):
        find_unfinished(store, "pretrain", "latest")


def test_a_process_that_follows_goes_on_with_the_run_of_the_first(home, hold_elsewhere, monkeypatch):
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    store = Store(home)
    older, newer = two_runs(store)
    hold_elsewhere(store.checkpoints(newer))
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    monkeypatch.delenv("MEDMIM_RESUMED", raising=False)  # of a run that another test went on with
    assert find_unfinished(store, "pretrain", "latest") == newer
    monkeypatch.setenv("MEDMIM_RESUMED", older)
    assert find_unfinished(store, "pretrain", "latest") == older
    settings = PretrainSettings(devices=2)
    assert resume_run(store, "pretrain", None, settings=settings, dataset=None).run_id == "along"


def test_a_run_that_continues_in_another_precision_says_and_records_it(home, tiny_dataset, caplog):
    store, dataset = Store(home), read_dataset(tiny_dataset)
    tags = {"stage": "pretrain", "dataset": "tiny", "dataset_hash": dataset.info.content_hash}
    run_id = store.begin(experiment="test", name="x", tags={**tags, "precision": "bf16"}).run_id
    store.recorder(run_id).finish("KILLED")
    for precision in ("bf16", "fp32", "fp32"):
        settings = PretrainSettings(precision=precision)
        resume_run(store, "pretrain", run_id, settings=settings, dataset=dataset).finish("KILLED")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["this run was trained in bf16 and continues in fp32 on this machine"]
    assert store.run(run_id).data.tags["precision"] == "bf16, then fp32"


def test_a_run_that_continues_with_changed_code_says_and_records_it(
    home, tiny_dataset, tmp_path, caplog, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    store, dataset = Store(home), read_dataset(tiny_dataset)
    (tmp_path / "resumed_code.py").write_text("build = 1\n")
    settings = PretrainSettings(mask="resumed_code:build")
    tags = {"stage": "pretrain", "dataset": "tiny", "dataset_hash": dataset.info.content_hash}
    before = code_tags(settings.model_dump())
    run_id = store.begin(experiment="test", name="x", tags={**tags, **before}).run_id
    store.recorder(run_id).finish("KILLED")
    for text in ("build = 1\n", "build = 2\n", "build = 2\n"):
        (tmp_path / "resumed_code.py").write_text(text)
        resume_run(store, "pretrain", run_id, settings=settings, dataset=dataset).finish("KILLED")
    [line] = [record.getMessage() for record in caplog.records]
    now = code_tags(settings.model_dump())[CODE_TAG]
    assert f"has changed since this run was started: it was {before[CODE_TAG]} and is {now} (SHA-256)" in line
    assert store.run(run_id).data.tags[CODE_TAG] == f"{before[CODE_TAG]}; then {now}"


def test_one_process_records_its_run_whatever_number_it_was_given(home, monkeypatch):
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert resume_run(Store(home), "pretrain", None, settings=PretrainSettings(), dataset=None) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torchrun", {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2"}),
        ("SLURM", {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "train"}),
    ],
)
def test_launchers_start_as_many_processes_as_share_a_step(home, monkeypatch, name, words):
    for key, value in words.items():
        monkeypatch.setenv(key, value)
    told = f"--devices times --nodes is 1, but {name} started 2: make them equal"
    with pytest.raises(UsageError, match=told):
        resume_run(Store(home), "pretrain", None, settings=PretrainSettings(), dataset=None)
    assert (
        resume_run(Store(home), "pretrain", None, settings=PretrainSettings(devices=2), dataset=None) is None
    )


def test_what_lightning_does_not_take_of_slurm_is_told(home, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    with pytest.raises(UsageError, match=r"SLURM: You set .* Use `--ntasks-per-node=2` instead"):
        resume_run(Store(home), "pretrain", None, settings=PretrainSettings(devices=2), dataset=None)


def test_what_cannot_be_resumed_is_told(home):
    store = Store(home)
    done = begin(store, "FINISHED").run_id
    with pytest.raises(RunError, match="--resume: no unfinished pretrain run here"):
        find_unfinished(store, "pretrain", "latest")
    with pytest.raises(RunError, match="is already complete"):
        find_unfinished(store, "pretrain", done)
    with pytest.raises(RunError, match=f"got run {done[:8]} of `medmim pretrain`; see `medmim runs`"):
        find_unfinished(store, "finetune", done)


def test_settings_come_back_without_the_datasets_place(home, tmp_path):
    store, settings = Store(home), PretrainSettings(size=(8, 8, 8), ratio=0.5, data=tmp_path / "before")
    recorder = begin(store, None)
    recorder.settings(settings.model_dump(mode="json", exclude={"data"}))
    back = stored_settings(PretrainSettings, store, recorder.run_id, data=tmp_path / "now")
    assert back == settings.model_copy(update={"data": tmp_path / "now"})


@pytest.fixture
def noted(tiny_dataset, tmp_path, monkeypatch):
    """A home that knows a dataset, and the dataset's hash."""
    monkeypatch.chdir(tmp_path)
    data, home = tmp_path / "scans" / "lung", tmp_path / "home"
    shutil.copytree(tiny_dataset, data)
    content = read_dataset(data).info.content_hash
    note_dataset_folders(home, {"dataset_hash": content}, [data])
    return home, content, data


def test_the_last_place_is_found_and_private(noted):
    home, content, data = noted
    assert find_dataset_folders(home, {"dataset_hash": content}) == [data]
    assert (home / PLACES).stat().st_mode & 0o777 == 0o600


def test_a_renamed_dataset_is_found_by_its_content(noted):
    home, content, data = noted
    data.rename(data.with_name("chest"))
    assert find_dataset_folders(home, {"dataset_hash": content}) == [data.with_name("chest")]


def test_a_dataset_that_was_moved_elsewhere_is_named_with_the_way_out(noted, tmp_path):
    home, content, data = noted
    (tmp_path / "far").mkdir()
    data.rename(tmp_path / "far" / "gone")
    with pytest.raises(DataError, match=rf"content {content[:8]}\) was at '.*lung'.*--data"):
        find_dataset_folders(home, {"dataset_hash": content})


def test_a_dataset_whose_manifest_was_edited_is_another_one(noted):
    home, content, data = noted
    rows = (data / "manifest.jsonl").read_text("utf-8").splitlines()
    (data / "manifest.jsonl").write_text("\n".join(rows[1:]) + "\n", "utf-8")
    with pytest.raises(DataError, match="has been moved or changed: give its folder with --data"):
        find_dataset_folders(home, {"dataset_hash": content})


def test_a_given_dataset_whose_manifest_was_edited_is_refused(noted):
    home, content, data = noted
    store = Store(home)
    tags = {"stage": "pretrain", "dataset": "tiny", "dataset_hash": content}
    recorder = store.begin(experiment="test", name="x", tags=tags)
    recorder.settings(PretrainSettings().model_dump(mode="json", exclude={"data"}))
    recorder.finish("KILLED")
    settings, run_id = to_resume(PretrainSettings, "pretrain", "latest", home=home, data=data)
    assert (settings.data, run_id) == (data, recorder.run_id)
    rows = (data / "manifest.jsonl").read_text("utf-8").splitlines()
    (data / "manifest.jsonl").write_text("\n".join(rows[1:]) + "\n", "utf-8")
    with pytest.raises(RunError, match="the dataset has changed since this run was started"):
        to_resume(PretrainSettings, "pretrain", "latest", home=home, data=data)


def test_the_default_folder_is_searched_without_a_note(noted, tmp_path):
    _, content, data = noted
    data.rename(tmp_path / "medmim-data")
    assert find_dataset_folders(tmp_path / "other", {"dataset_hash": content}) == [tmp_path / "medmim-data"]


def test_every_dataset_of_a_run_is_found(noted, tmp_path):
    home, content, data = noted
    other = tiny.make_dataset(tmp_path / "scans" / "brain", seed=4)
    tags = {"dataset_hash": "of both", "dataset_hashes": f"{content},{read_dataset(other).info.content_hash}"}
    note_dataset_folders(home, tags, [data, other])
    assert find_dataset_folders(home, tags) == [data, other]
