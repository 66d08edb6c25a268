"""Tables of a comparison for reports and CSV files, and the metrics of an arm for the UI."""

from __future__ import annotations

import math

from medmim.pages import columns
from medmim.tracking.comparison.arms import Arm
from medmim.tracking.comparison.findings import Findings


def summary(arm: Arm, findings: Findings) -> dict[str, float]:
    """Return an arm's metrics: few keys, the same for every arm and study, finite numbers only."""
    low, high = arm.interval or (math.nan, math.nan)
    found = {
        "score/mean": arm.mean,
        "score/sd": arm.sd,
        "score/lo": low,
        "score/hi": high,
        "score/n_patients": float(len(arm.patients)),
        "score/n_seeds": float(len(arm.seeds)),
        **arm.costs,
        **arm.mask_statistics,
    }
    contrast = findings.against(arm.title, "control")
    if contrast:
        test = contrast.test
        found |= {"gain/mean": test.mean, "gain/lo": test.low, "gain/hi": test.high}
        found |= {"gain/p_adjusted": contrast.p_adjusted, "gain/effect": test.effect}
        found |= {"gain/detectable": test.detectable}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def arm_rows(findings: Findings) -> list[dict[str, str]]:
    """Return the table of arms."""
    rows = [_arm_row(arm, findings) for arm in findings.arms]
    known = [key for key in columns(rows) if {row.get(key, "") for row in rows} - {"", "–"}]
    return [{key: row[key] for key in known if key in row} for row in rows]


def contrast_rows(findings: Findings) -> list[dict[str, str]]:
    """Return the table of paired tests."""
    return [
        {
            "first": one.first,
            "second": one.second,
            "question": "did pretraining help" if one.against == "control" else "which arm is best",
            "difference": f"{one.test.mean:+.4f}",
            "95 % low": f"{one.test.low:+.4f}",
            "95 % high": f"{one.test.high:+.4f}",
            "interval over": one.interval_over,
            "p": _p_text(one.test.p),
            "p, all comparisons": _p_text(one.p_adjusted),
            "effect (g)": f"{one.test.effect:+.2f}",
            "detectable": _number(one.test.detectable, ".4f"),
            "skewness": f"{one.test.skewness:+.1f}",
            "patients": str(one.test.patients),
            "seeds": str(one.test.seeds),
        }
        for one in findings.contrasts
    ]


def case_rows(findings: Findings) -> list[dict[str, str]]:
    """Return one row for each arm, seed and patient (a digest)."""
    return [
        {"arm": arm.title, "seed": str(seed), "patient": who, "score": f"{value:.6f}"}
        for arm in findings.arms
        for seed, line in zip(arm.seeds, arm.scores.tolist(), strict=True)
        for who, value in zip(arm.patients, line, strict=True)
        if math.isfinite(value)
    ]


def _arm_row(arm: Arm, findings: Findings) -> dict[str, str]:
    contrast = findings.against(arm.title, "control")
    low, high = arm.interval or (math.nan, math.nan)
    return {
        "arm": arm.title,
        **arm.columns,
        f"mean {findings.metric}": f"{arm.mean:.4f}",
        "95 % low": _number(low, ".4f"),
        "95 % high": _number(high, ".4f"),
        "interval over": arm.interval_over,
        "sd": f"{arm.sd:.4f}",
        "sd of seeds": "" if arm.sd_seeds is None else f"{arm.sd_seeds:.4f}",
        "gain": f"{contrast.test.mean:+.4f}" if contrast else "",
        "p, all comparisons": _p_text(contrast.p_adjusted) if contrast else "",
        "patients": str(len(arm.patients)),
        "seeds": str(len(arm.seeds)),
        "minutes per seed": _number(arm.costs.get("cost/minutes", arm.minutes or math.nan), ".1f"),
        "peak memory GB": _number(arm.costs.get("cost/peak_memory_gb", math.nan), ".2f"),
        "energy Wh": _number(arm.costs.get("cost/energy_wh", math.nan), ".1f"),
        "mask unevenness": _number(arm.mask_statistics.get("card/unevenness", math.nan), ".3f"),
        **({} if arm.hd95_mm is None else {"HD95 mm": f"{arm.hd95_mm:.2f}"}),
        "test patients seen in training": arm.contamination,
        **{f"{findings.metric} {label}": f"{value:.3f}" for label, value in arm.by_label.items()},
    }


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "–"


def _p_text(value: float) -> str:
    """Return a p value with four digits, smaller ones as in 5e-05."""
    return f"{value:.1g}" if value < 1e-4 else f"{value:.4f}"
