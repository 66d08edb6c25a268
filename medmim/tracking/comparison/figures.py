"""Pictures of a study: heat map, ratio curves, paired differences, patients of one arm against another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medmim.config.study import SCRATCH
from medmim.tracking.comparison.findings import Contrast, Findings
from medmim.tracking.comparison.tables import ArmRow
from medmim.training.evaluation.figures import plain, to_png

_COLOURS = ("#1d3557", "#e76f51", "#2a9d8f", "#e9a820", "#7b4ea3", "#6b7280", "#b5179e", "#4f772d", "#0096c7")
_GREY = "#9aa5b1"
_DPI = 110


def figures(rows: Sequence[ArmRow], findings: Findings) -> dict[str, bytes]:
    """Return the pictures that make sense for these arms: file name without its end → PNG."""
    pretrained = [row for row in rows if row.columns["method"] != SCRATCH]
    found = {}
    if len({(row.columns["mask"], row.columns["ratio"]) for row in pretrained}) > 1:
        found["heat_map"] = heat_map(rows, findings.metric)
    if len({row.columns["ratio"] for row in pretrained}) > 1:
        found["ratio_curves"] = ratio_curves(rows, findings.metric)
    if findings.contrasts:
        found["differences"] = forest(findings)
        found["patients"] = scatter(rows, findings)
    return found


def heat_map(rows: Sequence[ArmRow], metric: str) -> bytes:
    """Draw mask × ratio, one map a method and stratum: mean, and the interval below it."""
    groups = _grouped([row for row in rows if row.columns["method"] != SCRATCH])
    masks = max(len({row.columns["mask"] for row in group}) for group in groups.values())
    figure = Figure(figsize=(9, (0.8 + 0.62 * masks) * len(groups) + 0.4), dpi=_DPI, layout="constrained")
    means = [row.variant.mean for group in groups.values() for row in group]
    places = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for axes, (title, group) in zip(places, groups.items(), strict=True):
        names = list(dict.fromkeys(row.columns["mask"] for row in group))
        ratios = sorted({float(row.columns["ratio"]) for row in group})
        values = np.full((len(names), len(ratios)), np.nan)
        for row in group:
            place = (names.index(row.columns["mask"]), ratios.index(float(row.columns["ratio"])))
            values[place] = row.variant.mean
            text = f"{row.variant.mean:.3f}\n{row.variant.low:.3f} … {row.variant.high:.3f}"
            dark = row.variant.mean < (min(means) + max(means)) / 2
            axes.text(place[1], place[0], text, ha="center", va="center", fontsize=8, color="wk"[not dark])
        image = axes.imshow(values, cmap="viridis", vmin=min(means), vmax=max(means), aspect="auto")
        axes.set_xticks(range(len(ratios)), [f"{ratio:g}" for ratio in ratios])
        axes.set_yticks(range(len(names)), [plain(name) for name in names])
        axes.set_title(plain(title), fontsize=9)
        figure.colorbar(image, ax=axes, label=metric)
    figure.supxlabel("share of cells hidden", fontsize=9)
    return to_png(figure)


def ratio_curves(rows: Sequence[ArmRow], metric: str) -> bytes:
    """Draw score over ratio, one curve a mask with its interval, the control as a band."""
    groups = _grouped([row for row in rows if row.columns["method"] != SCRATCH])
    figure = Figure(figsize=(9, 3.6 * len(groups)), dpi=_DPI, layout="constrained")
    places = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for axes, (title, group) in zip(places, groups.items(), strict=True):
        for control in rows:
            if control.columns["method"] == SCRATCH and control.variant.stratum == group[0].variant.stratum:
                axes.axhspan(control.variant.low, control.variant.high, color=_GREY, alpha=0.2, linewidth=0)
                axes.axhline(control.variant.mean, color=_GREY, label=SCRATCH)
        names = list(dict.fromkeys(row.columns["mask"] for row in group))
        for number, name in enumerate(names):
            line = sorted(
                (row for row in group if row.columns["mask"] == name),
                key=lambda row: float(row.columns["ratio"]),
            )
            shift = 0.006 * (number - (len(names) - 1) / 2)  # intervals beside, not over, each other
            _interval_line(axes, line, shift, name, _COLOURS[number % len(_COLOURS)])
        axes.set_title(plain(title), fontsize=9)
        axes.set_ylabel(f"{metric}, 95 % interval")
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.supxlabel("share of cells hidden", fontsize=9)
    return to_png(figure)


def forest(findings: Findings) -> bytes:
    """Draw every paired difference with its interval; coloured where it is evidence."""
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


def scatter(rows: Sequence[ArmRow], findings: Findings) -> bytes:
    """Draw each test patient's score under the best arm against that under the control, or the next arm."""
    shown = _shown_pairs(findings)
    figure = Figure(figsize=(4.5 * len(shown), 4.3), dpi=_DPI, layout="constrained")
    by_title = {row.title: row.variant for row in rows}
    for axes, one in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        first, second = by_title[one.first], by_title[one.second]
        both = sorted(first.of_patients.keys() & second.of_patients.keys())
        across, up = [[arm.of_patients[who] for who in both] for arm in (second, first)]
        axes.plot([min(across + up), 1], [min(across + up), 1], color=_GREY, linewidth=1)
        axes.scatter(across, up, s=18, color=_COLOURS[0], alpha=0.7)
        axes.set_xlabel(plain(one.second))
        axes.set_ylabel(plain(one.first))
        axes.set_title(f"{findings.metric}, each test patient alone", fontsize=9)
        axes.set_aspect("equal")
    return to_png(figure)


def _shown_pairs(findings: Findings) -> list[Contrast]:
    """Return, for each stratum, the contrast with the highest first arm."""
    shown = []
    for stratum in findings.best:
        titles = {one.title for one in findings.variants if one.stratum == stratum}
        inside = [one for one in findings.contrasts if one.first in titles]
        if inside:
            controls = [one for one in inside if one.against == "control"] or inside
            shown.append(max(controls, key=lambda one: one.test.mean))
    return shown[:3]


def _interval_line(axes: Axes, line: Sequence[ArmRow], shift: float, name: str, colour: str) -> None:
    ratios = [float(row.columns["ratio"]) + shift for row in line]
    means = [row.variant.mean for row in line]
    below = [row.variant.mean - row.variant.low for row in line]
    above = [row.variant.high - row.variant.mean for row in line]
    axes.errorbar(ratios, means, yerr=[below, above], fmt="o-", capsize=3, color=colour, label=plain(name))


def _grouped(rows: Sequence[ArmRow]) -> dict[str, list[ArmRow]]:
    """Group arms that differ in mask and ratio only; what follows these in an arm's name are its options."""
    groups: dict[str, list[ArmRow]] = {}
    for row in rows:
        words = row.variant.arm.split(" ", 3)[3:]
        title = " ".join(filter(None, [row.columns["method"], *words, row.variant.stratum]))
        groups.setdefault(title, []).append(row)
    return groups
