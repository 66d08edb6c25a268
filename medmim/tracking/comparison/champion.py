"""Registered models and their champion, which only the paired test or a recorded decision of a user names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from medmim.data.dataset.contamination_certificate import CONTAMINATED, EXACT_ONLY, NONE_FOUND, POSSIBLE
from medmim.data.dataset.manifest import digest_of
from medmim.errors import RunError, UsageError, counted
from medmim.text_formats import parse_json
from medmim.tracking.comparison.arms import Arm, arms_of
from medmim.tracking.comparison.findings import Findings, find
from medmim.tracking.comparison.runs import CONTROL, RunScores, read_run
from medmim.tracking.comparison.verdicts import obstacle_to, verdict
from medmim.tracking.mlflow_store import Store
from medmim.tracking.run_ids import ORIGIN
from medmim.tracking.statistics.multiple_testing import spent_alpha
from medmim.tracking.statistics.paired_test import LEVEL, PairedTest

CHAMPION = "champion"
# what the runs of one arm share; others of its name belong to an earlier plan of the study
_SAME_ARM = ("dataset_hash", "encoder", "dims", "size", "batch_size", "lr", "budget")


@dataclass(frozen=True)
class RegisteredModel:
    """A version of a model."""

    model: str
    version: int
    aliases: tuple[str, ...]
    run_id: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Promotion:
    """Whether a challenger was promoted, and the sentence that states why."""

    promoted: bool
    sentence: str


@dataclass(frozen=True)
class Challenge:
    """One comparison on a test set that could have made a champion, as the registry records it.

    Attributes:
        number: of this test set, from 1.
        level: of significance that was left for it.
        challenger: digest of the runs that were compared.
        p: p value, adjusted for the arms that the challenger was chosen from.
    """

    number: int
    level: float
    challenger: str
    p: float


def champion_of(store: Store, model: str) -> RegisteredModel | None:
    """Return the champion of a model; None where there is none."""
    try:
        version = store.client.get_model_version_by_alias(model, CHAMPION)
        return _registered(version, store.aliases(version))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def promote(store: Store, runs: Sequence[RunScores], findings: Findings, *, missing: int = 0) -> Promotion:
    """Make the best arm's model champion if the paired test shows that it is better.

    It is tested against the champion or, while there is none, against the control. Of the arm's seeds the
    first is taken: a choice by their test scores would make the score meaningless. Every test of a test set
    spends part of its error rate, so that repeated challenges err in at most 5 % of test sets.
    """
    best = max(findings.arms, key=lambda arm: arm.mean)
    mine = [run for run in runs if run.run_id in best.runs]
    version = _version_of(store, min(mine, key=lambda run: run.seed).run_id)
    incumbent = champion_runs(store, champion_of(store, version.model))
    refusal = _refusal(best, mine, incumbent, findings, missing)
    if refusal:
        return Promotion(False, f"{best.title} is not promoted: {refusal}")
    candidates = sum(not arm.is_control for arm in findings.arms)
    test, p, second, name = (
        _against_champion(best, mine, incumbent, candidates)
        if incumbent
        else _against_control(best, findings)
    )
    obstacle = obstacle_to(best, second, test)
    challenge = None if obstacle else _challenge(store, version.model, [*mine, *incumbent], p)
    claimed = challenge is not None and challenge.p <= challenge.level and test.mean > 0
    shown = replace(test, detectable=math.inf)  # it was computed for the level without spending
    sentence = verdict(
        best, second, shown, metric=findings.metric, claimed=claimed, obstacle=obstacle, name=name
    )
    sentence += _spending(challenge) if challenge else ""
    if challenge is None or not claimed:
        return Promotion(False, f"{best.title} is not promoted: {sentence}")
    _name_champion(store, version, {"promoted_by": sentence, "promotion_p": f"{challenge.p:.2e}"})
    return Promotion(True, f"{version.model} {version.version} is champion: {sentence}")


def force_promotion(store: Store, word: str, why: str) -> Promotion:
    """Make NAME:VERSION champion because a user decided so; the reason is recorded with it."""
    if not why.strip():
        raise UsageError("--why: expected the reason for this promotion, which is recorded; got nothing")
    name, _, number = word.rpartition(":")
    try:
        version = _registered(store.client.get_model_version(name, number))
    except MlflowException as error:
        raise RunError(
            f"no model version '{word}': expected NAME:VERSION as `medmim models` lists them"
        ) from error
    _name_champion(store, version, {"promoted_by": f"forced: {why.strip()}", "promotion_p": "none"})
    return Promotion(True, f"{version.model} {version.version} is champion by force: {why.strip()}")


def champion_runs(store: Store, champion: RegisteredModel | None) -> list[RunScores]:
    """Return the finished runs of the arm that a champion belongs to: its study's, or its own alone."""
    if champion is None:
        return []
    run = store.run(champion.run_id)
    own = {key: run.data.tags[key] for key in ("study", "arm", "stratum") if key in run.data.tags}
    siblings = store.runs(**own, role="cell") if "study" in own else [run]
    shared = {key: run.data.tags.get(key) for key in _SAME_ARM}
    return [
        read_run(store, sibling)
        for sibling in siblings
        if sibling.info.status == "FINISHED"
        and (ORIGIN in sibling.data.tags) == (ORIGIN in run.data.tags)  # runs of a pack do not join ours
        and {key: sibling.data.tags.get(key) for key in _SAME_ARM} == shared
    ]


def _refusal(
    best: Arm,
    mine: Sequence[RunScores],
    incumbent: Sequence[RunScores],
    findings: Findings,
    missing: int,
) -> str:
    """Return why an arm cannot even be tested; empty where it can."""
    reasons = [
        (any(run.run_id in best.runs for run in incumbent), "it is already the champion"),
        (missing > 0, f"{counted(missing, 'trial')} of the study not finished; run the study again"),
        (best.contamination == CONTAMINATED, "its training saw test patients"),
        (best.contamination == POSSIBLE, "its training may have seen test patients under look-alike keys"),
        (
            best.contamination not in (NONE_FOUND, EXACT_ONLY),
            "it is unknown whether its training saw test patients",
        ),
        (bool(findings.differences), "the arms are unequal, as listed at the top"),
        (
            bool(incumbent) and _test_sets(incumbent) != _test_sets(mine),
            "the champion was tested on other patients; compare on one dataset, split and fold",
        ),
        (
            len({run.tags.get("dataset_hash") for run in (*mine, *incumbent)}) > 1,
            "the champion was tested on another version of the dataset; train it again on this one",
        ),
        (
            not incumbent and findings.against(best.title, "control") is None,
            "it is the control, or there is no control",
        ),
    ]
    return next((sentence for applies, sentence in reasons if applies), "")


def _against_control(best: Arm, findings: Findings) -> tuple[PairedTest, float, Arm, str]:
    contrasts = [one for one in findings.contrasts if one.against == "control" and one.first == best.title]
    weakest = max(contrasts, key=lambda one: one.p_adjusted)  # there may be several controls
    control = next(arm for arm in findings.arms if arm.title == weakest.second)
    return weakest.test, weakest.p_adjusted, control, ""


def _against_champion(
    best: Arm, mine: Sequence[RunScores], incumbent: Sequence[RunScores], candidates: int
) -> tuple[PairedTest, float, Arm, str]:
    """Test two arms alone; the champion takes the place of the control."""
    renamed = [_renamed(run, CONTROL) for run in incumbent] + [_renamed(run, "challenger") for run in mine]
    arms = arms_of(renamed)
    champion = next(arm for arm in arms if arm.is_control)
    contrast = next(iter(find(renamed, arms=arms).contrasts), None)
    if contrast is None:
        raise RunError(
            f"{best.title} and the champion share no seed and patient: compare them on one test set"
        )
    p = min(1.0, contrast.test.p * max(candidates, 1))  # the challenger is the best of so many arms
    return contrast.test, p, champion, f"the champion {incumbent[0].arm}"


def _renamed(run: RunScores, name: str) -> RunScores:
    return replace(run, arm=name, tags={**run.tags, "stratum": ""})


def _challenge(store: Store, model: str, runs: Sequence[RunScores], p: float) -> Challenge:
    """Return the challenge of these runs on their test set; a new one is recorded and gets what is left."""
    prefix = f"challenge.{digest_of(sorted(_test_sets(runs)))[:12]}."
    challenger = digest_of(sorted(run.run_id for run in runs))[:16]
    task = model.rpartition("-")[2]  # a dataset that was ingested under another name has another model
    known = [one.tags for one in store.client.search_registered_models() if one.name.endswith(f"-{task}")]
    noted = [value for tags in known for key, value in tags.items() if key.startswith(prefix)]
    try:
        earlier = [Challenge(**parse_json(value)) for value in noted]
    except (ValueError, TypeError) as error:
        raise RunError(
            f"the registry's record of challenges of model '{model}' is damaged: nothing is claimed; "
            "restore it with `medmim doctor --repair`"
        ) from error
    for one in earlier:
        if one.challenger == challenger:  # asked again: the same question spends nothing
            return replace(one, p=p)
    number = len(earlier) + 1
    made = Challenge(number, spent_alpha(number, level=LEVEL), challenger, p)
    store.client.set_registered_model_tag(model, f"{prefix}{number}", json.dumps(asdict(made)))
    store.note_registry()
    return made


def _spending(challenge: Challenge) -> str:
    advice = "; a fresh fold (`--fold`, or `folds` of a study) has an error rate of its own"
    return (
        f" (challenge {challenge.number} on this test set: p {challenge.p:.4f}, "
        f"{challenge.level:.4f} needed{advice if challenge.number > 1 else ''})"
    )


def _test_sets(runs: Sequence[RunScores]) -> set[str]:
    """Return the test sets of runs: one, or that of each fold."""
    return {run.tags["split_hash"] for run in runs}


def _name_champion(store: Store, version: RegisteredModel, tags: Mapping[str, str]) -> None:
    store.client.set_registered_model_alias(version.model, CHAMPION, str(version.version))
    for key, value in tags.items():
        store.client.set_model_version_tag(version.model, str(version.version), key, value)
    store.note_registry()


def _version_of(store: Store, run_id: str) -> RegisteredModel:
    found = store.client.search_model_versions(f"run_id = '{run_id}'")
    if not found:
        raise RunError(f"run {run_id} has no registered model: was it unpacked here? train it again")
    return _registered(found[0], store.aliases(found[0]))


def _registered(one: ModelVersion, aliases: Sequence[str] = ()) -> RegisteredModel:
    return RegisteredModel(str(one.name), int(one.version), tuple(aliases), str(one.run_id), dict(one.tags))
