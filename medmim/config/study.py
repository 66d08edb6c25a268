"""A study on paper: its settings, and the cells and trainings that follow from them; nothing runs here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from medmim.config.resolve import FileSettings, Settings, resolve
from medmim.config.runs import FinetuneSettings, PretrainSettings, Share
from medmim.errors import SettingsError

SCRATCH = "scratch"
DIGEST = "job"  # tag of a training: equal digests, equal results
LabelShare = float | None
_NETWORK = (
    "dims",
    "encoder",
    "encoder_options",
)  # said for one stage, it is that of both, and of the control
_OWN = {"data": "data", "seed": "seeds", "fold": "folds", "experiment": "name"}
_BUDGET = {"steps", "epochs", "minutes", "time_source", "batch_size", "accumulate", "devices", "nodes"}
_EQUAL = {*_OWN, *_BUDGET, "dims", "size", "encoder_options", "augment", "include_held_out"}


class StudySettings(FileSettings):
    """Settings of `medmim study`: what is varied, and what all cells share.

    Attributes:
        name: of the study and of its MLflow experiment.
        data: dataset folder that `medmim ingest` wrote.
        methods, masks, ratios: the grid of pretrainings; every combination is an arm.
        arms: further arms, each the settings of pretraining by which it differs from `pretrain`; one that
            names an encoder is run with that one of `encoders` only.
        encoders, label_fractions: arms are compared within each of them, never across.
        seeds, folds: repetitions of every arm.
        scratch: add the matched control without pretraining.
        pretrain, finetune: settings that all cells share; budgets and augmentation are the same by this.
    """

    presets: ClassVar[str] = "studies"

    name: str = Field(default="study", pattern=r"^[A-Za-z0-9_.-]+$", max_length=60)
    data: Path = Path("medmim-data")
    methods: tuple[str, ...] = ("spark",)
    masks: tuple[str, ...] = ("mesh",)
    ratios: tuple[Share, ...] = (0.7,)
    arms: tuple[dict[str, Any], ...] = ()
    encoders: tuple[str | None, ...] = Field(default=(None,), min_length=1)
    label_fractions: tuple[LabelShare, ...] = Field(default=(None,), min_length=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    folds: tuple[int | None, ...] = Field(default=(None,), min_length=1)
    scratch: bool = True
    pretrain: dict[str, Any] = Field(default_factory=dict)
    finetune: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def with_current_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Replace names of 0.1.0, also in the settings of arms and stages."""
        result = super().with_current_names(values)
        for key, kind in (("pretrain", PretrainSettings), ("finetune", FinetuneSettings)):
            if isinstance(result.get(key), Mapping):
                result[key] = kind.with_current_names(result[key])
        if isinstance(result.get("arms"), list | tuple):
            result["arms"] = [
                PretrainSettings.with_current_names(arm) if isinstance(arm, Mapping) else arm
                for arm in result["arms"]
            ]
        return result


@dataclass(frozen=True)
class StudyTrial:
    """One arm at one seed and fold: at most one pretraining, then fine-tuning and test.

    Attributes:
        arm: what it is called in comparisons, such as `spark mesh 0.7`; `scratch` is the control.
        stratum: encoder and label fraction where the study varies them; arms compare within one.
        pretrain: settings of its pretraining; None from scratch.
        finetune: settings of its fine-tuning; where its weights come from is known when it runs.
    """

    arm: str
    stratum: str
    pretrain: PretrainSettings | None
    finetune: FinetuneSettings

    @property
    def title(self) -> str:
        """What it is called in plans and lists of failures."""
        fold = "" if self.finetune.fold is None else f" fold {self.finetune.fold}"
        return f"{arm_title(self.arm, self.stratum)} seed {self.finetune.seed}{fold}"


def arm_of(settings: PretrainSettings) -> str:
    """Return what a pretraining is called in comparisons; options tell arms apart that share a name."""
    options = {**settings.method_options, **settings.mask_options}
    words = [f"{key}={json.dumps(value, sort_keys=True)}" for key, value in sorted(options.items())]
    return " ".join([settings.method, settings.mask, f"{settings.ratio:g}", *words])


def arm_title(arm: str, stratum: str) -> str:
    """Return an arm's name together with what it is compared within."""
    return f"{arm} · {stratum}" if stratum else arm


def trials_of(study: StudySettings) -> tuple[StudyTrial, ...]:
    """Return the cells of a study, seed by seed, so that a study cut short still holds whole rounds.

    Raises:
        SettingsError: for settings that a cell refuses, or two arms with one name.
    """
    _refuse_unequal(study)
    arms, found = _pretrainings(study), []
    network = {key: value for key, value in {**study.finetune, **study.pretrain}.items() if key in _NETWORK}
    for seed, fold, encoder, share in product(
        study.seeds, study.folds, study.encoders, study.label_fractions
    ):
        common = {"data": study.data, "experiment": study.name, "seed": seed, "fold": fold}
        common |= {"encoder": encoder} if encoder else {}
        labels = {"label_fraction": share} if share is not None else {}
        words = {**network, **study.finetune, **common, **labels}
        finetune = _settings(FinetuneSettings, words, where="finetune", base=words.get("task"))
        stratum = _stratum(study, encoder, share)
        if study.scratch:
            found.append(StudyTrial(SCRATCH, stratum, None, finetune))
        for arm in (arm for arm in arms if arm.get("encoder", encoder) == encoder):
            pretrain = _settings(
                PretrainSettings, {**network, **study.pretrain, **arm, **common}, where="pretrain"
            )
            found.append(StudyTrial(arm_of(pretrain), stratum, pretrain, finetune))
    _refuse_twins(found)
    return tuple(found)


def _refuse_unequal(study: StudySettings) -> None:
    """Refuse what the study sets itself, and arms that differ in what a fair comparison holds equal."""
    parts = [("pretrain", study.pretrain, _OWN), ("finetune", study.finetune, {**_OWN, "init": "the arms"})]
    for where, given, own in parts:
        for key in sorted(given.keys() & own.keys()):
            raise SettingsError(f"study, {where}: '{key}' is set by the study: use {own[key]}")
    for arm in study.arms:
        for key in sorted(arm.keys() & _EQUAL):
            raise SettingsError(
                f"study: an arm sets '{key}', which all arms share: set it in pretrain; arms say what is "
                "compared, such as method, mask and ratio"
            )


def _pretrainings(study: StudySettings) -> list[dict[str, Any]]:
    named = [arm["encoder"] for arm in study.arms if "encoder" in arm]
    strange = [encoder for encoder in named if encoder not in study.encoders]
    if strange:
        known = ", ".join(filter(None, study.encoders)) or "none is listed"
        raise SettingsError(f"study: arms name encoder '{strange[0]}', expected one of encoders: {known}")
    grid = [
        {"method": method, "mask": mask, "ratio": ratio}
        for method, mask, ratio in product(study.methods, study.masks, study.ratios)
    ]
    return [*grid, *study.arms]


def _stratum(study: StudySettings, encoder: str | None, share: LabelShare) -> str:
    words = [str(encoder)] if len(study.encoders) > 1 else []
    words += [f"{share or 1.0:.4g} of labels"] if len(study.label_fractions) > 1 else []
    return ", ".join(words)


def _settings(
    kind: type[Settings], values: Mapping[str, Any], *, where: str, base: str | None = None
) -> Settings:
    """Return the settings that the command of that name would take, its task's preset below them."""
    try:
        return resolve(kind, base=base, flags=values)
    except SettingsError as error:
        raise SettingsError(f"study, {where}: {error}") from None


def _refuse_twins(cells: list[StudyTrial]) -> None:
    titles = [cell.title for cell in cells]
    twins = sorted({title for title in titles if titles.count(title) > 1})
    if twins:
        raise SettingsError(
            f"study: two cells are called '{twins[0]}': arms must differ in method, mask, ratio or options, "
            "and seeds, folds, encoders and label fractions are given once each"
        )
    if not cells:
        raise SettingsError("study: no arm: give masks and ratios, or arms, or scratch: true")
