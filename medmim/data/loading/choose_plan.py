"""Choice of normalisation and mirroring axes from the fingerprint and the settings of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from medmim.config.runs import RunSettings
from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.loading.fingerprint import Fingerprint
from medmim.data.loading.mirroring import choose_mirroring
from medmim.data.loading.normalisation import Normalisation, choose_normalisation
from medmim.data.loading.preprocessing_plan import PreprocessingPlan


def choose_plan(
    plan: PreprocessingPlan,
    settings: RunSettings,
    fingerprint: Fingerprint,
    *,
    names: Iterable[str],
    axes: Sequence[int],
    volumes: Sequence[VolumeRecord] = (),
) -> tuple[PreprocessingPlan, list[str]]:
    """Return the plan with normalisation and mirroring axes, and a line about each choice.

    Args:
        axes: mirroring axes that `auto` allows where anatomy does not forbid left–right.
        volumes: training volumes whose boxes are considered.
    """
    rules = choose_normalisation(fingerprint.intensities, settings.normalisation, settings.window)
    mirroring = choose_mirroring(
        settings.mirror_axes, default=axes, names=names, fingerprint=fingerprint, volumes=volumes
    )
    lines = [_rule_line(rules, fingerprint), mirroring.line()]
    if fingerprint.likely_ct and settings.normalisation == "auto" and not settings.window:
        lines.append(
            "warning: images without a modality look like CT in HU: normalise them with --set "
            "normalisation=dataset"
        )
    return replace(plan, normalisation=rules, mirror_axes=mirroring.axes), lines


def _rule_line(rules: Normalisation, fingerprint: Fingerprint) -> str:
    """Return the rule of each modality in words."""
    parts = []
    for modality, found in fingerprint.intensities.items():
        rule = rules.rule_for(modality)
        shown = f"{modality} {rule.method}"
        if rule.method == "dataset":
            limits = f"clip {rule.low:g} to {rule.high:g}, mean {rule.mean:.4g}, sd {rule.sd:.4g}"
            shown += f" ({limits}; {found.region})"
        parts.append(shown)
    return f"normalisation: {', '.join(parts)}"
