"""One row an arm: what it is, how it scored, what it cost; the table of reports, CSV files and the UI."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medmim.tracking.comparison.findings import Findings, Variant


@dataclass(frozen=True)
class ArmRow:
    """One arm of a study.

    Attributes:
        variant: its scores.
        columns: method, mask, ratio, encoder, label_fraction.
        costs: under the keys of `stages.costs`, a cell's mean (peak memory: the highest).
        card: numbers of its mask's card; empty from scratch.
        panels: PNG pictures of its first run: what was hidden and rebuilt, what was predicted.
    """

    variant: Variant
    columns: Mapping[str, str]
    costs: Mapping[str, float]
    card: Mapping[str, float]
    panels: tuple[bytes, ...]

    @property
    def title(self) -> str:
        """Its name."""
        return self.variant.title


def summary(row: ArmRow, findings: Findings) -> dict[str, float]:
    """Return an arm's metrics: few keys, the same for every arm and study, finite numbers only."""
    variant, contrast = row.variant, findings.against(row.title, "control")
    found = {
        "score/mean": variant.mean,
        "score/sd": variant.sd,
        "score/lo": variant.low,
        "score/hi": variant.high,
        "score/n_patients": float(len(variant.patients)),
        "score/n_seeds": float(len(variant.seeds)),
        **row.costs,
        **row.card,
    }
    if contrast:
        test = contrast.test
        found |= {"gain/mean": test.mean, "gain/lo": test.low, "gain/hi": test.high}
        found |= {"gain/p_adjusted": contrast.p_adjusted, "gain/effect": test.effect}
        found |= {"gain/detectable": test.detectable}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def arm_rows(rows: Sequence[ArmRow], findings: Findings) -> list[dict[str, str]]:
    """Return the table of arms for people."""
    return [_shown(row, findings) for row in rows]


def contrast_rows(findings: Findings) -> list[dict[str, str]]:
    """Return the table of paired tests for people."""
    return [
        {
            "first": one.first,
            "second": one.second,
            "question": "did pretraining help" if one.against == "control" else "which is best",
            "difference": f"{one.test.mean:+.4f}",
            "95 % low": f"{one.test.low:+.4f}",
            "95 % high": f"{one.test.high:+.4f}",
            "p": f"{one.test.p:.4f}",
            "p, all comparisons": f"{one.p_adjusted:.4f}",
            "effect (g)": f"{one.test.effect:+.2f}",
            "detectable": f"{one.test.detectable:.4f}" if math.isfinite(one.test.detectable) else "none",
            "patients": str(one.test.patients),
            "seeds": str(one.test.seeds),
        }
        for one in findings.contrasts
    ]


def case_rows(rows: Sequence[ArmRow]) -> list[dict[str, str]]:
    """Return one row an arm, seed and patient (a digest)."""
    return [
        {"arm": row.title, "seed": str(seed), "patient": who, "score": f"{value:.6f}"}
        for row in rows
        for seed, line in zip(row.variant.seeds, row.variant.scores.tolist(), strict=True)
        for who, value in zip(row.variant.patients, line, strict=True)
        if math.isfinite(value)
    ]


def as_csv(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows as CSV; columns are those of all rows."""
    buffer = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(buffer, fieldnames=columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _shown(row: ArmRow, findings: Findings) -> dict[str, str]:
    variant, contrast = row.variant, findings.against(row.title, "control")
    return {
        "arm": row.title,
        **row.columns,
        f"mean {findings.metric}": f"{variant.mean:.4f}",
        "95 % low": f"{variant.low:.4f}",
        "95 % high": f"{variant.high:.4f}",
        "sd": f"{variant.sd:.4f}",
        "sd of seeds": "" if variant.sd_seeds is None else f"{variant.sd_seeds:.4f}",
        "patients": str(len(variant.patients)),
        "seeds": str(len(variant.seeds)),
        "gain": f"{contrast.test.mean:+.4f}" if contrast else "",
        "p, all comparisons": f"{contrast.p_adjusted:.4f}" if contrast else "",
        "minutes a cell": _number(row.costs, "cost/minutes", "{:.1f}"),
        "peak memory GB": _number(row.costs, "cost/peak_memory_gb", "{:.2f}"),
        "energy Wh": _number(row.costs, "cost/energy_wh", "{:.1f}"),
        "unevenness": _number(row.card, "card/unevenness", "{:.3f}"),
    }


def _number(values: Mapping[str, float], key: str, form: str) -> str:
    return form.format(values[key]) if key in values else "–"
