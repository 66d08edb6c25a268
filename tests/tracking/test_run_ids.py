import re
import subprocess
import sys

import pytest

from medmim.errors import RunError
from medmim.tracking.mlflow_store import Store
from medmim.tracking.run_ids import ORIGIN, NamedRun, RunOption

ANY = RunOption("--init", "`scratch` or ")
SEGMENTER = NamedRun("abcd1234ef", "abcd1234ef", "finetune", "segment")
PRETRAINING = NamedRun("abce5678ef", "abce5678ef", "pretrain")


def begin(store, stage="finetune", **tags):
    return store.begin(experiment="e", name="n", tags={"stage": stage, **tags}).run_id


@pytest.fixture(scope="module")
def store(new_home):
    return Store(new_home())


@pytest.fixture(scope="module")
def run_id(store):
    return begin(store, task="segment")


@pytest.mark.parametrize("length", [10, 32])
def test_a_run_is_named_by_its_id_or_the_beginning_of_it(store, run_id, length):
    assert store.named(run_id[:length], ANY).info.run_id == run_id


def test_a_copy_is_named_by_the_id_of_its_original_and_the_newest_copy_counts(store):
    begin(store, **{ORIGIN: "f" * 32})
    copy = begin(store, **{ORIGIN: "f" * 32})
    assert store.named("f" * 20, ANY).info.run_id == copy


def test_an_id_of_this_store_comes_before_that_of_an_original(store, run_id):
    begin(store, **{ORIGIN: run_id})
    assert store.named(run_id[:10], ANY).info.run_id == run_id


def test_a_deleted_run_is_not_named(store):
    gone = begin(store)
    store.client.delete_run(gone)
    with pytest.raises(RunError, match=f"^--init {gone}: expected .*, got the beginning of no run id"):
        store.named(gone, ANY)


@pytest.mark.parametrize("word", ["%", "_" * 32, "' OR 1 --", "zz"])
def test_no_sign_of_a_word_is_read_as_sql(store, run_id, word):
    with pytest.raises(
        RunError, match=rf"^--init {re.escape(word)}: expected .* no run id in this home folder"
    ):
        store.named(word, ANY)


def test_a_run_of_another_stage_or_task_is_named_in_the_error(store, run_id):
    expected = (
        f"^compare {run_id}: expected a run of `medmim pretrain`, got run {run_id[:8]} of "
        "`medmim finetune segment`; see `medmim runs`$"
    )
    with pytest.raises(RunError, match=expected):
        store.named(run_id, RunOption("compare", stages=("pretrain",)))
    with pytest.raises(RunError, match="expected a run of `medmim finetune classify`, got run"):
        store.named(run_id, RunOption("--resume", stages=("finetune",), tasks=("classify", "multilabel")))


def test_among_several_the_one_of_the_wanted_stage_is_meant():
    option = RunOption("compare", stages=("finetune",))
    assert option.only("abc", [SEGMENTER, PRETRAINING], list) == SEGMENTER.run_id


def test_several_runs_are_listed():
    expected = (
        "^--init abc: expected `scratch` or a run of `medmim pretrain` or `medmim finetune`, got the "
        "beginning of 2 run ids: abcd1234 of `medmim finetune segment`, abce5678 of `medmim pretrain`; "
        "give more characters, see `medmim runs`$"
    )
    with pytest.raises(RunError, match=expected):
        ANY.only("abc", [SEGMENTER, PRETRAINING], list)


def test_of_many_runs_five_are_listed():
    many = [NamedRun(f"ab{number:06}", f"ab{number:06}", "pretrain") for number in range(7)]
    with pytest.raises(
        RunError, match=r"of 7 run ids: ab000000 .* ab000004 of `medmim pretrain` and 2 more;"
    ):
        ANY.only("ab", many, list)


def test_one_mistyped_character_is_recognised():
    hint = r"no run id in this home folder; did you mean 'abcd1234'\?; see `medmim runs`, or set MEDMIM_HOME"
    with pytest.raises(RunError, match=hint):
        ANY.only("abdc1234", [], lambda: [SEGMENTER.id, "0" * 32])
    with pytest.raises(RunError, match=r"in this home folder; see `medmim runs`, or set"):
        ANY.only("12345678", [], lambda: [SEGMENTER.id])


def test_a_registered_model_with_a_similar_name_is_suggested():
    option = RunOption("--model", models=("lung-segment",))
    with pytest.raises(
        RunError, match=r"did you mean 'lung-segment'\?; see `medmim runs` and `medmim models`"
    ):
        option.only("lung-segmnt", [], list)


def test_mlflow_is_not_imported():
    program = "import sys; import medmim.tracking.run_ids; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
