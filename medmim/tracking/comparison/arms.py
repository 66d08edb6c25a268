"""Arms of a comparison: the scores of their runs over seeds and patients, costs, and their masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from medmim.config.study import arm_title
from medmim.data.dataset.contamination_certificate import worst_verdict
from medmim.tracking.comparison.equality import differing_settings, fingerprint
from medmim.tracking.comparison.runs import CONTROL, RunScores
from medmim.tracking.statistics.seed_variance import Scores, SeedVariance, mean_interval, seed_variance
from medmim.training.evaluation.resampled_metrics import average, measure_of, own_scores, pseudo_values


@dataclass(frozen=True)
class Arm:
    """All runs of one kind within a stratum.

    Attributes:
        name: `scratch`, or method, mask and ratio; with the settings that differ where runs of one name do.
        stratum: what it is compared within; empty where a study varies neither encoder nor labels.
        is_control: whether it was trained from scratch.
        seeds, patients: rows and columns of `scores`.
        scores: contribution of each patient to the score, per seed; NaN where a fold was not run.
        own: the score of each patient alone, for figures.
        mean: over patients of the mean over seeds.
        interval: 95 % confidence interval of the mean, within 0 and 1; None for one patient.
        sd_seeds: of the means of seeds; None with one.
        hd95_mm: mean 95th percentile surface distance; None where no case has one.
        contamination: the worst verdict of its runs.
        columns: method, mask and ratio, for tables.
        costs: of one seed, under the keys of the resource meter.
        mask_statistics: of its mask; empty from scratch.
        panels: PNG figures of its first run.
        from_files: whether its scores are of predictions read from files; see `RunScores`.
        shares_pretraining: whether several of its seeds start from the weights of one pretraining, or their
            pretraining is unknown: they do not show how much scores vary between pretrainings.
    """

    name: str
    stratum: str
    is_control: bool
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    patients: tuple[str, ...]
    scores: Scores
    own: Scores
    mean: float
    interval: tuple[float, float] | None
    sd: float
    sd_seeds: float | None
    by_label: Mapping[str, float]
    hd95_mm: float | None
    contamination: str
    minutes: float
    columns: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    mask_statistics: Mapping[str, float] = field(default_factory=dict)
    panels: tuple[bytes, ...] = ()
    from_files: bool = False
    shares_pretraining: bool = False

    @property
    def title(self) -> str:
        """Its name among all arms of the comparison."""
        return arm_title(self.name, self.stratum)

    @property
    def interval_over(self) -> str:
        """What its interval covers."""
        if len(self.seeds) < 2:
            return "patients only"
        return f"patients and seeds{' of fine-tuning' if self.shares_pretraining else ''}"

    @property
    def patient_means(self) -> dict[str, float]:
        """Mean over seeds of each patient's own score; patients without one are left out."""
        known = np.isfinite(self.own)
        sums, counts = np.where(known, self.own, 0.0).sum(axis=0), known.sum(axis=0)
        return {who: float(s / n) for who, s, n in zip(self.patients, sums, counts, strict=True) if n}

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints; no patient is named."""
        low, high = self.interval or (None, None)
        return {
            "name": self.name,
            "arm": self.name,
            "stratum": self.stratum,
            "runs": list(self.runs),
            "seeds": list(self.seeds),
            "n_seeds": len(self.seeds),
            "n_patients": len(self.patients),
            "mean": self.mean,
            "low": low,
            "high": high,
            "interval_over": self.interval_over,
            "sd": self.sd,
            "sd_seeds": self.sd_seeds,
            "by_label": dict(self.by_label),
            "hd95_mm": self.hd95_mm,
            "contamination": self.contamination,
        }


def arms_of(runs: Sequence[RunScores]) -> tuple[Arm, ...]:
    """Gather runs by stratum and arm; controls come first in each stratum.

    Runs of one name with different settings become several arms: none replaces another. Of runs with equal
    settings, seed and patients the first is taken, as they repeat each other.
    """
    groups: dict[tuple[str, bool, str], list[RunScores]] = {}
    for run in _with_distinct_names(runs):
        groups.setdefault((run.stratum, run.arm.partition(" [")[0] != CONTROL, run.arm), []).append(run)
    arms = [_arm(groups[place], *place) for place in sorted(groups)]
    of_seeds = {
        stratum: seed_variance([arm.scores for arm in arms if arm.stratum == stratum])
        for stratum in {arm.stratum for arm in arms}
    }
    return tuple(replace(arm, interval=_interval(arm, of_seeds[arm.stratum])) for arm in arms)


def _interval(arm: Arm, of_seeds: SeedVariance) -> tuple[float, float] | None:
    """Return the interval of an arm's mean inside the range of scores, where the true mean is too."""
    found = mean_interval(arm.scores, (of_seeds if len(arm.seeds) > 1 else SeedVariance()))
    return found and (min(max(found[0], 0.0), arm.mean), max(min(found[1], 1.0), arm.mean))


def _with_distinct_names(runs: Sequence[RunScores]) -> list[RunScores]:
    """Return runs with the settings in their names that differ between runs of one arm."""
    groups: dict[tuple[str, str], list[RunScores]] = {}
    for run in runs:
        groups.setdefault((run.stratum, run.arm), []).append(run)
    named = []
    for group in groups.values():
        if len({fingerprint(run) for run in group}) == 1:
            named += group
            continue
        for run_id, values in differing_settings(group).items():
            words = ", ".join(f"{key}={value}" for key, value in values.items())
            named += [replace(run, arm=f"{run.arm} [{words}]") for run in group if run.run_id == run_id]
    return named


def _arm(runs: Sequence[RunScores], stratum: str, pretrained: bool, name: str) -> Arm:
    seeds = tuple(sorted({run.seed for run in runs}))
    rows = [seeds.index(run.seed) for run in runs]
    contributions = [pseudo_values(run.cases) for run in runs]
    patients = tuple(sorted({who for found in contributions for who in found}))
    shape = (len(seeds), patients)
    scores = _laid_out(rows, contributions, shape)
    by_patient, by_seed = np.nanmean(scores, axis=0), np.nanmean(scores, axis=1)
    measure = average([measure_of(run.cases) for run in runs])
    from_files = all(run.from_files for run in runs)
    origins = {(run.tags.get("lineage") or run.tags.get("pretraining_run", ""), run.seed) for run in runs}
    by_label = measure.by_class(np.ones(len(measure.patients)))
    distances = [row["hd95_mm"] for run in runs for row in run.cases if row.get("hd95_mm") is not None]
    return Arm(
        name=name,
        stratum=stratum,
        is_control=not pretrained,
        runs=tuple(run.run_id for run in runs),
        seeds=seeds,
        patients=patients,
        scores=scores,
        own=_laid_out(rows, [own_scores(run.cases) for run in runs], shape),
        mean=float(by_patient.mean()),
        interval=None,
        sd=float(by_patient.std(ddof=1)) if len(patients) > 1 else 0.0,
        sd_seeds=float(by_seed.std(ddof=1)) if len(seeds) > 1 else None,
        by_label={label: value for label, value in by_label.items() if np.isfinite(value)},
        hd95_mm=float(np.mean(distances)) if distances else None,
        contamination=worst_verdict(run.contamination for run in runs),
        minutes=float(np.mean([run.minutes for run in runs])),
        from_files=from_files,
        shares_pretraining=pretrained and not from_files and len(origins) > len({one for one, _ in origins}),
    )


def _laid_out(
    rows: Sequence[int], values: Sequence[Mapping[str, float]], shape: tuple[int, tuple[str, ...]]
) -> Scores:
    """Return the values of runs as (seeds, patients); the folds of a seed share its row."""
    seeds, patients = shape
    found = np.full((seeds, len(patients)), np.nan)
    for row, of_run in reversed(list(zip(rows, values, strict=True))):
        for column, who in enumerate(patients):
            found[row, column] = of_run.get(who, found[row, column])
    return found
