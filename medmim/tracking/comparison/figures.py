"""Figures of a comparison: scores, heat map, ratio curves, paired differences, patients of two arms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medmim.config.study import SCRATCH
from medmim.tracking.comparison.arms import Arm
from medmim.tracking.comparison.findings import Findings
from medmim.tracking.comparison.verdicts import Contrast
from medmim.training.evaluation.figures import plain, scores_figure, to_png

HEADINGS = {
    "scores": "Score of each arm",
    "heat_map": "Mask and ratio",
    "ratio_curves": "Score over ratio",
    "differences": "Paired differences",
    "patients": "Patient by patient",
}
_COLOURS = ("#1d3557", "#e76f51", "#2a9d8f", "#e9a820", "#7b4ea3", "#6b7280", "#b5179e", "#4f772d", "#0096c7")
_GREY = "#9aa5b1"
_DPI = 110


def figures(findings: Findings) -> dict[str, bytes]:
    """Return the figures that these arms allow: key of `HEADINGS` → PNG."""
    metric = findings.metric
    pretrained = [arm for arm in findings.arms if "ratio" in arm.columns and arm.columns["ratio"] != "–"]
    found = {"scores": scores(findings)}
    if len({(arm.columns["mask"], arm.columns["ratio"]) for arm in pretrained}) > 1:
        found["heat_map"] = heat_map(pretrained, metric)
    if len({arm.columns["ratio"] for arm in pretrained}) > 1:
        found["ratio_curves"] = ratio_curves(pretrained, findings)
    if findings.contrasts:
        found["differences"] = forest(findings)
        found["patients"] = scatter(findings)
    return found


def scores(findings: Findings) -> bytes:
    """Draw the patients of each arm, and its mean with the confidence interval."""
    rows = [(arm.title, list(arm.patient_means.values()), arm.mean, arm.interval) for arm in findings.arms]
    return scores_figure(rows, f"{findings.metric}: each test patient, and the mean with its 95 % interval")


def heat_map(arms: Sequence[Arm], metric: str) -> bytes:
    """Draw mask × ratio, one map for each method and stratum: the mean, and the interval below it.

    The colours cover all intervals, so that means which differ by less look alike.
    """
    groups = _grouped(arms)
    masks = max(len({arm.columns["mask"] for arm in group}) for group in groups.values())
    figure = Figure(figsize=(9, (0.8 + 0.62 * masks) * len(groups) + 0.4), dpi=_DPI, layout="constrained")
    ends = [end for arm in arms for end in (arm.mean, *(arm.interval or ()))]
    low, high = min(ends), max(ends)
    places = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for axes, (title, group) in zip(places, groups.items(), strict=True):
        names = list(dict.fromkeys(arm.columns["mask"] for arm in group))
        ratios = sorted({float(arm.columns["ratio"]) for arm in group})
        values = np.full((len(names), len(ratios)), np.nan)
        for arm in group:
            place = (names.index(arm.columns["mask"]), ratios.index(float(arm.columns["ratio"])))
            values[place] = arm.mean
            interval = "{:.3f} … {:.3f}".format(*arm.interval) if arm.interval else ""
            colour = "wk"[arm.mean >= (low + high) / 2]
            text = f"{arm.mean:.3f}\n{interval}"
            axes.text(place[1], place[0], text, ha="center", va="center", fontsize=8, color=colour)
        image = axes.imshow(values, cmap="viridis", vmin=low, vmax=high, aspect="auto")
        axes.set_xticks(range(len(ratios)), [f"{ratio:g}" for ratio in ratios])
        axes.set_yticks(range(len(names)), [plain(name) for name in names])
        axes.set_title(plain(title), fontsize=9)
        figure.colorbar(image, ax=axes, label=metric)
    figure.supxlabel("masking ratio", fontsize=9)
    return to_png(figure)


def ratio_curves(arms: Sequence[Arm], findings: Findings) -> bytes:
    """Draw score over ratio, one curve for each mask with its interval, the control as a band."""
    groups = _grouped(arms)
    figure = Figure(figsize=(9, 3.6 * len(groups)), dpi=_DPI, layout="constrained")
    places = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for axes, (title, group) in zip(places, groups.items(), strict=True):
        for control in findings.arms:
            if control.is_control and control.stratum == group[0].stratum:
                low, high = control.interval or (control.mean, control.mean)
                axes.axhspan(low, high, color=_GREY, alpha=0.2, linewidth=0)
                style = "-" if control.name == SCRATCH else "--"
                axes.axhline(control.mean, color=_GREY, linestyle=style, label=control.name)
        names = list(dict.fromkeys(arm.columns["mask"] for arm in group))
        for number, name in enumerate(names):
            line = sorted(
                (arm for arm in group if arm.columns["mask"] == name),
                key=lambda arm: float(arm.columns["ratio"]),
            )
            shift = 0.006 * (number - (len(names) - 1) / 2)  # so that intervals do not cover each other
            _draw_curve(axes, line, shift, name, _COLOURS[number % len(_COLOURS)])
        axes.set_title(plain(title), fontsize=9)
        axes.set_ylabel(f"{findings.metric}, 95 % interval")
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.supxlabel("masking ratio", fontsize=9)
    return to_png(figure)


def forest(findings: Findings) -> bytes:
    """Draw every paired difference with its interval; dark where it is evidence."""
    contrasts = findings.contrasts
    figure = Figure(figsize=(9, 1.2 + 0.32 * len(contrasts)), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    for height, one in enumerate(contrasts):
        test = one.test
        axes.errorbar(
            100 * test.mean,
            height,
            xerr=[[100 * (test.mean - test.low)], [100 * (test.high - test.mean)]],
            fmt="o" if one.against == "control" else "s",
            color=_COLOURS[0] if one.claimed else _GREY,
            capsize=3,
        )
    axes.axvline(0, color="#c1121f", linewidth=1)
    axes.set_yticks(range(len(contrasts)), [plain(f"{one.first} − {one.second}") for one in contrasts])
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(len(contrasts) - 0.5, -0.5)
    axes.set_xlabel(f"paired difference, points of {findings.metric} (95 % interval); dark: evidence")
    return to_png(figure)


def scatter(findings: Findings) -> bytes:
    """Draw the score of each test patient under the best arm against that under the control or the next."""
    shown = _shown_pairs(findings)
    figure = Figure(figsize=(4.5 * len(shown), 4.3), dpi=_DPI, layout="constrained")
    by_title = {arm.title: arm for arm in findings.arms}
    for axes, one in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        first, second = by_title[one.first].patient_means, by_title[one.second].patient_means
        both = sorted(first.keys() & second.keys())
        across, up = [[means[who] for who in both] for means in (second, first)]
        ends = [min(across + up), max(across + up)]
        axes.plot(ends, ends, color=_GREY, linewidth=1)
        axes.scatter(across, up, s=18, color=_COLOURS[0], alpha=0.7)
        axes.set_xlabel(plain(one.second))
        axes.set_ylabel(plain(one.first))
        axes.set_title(f"{findings.metric} of each test patient", fontsize=9)
        axes.set_aspect("equal")
    return to_png(figure)


def _shown_pairs(findings: Findings) -> list[Contrast]:
    """Return, for each stratum, the contrast with the highest first arm."""
    shown = []
    for stratum in findings.best:
        titles = {arm.title for arm in findings.arms if arm.stratum == stratum}
        inside = [one for one in findings.contrasts if one.first in titles]
        if inside:
            controls = [one for one in inside if one.against == "control"] or inside
            shown.append(max(controls, key=lambda one: one.test.mean))
    return shown[:3]


def _draw_curve(axes: Axes, line: Sequence[Arm], shift: float, name: str, colour: str) -> None:
    ratios = [float(arm.columns["ratio"]) + shift for arm in line]
    intervals = [arm.interval or (arm.mean, arm.mean) for arm in line]
    below = [arm.mean - low for arm, (low, _) in zip(line, intervals, strict=True)]
    above = [high - arm.mean for arm, (_, high) in zip(line, intervals, strict=True)]
    means = [arm.mean for arm in line]
    axes.errorbar(ratios, means, yerr=[below, above], fmt="o-", capsize=3, color=colour, label=plain(name))


def _grouped(arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    """Group arms that differ in mask and ratio only; the options follow these in an arm's name."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        options = arm.name.split(" ", 3)[3:]
        title = " ".join(filter(None, [arm.columns["method"], *options, arm.stratum]))
        groups.setdefault(title, []).append(arm)
    return groups
