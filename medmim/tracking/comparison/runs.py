"""Finished fine-tuning runs as comparisons read them: scores of cases, resolved settings, contamination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities import Run

from medmim.config.own_code import CODE_TAG
from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.config.yaml_settings import parse_yaml
from medmim.data.dataset.contamination_certificate import CERTIFICATE, UNKNOWN, verdict_of
from medmim.errors import RunError
from medmim.text_formats import parse_json
from medmim.tracking.mlflow_store import FINISHED, RESTORE, Store
from medmim.tracking.run_ids import COMPARE, ORIGIN
from medmim.training.evaluation.segmentation_metrics import SEGMENTATION_METRICS

CASES = "cases.jsonl"
SCORES = "scores.jsonl"
CONTROL = "scratch"
AT_CHANCE = "at_chance"  # tag of a run whose validation score is at the level of chance
TITLES = {
    "ap50": "AP50",
    "macro_auroc": "macro AUROC",
    "macro_f1": "macro-F1",
    "quadratic_kappa": "quadratic κ",
    "r2": "R²",
    **{name: metric.title for name, metric in SEGMENTATION_METRICS.items() if metric.is_tested},
}
_COMPARABLE = ("dataset_hash", "split_hash", "task", "labelled")
_SAME_TEST = ("dataset_hash", "split_hash", "task")


@dataclass(frozen=True)
class RunScores:
    """A finished fine-tuning run.

    Attributes:
        arm: `scratch`, or method, mask and ratio of its pretraining.
        cases: one row for each case and class, with its score.
        scores: every number of its test with its interval; empty for runs of older versions.
        settings: resolved settings; None where the run has no record of them.
        pretraining: resolved settings of its pretraining, empty from scratch; None where there is no record.
        contamination: verdict of its certificate.
        minutes: of training, its pretraining included.
        recorded: its score as the table of scores and the store recorded it.
        pretraining_data: content hashes of the datasets of its pretraining; empty where unknown.
        code: tags on the user's own code in its stages.
        from_files: whether these are predictions read from files, of any tool; a claim is then about these
            predictions, and needs no second training seed.
    """

    run_id: str
    arm: str
    tags: Mapping[str, str]
    cases: tuple[Mapping[str, Any], ...]
    scores: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, Any] | None = field(default_factory=dict)
    pretraining: Mapping[str, Any] | None = field(default_factory=dict)
    contamination: str = UNKNOWN
    minutes: float = 0.0
    recorded: tuple[float, ...] = ()
    pretraining_data: str = ""
    code: tuple[str, ...] = ()
    from_files: bool = False

    @property
    def stratum(self) -> str:
        """The group of a study within which arms are compared; empty outside studies."""
        return self.tags.get("stratum", "")

    @property
    def seed(self) -> int:
        """Training seed."""
        return int(self.tags["seed"])


def find_runs(store: Store, run_ids: Sequence[str]) -> list[RunScores]:
    """Return the named runs, or all that are comparable with the newest finished fine-tuning run.

    Args:
        run_ids: ids of runs, or their beginnings.

    Raises:
        RunError: if there are none, or a named one did not finish or was tested on other patients.
    """
    if run_ids:
        named = [store.named(word, COMPARE) for word in run_ids]
        chosen = list({run.info.run_id: run for run in named}.values())
    else:
        newest = store.runs(FINISHED, limit=1, stage="finetune")
        same = {key: one.data.tags[key] for one in newest for key in _COMPARABLE if key in one.data.tags}
        finished = store.runs(FINISHED, stage="finetune", **same) if newest else []
        chosen = [run for run in finished if _values(run, _COMPARABLE) == _values(newest[0], _COMPARABLE)]
    if not chosen:
        raise RunError("no finished fine-tuning run to compare: run `medmim finetune segment` first")
    for run in chosen:
        if _values(run, _SAME_TEST) != _values(chosen[0], _SAME_TEST):
            raise RunError(
                f"run {run.info.run_id} was tested on other patients than {chosen[0].info.run_id}: "
                "compare runs of one dataset, split and fold"
            )
    return [read_run(store, run) for run in chosen]


def further_runs(store: Store, runs: Sequence[RunScores]) -> int:
    """Return how many other finished runs of the same arms were tested on the same patients."""
    same = {key: runs[0].tags[key] for key in _COMPARABLE if key in runs[0].tags}
    known, arms = {run.run_id for run in runs}, {run.tags["arm"] for run in runs}
    found = store.runs(FINISHED, limit=None, **{**same, "stage": "finetune"})
    return sum(run.info.run_id not in known and run.data.tags.get("arm") in arms for run in found)


def read_run(store: Store, run: Run) -> RunScores:
    """Return a finished fine-tuning run with the scores of its cases."""
    cases, scores = _rows(store, run, CASES), _rows(store, run, SCORES, default="")
    tags = dict(run.data.tags)
    pretraining = store.find_run(tags.get("pretraining_run", ""))
    origin = pretraining.data.tags if pretraining else {}
    (certificate,) = _rows(store, run, f"model/{CERTIFICATE}", default="{}", whole=True)
    return RunScores(
        run_id=run.info.run_id,
        arm=tags["arm"],
        tags=tags,
        cases=cases,
        scores=scores,
        settings=read_settings(store, run),
        pretraining=read_pretraining(store, tags),
        contamination=UNKNOWN if ORIGIN in tags else verdict_of(certificate),
        minutes=_minutes(run) + (_minutes(pretraining) if pretraining else 0.0),
        recorded=_recorded(run, scores),
        pretraining_data=origin.get("dataset_hashes") or origin.get("dataset_hash", ""),
        code=tuple(one[CODE_TAG] for one in (origin, tags) if CODE_TAG in one),
    )


def read_pretraining(store: Store, tags: Mapping[str, str]) -> Mapping[str, Any] | None:
    """Return the settings of the pretraining that tags name; empty from scratch, None if unknown."""
    pretraining = store.find_run(tags.get("pretraining_run", ""))
    if pretraining:
        return read_settings(store, pretraining)
    return {} if tags["arm"] == CONTROL else None


def read_settings(store: Store, run: Run) -> Mapping[str, Any] | None:
    """Return the resolved settings of a run under their current names; None if they were not recorded."""
    text = store.read_text(run, "settings.yaml", default="")
    if not text:
        return None
    kind = PretrainSettings if run.data.tags.get("stage") == "pretrain" else FinetuneSettings
    return kind.with_current_names(parse_yaml(text, where="settings.yaml"))


def _rows(
    store: Store, run: Run, name: str, *, default: str | None = None, whole: bool = False
) -> tuple[dict[str, Any], ...]:
    """Return the objects of an artifact: one a line, or one for the whole file."""
    text = store.read_text(run, name, default=default)
    try:
        return tuple(parse_json(line) for line in ([text] if whole else text.splitlines()))
    except ValueError as error:
        raise RunError(f"run {run.info.run_id}: its artifact '{name}' is damaged: {RESTORE}") from error


def _recorded(run: Run, scores: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    metric = run.data.tags.get("metric", "")
    found = [
        run.data.metrics.get(f"test_{metric}"),
        *(one["value"] for one in scores if one["metric"] == metric),
    ]
    return tuple(float(value) for value in found if value is not None)


def _minutes(run: Run) -> float:
    metrics = run.data.metrics
    return float(metrics.get("cost/minutes", metrics.get("last/minutes", 0.0)))


def _values(run: Run, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(run.data.tags.get(key, "") for key in keys)
