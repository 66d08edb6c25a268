"""Registered models: their versions with lineage, and the only way to become champion, a paired test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from medmim.errors import RunError
from medmim.tracking.comparison.findings import Contrast, Findings, find, verdict
from medmim.tracking.comparison.runs import CONTROL, Finetuned, read_run
from medmim.tracking.mlflow_store import Store

CHAMPION = "champion"
# what the runs of one arm share; others of its name are of an earlier plan of the study
_ALIKE = ("dataset_hash", "encoder", "dims", "size", "batch_size", "lr", "budget")


@dataclass(frozen=True)
class RegisteredModel:
    """A version of a model.

    Attributes:
        model, version: name and number.
        aliases: challenger, champion, or none.
        run_id: of the fine-tuning run that made it.
        tags: lineage and certificate.
    """

    model: str
    version: int
    aliases: tuple[str, ...]
    run_id: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Promotion:
    """What became of a challenger: promoted or not, and the sentence that says why."""

    promoted: bool
    sentence: str


def versions(store: Store) -> list[RegisteredModel]:
    """Return all versions of all registered models, newest first within each."""
    found = [_registered(store, one) for one in store.client.search_model_versions()]
    return sorted(found, key=lambda one: (one.model, -one.version))


def champion_of(store: Store, model: str) -> RegisteredModel | None:
    """Return the champion of a model, where there is one."""
    try:
        return _registered(store, store.client.get_model_version_by_alias(model, CHAMPION))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def promote(store: Store, runs: Sequence[Finetuned], findings: Findings) -> Promotion:
    """Make the best arm's model champion if the paired test says so.

    It has to be above the champion in office or, while there is none, above the control. Of the arm's seeds
    the first is taken: choosing among them by their test score would make the score meaningless.

    Args:
        store: the local store.
        runs: all runs that `findings` are about.
        findings: of the study.
    """
    best = max(findings.variants, key=lambda one: one.mean)
    chosen = min((run for run in runs if run.run_id in best.runs), key=lambda run: int(run.tags["seed"]))
    version = _version_of(store, chosen.run_id)
    incumbent = champion_runs(store, champion_of(store, version.model))
    if version.tags.get("contamination") == "contaminated":
        return Promotion(False, f"{best.title} is not promoted: its training saw test patients")
    if any(run.run_id in best.runs for run in incumbent):
        return Promotion(False, f"{best.title} is champion already")
    mine = [run for run in runs if run.run_id in best.runs]
    if incumbent and _tests(incumbent) != _tests(mine):
        why = "the champion in office was tested on other patients; compare on one dataset, split and fold"
        return Promotion(False, f"{best.title} is not promoted: {why}")
    if incumbent:
        contrast = _against(mine, incumbent, best.title, findings.metric)
    else:
        contrast = findings.against(best.title, "control")
    if contrast is None:
        return Promotion(False, f"{best.title} is not promoted: it is the control, or there is none")
    if not contrast.claimed or contrast.test.mean <= 0:
        return Promotion(False, f"{best.title} is not promoted: {contrast.verdict}")
    store.client.set_registered_model_alias(version.model, CHAMPION, str(version.version))
    for key, value in (("promoted_by", contrast.verdict), ("promotion_p", f"{contrast.p_adjusted:.2e}")):
        store.client.set_model_version_tag(version.model, str(version.version), key, value)
    return Promotion(True, f"{version.model} {version.version} is champion: {contrast.verdict}")


def _tests(runs: Sequence[Finetuned]) -> set[str]:
    """Return the tests that runs were put to: one, or that of each fold."""
    return {run.tags["split_hash"] for run in runs}


def _against(
    mine: Sequence[Finetuned], incumbent: Sequence[Finetuned], title: str, metric: str
) -> Contrast | None:
    """Test two arms alone; the one in office takes the control's place, but not its name."""
    office = [_called(CONTROL, run) for run in incumbent]
    contrasts = find([*office, *(_called("challenger", run) for run in mine)]).contrasts
    if not contrasts:
        return None
    test, claimed = contrasts[0].test, contrasts[0].claimed
    sentence = verdict(
        title, f"the champion {incumbent[0].arm}", test, metric=metric, claimed=claimed, tests=1
    )
    return replace(contrasts[0], verdict=sentence)


def _called(name: str, run: Finetuned) -> Finetuned:
    return Finetuned(run.run_id, name, {**run.tags, "stratum": ""}, run.cases)


def champion_runs(store: Store, champion: RegisteredModel | None) -> list[Finetuned]:
    """Return the finished runs of the arm that a champion belongs to: its study's, or its own alone."""
    if champion is None:
        return []
    run = store.run(champion.run_id)
    words = {key: run.data.tags[key] for key in ("study", "arm", "stratum") if key in run.data.tags}
    mates = store.runs(**words, role="cell") if "study" in words else [run]
    alike = {key: run.data.tags.get(key) for key in _ALIKE}
    return [
        read_run(store, mate)
        for mate in mates
        if mate.info.status == "FINISHED" and {key: mate.data.tags.get(key) for key in _ALIKE} == alike
    ]


def _version_of(store: Store, run_id: str) -> RegisteredModel:
    found = store.client.search_model_versions(f"run_id = '{run_id}'")
    if not found:
        raise RunError(f"run {run_id} has no registered model: was it unpacked here? train it again")
    return _registered(store, found[0])


def _registered(store: Store, version: ModelVersion) -> RegisteredModel:
    names = store.client.get_registered_model(version.name).aliases
    mine = tuple(sorted(alias for alias, number in names.items() if str(number) == str(version.version)))
    return RegisteredModel(
        str(version.name), int(version.version), mine, str(version.run_id), dict(version.tags)
    )
