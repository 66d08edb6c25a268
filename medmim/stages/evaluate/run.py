"""`medmim evaluate`: score a trained model, or saved predictions, on another labelled dataset.

report.html, panel.png, scores.png
evaluation.json    scores with intervals, subgroups, contamination, cases without a score
scores.csv         the same scores as a table
cases.jsonl        metrics of every case
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim import files
from medmim.data.dataset.contamination_certificate import Certificate, certify
from medmim.data.dataset.manifest import Dataset, VolumeRecord, digest_of, read_dataset
from medmim.data.ingest.context import Progress
from medmim.errors import DataError, MedmimError, counted, raised_in
from medmim.notebook import NotebookResult, Table
from medmim.stages.evaluate.case_scores import (
    CaseScorer,
    classes_of_data,
    with_evaluated_classes,
)
from medmim.stages.evaluate.chosen_metrics import ChosenMetrics
from medmim.stages.evaluate.class_matching import ClassMatching, match_classes
from medmim.stages.evaluate.prediction_source import (
    EvaluationOptions,
    PredictionSource,
    annotated_cases,
    build_scorer,
    find_source,
    unlike_training_data_of,
)
from medmim.stages.evaluate.report import PAGE, GroupScores, write_report
from medmim.stages.finetune.run import shown_cases
from medmim.stages.initial_weights import patients_seen_by
from medmim.stages.run_lifecycle import score_cells
from medmim.stages.target_table import subgroups, with_targets
from medmim.stages.unlike_training_data import UNLIKE
from medmim.training.evaluation.metric_intervals import caveat, class_sizes, intervals
from medmim.training.evaluation.resampled_metrics import never_predicted, own_scores
from medmim.training.tasks.base import Row


@dataclass(frozen=True)
class EvaluationResult(NotebookResult):
    """Scores of a model on another dataset.

    Attributes:
        groups: scores of all cases, then of the subgroups.
        certificate: overlap of everything that the model has seen with the evaluated cases.
        failures: reason codes of cases without a score, by volume id.
    """

    out: Path
    page: Path
    facts: Mapping[str, Any]
    groups: Sequence[GroupScores]
    certificate: Certificate
    failures: Mapping[str, str]
    notes: Sequence[str]

    @property
    def contamination(self) -> str:
        """One line about contamination."""
        return "; ".join(self.certificate.warnings) or self.certificate.verdict

    def table(self) -> Table:
        """Return the scores of all cases and of the subgroups, with their confidence intervals."""
        rows = [[group.title, *score_cells(row)] for group in self.groups for row in group.scores]
        return [["cases", "metric", "value", "95 % interval", "patients"], *rows]

    def remarks(self) -> Sequence[str]:
        """Return the contamination, the warnings and the path of the report."""
        return [self.contamination, *self.notes, f"report {self.page}"]

    def as_json(self) -> dict[str, Any]:
        """Return the output of `--json`."""
        return {
            "evaluation": str(self.out),
            "report": str(self.page),
            **self.facts,
            "scores": [dict(row) for row in self.groups[0].scores],
            "subgroups": {one.title: [dict(row) for row in one.scores] for one in self.groups[1:]},
            "contamination": self.certificate.as_json(),
            "failures": dict(self.failures),
            "warnings": list(self.notes),
        }


def evaluate(
    data: Path,
    out: Path,
    options: EvaluationOptions,
    *,
    home: Path,
    progress: Progress | None = None,
    log: Callable[[str], None] = print,
) -> EvaluationResult:
    """Score a model or predictions on a labelled dataset and write a report.

    Raises:
        UsageError: if classes do not match by name, or `by` is not known.
        DataError: if no case has an annotation, or none could be scored.
        RunError: if there is no such model.
    """
    dataset = with_targets(read_dataset(data), options.targets, options.column, home=home, log=log)
    source = find_source(options, home, log)
    annotated, notes = annotated_cases(source, dataset, options.split)
    codes = classes_of_data(source.kind, dataset, annotated)
    matching = _matching(source, dataset, list(codes), options)
    groups = subgroups(annotated, options.by) if options.by else {}
    valid = source.task.validate(tuple(annotated), log)
    cases = with_evaluated_classes(source.kind, valid, matching.of_data)
    unlike = unlike_training_data_of(source, dataset, cases, log, force=options.force)
    failures = {} if options.force else dict.fromkeys(unlike, UNLIKE)
    scorer = build_scorer(source, dataset, codes, matching)
    rows = _rows(scorer, [one for one in cases if one.id not in failures], failures, progress, log)
    scored = [case for case in cases if case.id not in failures]
    notes += [*_class_notes(matching, rows), *source.task.unscored(scored, matching.names)]
    notes += _case_notes(source, cases, failures, unlike, options)
    metrics = source.metrics
    scores = [_group(scorer, metrics, name, own) for name, own in _parts(rows, groups).items() if own]
    notes += filter(None, [caveat(scores[0].scores)])
    for line in notes:
        log(f"warning: {line}")
    result = EvaluationResult(
        out=out,
        page=out / PAGE,
        facts=_facts(source, dataset, matching, scored, options.split),
        groups=scores,
        certificate=_certificate(source, dataset, scored),
        failures=failures,
        notes=notes,
    )
    _write(result, rows, scorer, metrics.main, shown_cases(scored))
    return result


def _matching(
    source: PredictionSource, dataset: Dataset, names: Sequence[str], options: EvaluationOptions
) -> ClassMatching:
    if source.kind == "regress":
        same_names = {name: name for name in source.classes}
        return ClassMatching(tuple(source.classes), same_names, same_names)
    same = source.trained_on == dataset.info.content_hash
    merged = source.trained.plan.label_classes if source.trained and same and not options.label_map else None
    if merged and source.trained:
        class_of = {code: source.trained.names[number] for code, number in merged}
        codes = classes_of_data("segment", dataset, ())
        pairs = [f"{class_of.get(code, '')}={name}" for name, own in codes.items() for code in own]
        return match_classes(source.classes, names, label_map=pairs)
    subset = source.kind != "segment"
    return match_classes(source.classes, names, label_map=options.label_map, subset=subset, same_source=same)


def _write(
    result: EvaluationResult,
    rows: Sequence[Row],
    scorer: CaseScorer,
    metric: str,
    shown: Sequence[VolumeRecord],
) -> None:
    title = f"{result.facts['model']} on {result.facts['dataset']}"
    summary = scorer.task.score_figure(rows, scorer.context, title=title)
    write_report(
        result.out,
        result.groups,
        metric=metric,
        title=title,
        facts=result.facts,
        contamination=(result.contamination, bool(result.certificate.warnings)),
        notes=result.notes,
        pictures={"panel": scorer.figure(shown, title), "summary": summary},
    )
    files.write_jsonl(result.out / "cases.jsonl", rows)
    files.write_json(result.out / "evaluation.json", result.as_json())


def _rows(
    scorer: CaseScorer,
    cases: Sequence[VolumeRecord],
    failures: dict[str, str],
    progress: Progress | None,
    log: Callable[[str], None],
) -> list[Row]:
    """Return the rows of all cases; a failure is recorded and does not stop the others."""
    rows: list[Row] = []
    for number, case in enumerate(cases):
        try:
            rows += scorer.rows(case)
        except DataError as error:
            failures[case.id] = error.reason
        except (MedmimError, RuntimeError, ValueError, MemoryError) as error:  # from torch: memory, sizes
            failures[case.id] = "out_of_memory" if isinstance(error, MemoryError) else "network_failed"
            log(f"volume {case.id}: {type(error).__name__} in {raised_in(error)}")
        if progress:
            progress("evaluate", number + 1, len(cases))
    if not rows:
        reasons = ", ".join(sorted(set(failures.values())))
        raise DataError(f"no case could be scored ({reasons})", reason="nothing_scored")
    return rows


def _parts(rows: Sequence[Row], groups: Mapping[str, str]) -> dict[str, Sequence[Row]]:
    """Return the rows of all cases, then those of each subgroup."""
    names = sorted(set(groups.values()))
    return {"all cases": rows} | {
        name: [row for row in rows if groups[row["case"]] == name] for name in names
    }


def _group(scorer: CaseScorer, metrics: ChosenMetrics, title: str, rows: Sequence[Row]) -> GroupScores:
    patients = len({row["subject"] for row in rows})
    statistic = scorer.task.weighted_statistic(rows, scorer.context)
    table = intervals(statistic, patients, class_sizes(rows))
    own = own_scores([{**row, "patient": row["subject"], "metric": metrics.main} for row in rows])
    return GroupScores(title, len({row["case"] for row in rows}), metrics.select(table), own)


def _certificate(source: PredictionSource, dataset: Dataset, cases: Sequence[VolumeRecord]) -> Certificate:
    seen = patients_seen_by(source.weights) if source.weights else None
    hashes = {
        "dataset_hash": dataset.info.content_hash,
        "split_hash": digest_of(sorted(one.id for one in cases)),
    }
    return certify(cases, {"training of the model": seen}, **hashes)


def _class_notes(matching: ClassMatching, rows: Sequence[Row]) -> list[str]:
    notes = [f"class {name} of the data was predicted in no case" for name in never_predicted(rows)]
    for side, of_side in (("model", matching.of_model), ("data", matching.of_data)):
        left_out = [name for name, target in of_side.items() if target is None]
        if left_out:
            notes.append(f"class {', '.join(left_out)} of the {side} is not evaluated")
    return notes


def _case_notes(
    source: PredictionSource,
    cases: Sequence[VolumeRecord],
    failures: Mapping[str, str],
    unlike: Mapping[str, str],
    options: EvaluationOptions,
) -> list[str]:
    notes, column = [], options.column
    if failures:
        reasons = ", ".join(sorted(set(failures.values())))
        notes.append(
            f"no score for {len(failures)} of {counted(len(cases), 'case')}: {reasons}; see evaluation.json"
        )
    if unlike and options.force:
        notes.append(
            f"{counted(len(unlike), 'case does', 'cases do')} not resemble the training data of the model; "
            "scored with --force"
        )
    quantity = source.classes[0] if source.kind == "regress" else column
    if column and quantity != column:
        notes.append(f"the model predicts {quantity}; its numbers are compared with the column {column}")
    if source.saved and source.kind in ("segment", "detect"):
        missing = sum(case.id not in source.saved.predicted for case in cases)
        notes += [f"no prediction for {counted(missing, 'case')}: counted as empty"] if missing else []
    return notes


def _facts(
    source: PredictionSource,
    dataset: Dataset,
    matching: ClassMatching,
    cases: Sequence[VolumeRecord],
    split: str,
) -> dict[str, Any]:
    merged = {
        target: [name for name, one in matching.of_model.items() if one == target]
        for target in matching.names
    }
    sha = source.trained.sha256 if source.trained else "unknown"
    return {
        "model": source.title,
        "model_sha256": sha,
        "task": source.kind,
        "classes": ", ".join(
            name if own == [name] else f"{name} (of the model: {', '.join(own)})"
            for name, own in merged.items()
        ),
        "dataset": dataset.info.name,
        "dataset_hash": dataset.info.content_hash,
        "split": split,
        "cases": len(cases),
        "patients": len({case.subject for case in cases}),
        "metrics": source.metrics.sentence,
    }
