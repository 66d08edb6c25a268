"""The default model, and the models that a word refers to."""

import pytest
import threshold
import yaml

from medmim.errors import RunError
from medmim.stages.model_lookup import FoldsOf, find_model, find_models
from medmim.tracking.mlflow_store import Store
from medmim.tracking.run_ids import ORIGIN
from medmim.training.weights import WEIGHTS


class Registry:
    """A store with registered models of hand-made weights."""

    def __init__(self, home):
        self.store, self.said = Store(home), []

    def add(
        self,
        model,
        *,
        arm="spark mesh 0.7",
        score=None,
        alias="challenger",
        split="a",
        origin="",
        settings=None,
        **tags,
    ):
        run = {"stage": "finetune", "arm": arm, "metric": "dice", "split_hash": split}
        run |= {"dataset": "d", "dataset_hash": "d", **({ORIGIN: origin} if origin else {})}
        recorder = self.store.begin(experiment="medmim", name=model, tags=run)
        weights = threshold.write_model(self.store.checkpoints(recorder.run_id), 100.0)
        recorder.file(weights, folder="model")
        recorder.file(weights.with_suffix(".json"), folder="model")
        if score is not None:
            recorder.metrics({"best/val_dice_present": score}, step=0)
        if settings is not None:
            recorder.tags({"seed": str(settings.get("seed", 0))})
            recorder.text("settings.yaml", yaml.safe_dump(settings))
        recorder.finish("FINISHED")
        self.store.register(model=model, run_id=recorder.run_id, tags=tags, alias=alias)
        return recorder.run_id

    def found(self, word=None):
        self.said.clear()
        return find_model(word, self.store.home, self.said.append)

    def chosen(self, word=None):
        """Return the run whose weights are found."""
        return self.found(word).weights.parent.name


@pytest.fixture
def registry(home):
    return Registry(home)


def test_the_best_candidate_on_validation_is_chosen_and_the_reason_logged(registry):
    best = registry.add("lung", score=0.8)
    registry.add("lung", score=0.044, status="failed sanity")
    registry.add("lung", arm="mae", score=0.7)
    registry.add("lung", arm="scratch", score=0.75, status="control")
    assert registry.chosen() == registry.chosen("lung") == best
    [line] = registry.said
    assert line.startswith("model: lung 1, dice_present 0.800 on validation, arm 'spark mesh 0.7', 20")
    others = "1 control and 1 version that failed the sanity check"
    assert line.endswith(f": the best of 2 candidates, next to {others}; choose another with --model")


def test_a_version_of_a_pack_is_not_the_default_whatever_score_it_claims(registry):
    registry.add("lung", score=0.999, origin="0" * 32)
    assert "come from a pack" in "".join(registry.said if registry.chosen() else ())
    own = registry.add("lung", score=0.5)
    registry.add("lung", score=0.999, origin="1" * 32)
    assert registry.chosen() == registry.chosen("lung") == own
    assert "come from a pack" not in "".join(registry.said)


def test_a_control_that_scores_higher_is_mentioned(registry):
    candidate = registry.add("lung", score=0.6)
    registry.add("lung", arm="scratch", score=0.7)  # without a status, as 0.1.0 registered it
    assert registry.chosen() == candidate
    assert registry.said[1].startswith(
        "warning: the control without pretraining scores higher: lung 2 (chall"
    )


def test_without_candidates_a_control_is_chosen_with_a_warning(registry):
    control = registry.add("lung", arm="scratch", score=0.7)
    registry.add("lung", score=0.01, status="failed sanity")
    assert registry.chosen() == control
    assert registry.said[1] == "warning: no candidate is registered; this version is marked 'control'"


def test_scores_are_compared_on_one_split_only(registry):
    registry.add("lung", score=0.9, split="other")
    newest = registry.add("lung", score=0.5)
    assert registry.chosen() == newest
    assert registry.said[1].startswith("warning: 1 version of another dataset or split, such as lung 1, not")
    registry.add("lung", alias="champion", score=0.1, split="third")
    registry.chosen("lung")
    assert registry.said[1].startswith("warning: 2 versions of another dataset or split")


def test_the_champion_comes_first_and_words_choose_others(registry):
    with pytest.raises(RunError, match="no registered model"):
        registry.found()
    first = registry.add("lung", score=0.5)
    champion = registry.add("lung", alias="champion")
    registry.add("lung", score=0.9)
    for word in (None, "lung", "lung:2", "lung@champion", champion[:10]):
        assert registry.chosen(word) == champion, word
    assert registry.chosen("lung:1") == first
    registry.add("brain", alias="champion")
    with pytest.raises(RunError, match="several have a champion: brain, lung"):
        registry.found()
    with pytest.raises(
        RunError, match=r"--model lnug: expected a registered model, .*; did you mean 'lung'\?"
    ):
        registry.found("lnug")
    with pytest.raises(RunError, match=r"--model x: .* no run id .*; known: brain, lung; see"):
        registry.found("x")


def test_weights_that_are_only_an_artifact_are_found(registry):
    run = registry.add("lung", alias="champion")
    (registry.store.checkpoints(run) / WEIGHTS).unlink()
    assert registry.found("lung").weights.is_file()


def test_the_models_of_five_folds_have_the_settings_and_the_seed_of_the_one_named(registry):
    def add(**settings):
        return registry.add("lung", arm="scratch", settings={"task": "segment", **settings})

    def models_of_folds(word):
        return find_models(FoldsOf(word), registry.store.home, registry.said.append)

    runs = [add(fold=fold, steps=20) for fold in range(4)]
    add(fold=4, steps=30)
    add(fold=4, steps=20, seed=1)
    with pytest.raises(RunError, match=r"seed of run \w{8}, got none of fold 4; train them with .* --fold 4"):
        models_of_folds(runs[0])
    runs.append(add(fold=4, steps=20))
    assert [one.run_id for one in models_of_folds(runs[3])][:2] == runs[:2]
    assert {one.run_id for one in models_of_folds(runs[2])} == set(runs)
    whole = add(steps=20)
    with pytest.raises(RunError, match=r"expected a run of `medmim finetune --fold N`, got run \w{8}"):
        models_of_folds(whole)
    file = str(registry.store.checkpoints(whole) / WEIGHTS)
    with pytest.raises(RunError, match="expected a run or a registered model, got the file"):
        models_of_folds(file)
