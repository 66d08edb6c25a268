"""Settings of a study, and the trials that follow from them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from medmim import files
from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.config.value_types import FolderName, Share
from medmim.config.yaml_settings import FileSettings, Settings, presets, resolve
from medmim.errors import SettingsError

SCRATCH = "scratch"
EQUAL_COST = f"{SCRATCH} [equal cost]"
DIGEST = "job"  # tag of a training; trainings with equal digests give equal results
LabelShare = float | None
StageSettings = PretrainSettings | FinetuneSettings
_NETWORK = ("dims", "encoder", "encoder_options")  # set for one stage, they apply to both and to the control
_OWN = {"data": "data", "seed": "seeds", "fold": "folds", "experiment": "name"}
_GRID = {"method": "methods", "mask": "masks", "ratio": "ratios"}
_BUDGET = {"steps", "epochs", "minutes", "time_source", "batch_size", "accumulate", "devices", "nodes"}
_EQUAL = {*_OWN, *_BUDGET, "dims", "size", "encoder_options", "augment", "include_held_out"}


class StudySettings(FileSettings):
    """Settings of `medmim study`: the factors that vary, and the settings that all trials share.

    Attributes:
        name: of the study and of its MLflow experiment.
        data: dataset folder written by `medmim ingest SRC`.
        methods, masks, ratios: the grid of pretrainings; every combination is an arm.
        arms: further arms, each given by the pretraining settings that differ from `pretrain`; an arm that
            sets an encoder, which must be one of `encoders`, is run with that encoder only.
        encoders, label_fractions: arms are compared within each of them, never across.
        seeds, folds: every arm is repeated for each seed and fold.
        scratch: add the matched control without pretraining.
        equal_cost: add a control without pretraining that trains for the minutes of pretraining and
            fine-tuning together.
        pretrain, finetune: settings that all trials share, including budget and augmentation.
    """

    presets: ClassVar[str] = "studies"

    name: Annotated[FolderName, Field(max_length=60)] = "study"
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
    equal_cost: bool = False
    pretrain: dict[str, Any] = Field(default_factory=dict)
    finetune: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def place_of(cls, key: str) -> str | None:
        """Return the stage whose setting `key` is, or the list of which it is one element."""
        if f"{key}s" in cls.model_fields:
            return f"is a list in a study: {key}s: […]"
        kinds = (("pretrain", PretrainSettings), ("finetune", FinetuneSettings))
        stages = [f"`{name}:`" for name, kind in kinds if key in kind.model_fields]
        return f"belongs under {' or '.join(stages)}" if stages else None

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
        arm: its name in comparisons, such as `spark mesh 0.7`; `scratch` and `scratch [equal cost]` are the
            controls.
        stratum: encoder and label fraction, if the study varies them; arms are compared within a stratum.
        pretrain: settings of its pretraining; None for training from scratch.
        finetune: settings of its fine-tuning; `init` is set when the pretraining has finished.
    """

    arm: str
    stratum: str
    pretrain: PretrainSettings | None
    finetune: FinetuneSettings

    @property
    def title(self) -> str:
        """Name of the trial in plans and lists of failures."""
        fold = "" if self.finetune.fold is None else f" fold {self.finetune.fold}"
        return f"{arm_title(self.arm, self.stratum)} seed {self.finetune.seed}{fold}"


def arm_of(settings: PretrainSettings) -> str:
    """Return the name of a pretraining in comparisons: method, mask, ratio, options, initial weights."""
    options = {**settings.method_options, **settings.mask_options}
    words = [f"{key}={json.dumps(value, sort_keys=True)}" for key, value in sorted(options.items())]
    words += [f"from {Path(settings.init).stem}"] if settings.init not in (None, SCRATCH) else []
    return " ".join([settings.method, settings.mask, f"{settings.ratio:g}", *words])


def settings_of_result(settings: StageSettings) -> dict[str, Any]:
    """Return the settings that affect the result of a training, from which its digest is computed.

    The weights that a fine-tuning starts from follow from its pretraining. Weights files and tables
    of targets count by content.
    """
    left_out = {"data", "experiment", *(("init",) if isinstance(settings, FinetuneSettings) else ())}
    values = settings.model_dump(mode="json", exclude=left_out | settings.newer_defaults)
    init = values.get("init") or ""
    if files.names_weights_file(init) and Path(init).is_file():
        values["init"] = files.sha256_of(Path(init))
    if (targets := values.get("targets")) and Path(targets).is_file():
        values["targets"] = files.sha256_of(Path(targets))
    return values


def arm_title(arm: str, stratum: str) -> str:
    """Return the name of an arm with its stratum."""
    return f"{arm} · {stratum}" if stratum else arm


def seeds_command(config: str) -> str:
    """Return the command that trains a study with two seeds.

    Args:
        config: a file or preset as the user typed it, or the name of a study, which need not be a preset.
    """
    known = Path(config).is_file() or config in presets(StudySettings)
    return f"medmim study {shlex.quote(config) if known else 'CONFIG'} --set seeds=[0,1]"


def trials_of(study: StudySettings) -> tuple[StudyTrial, ...]:
    """Return the trials ordered by seed, so that an interrupted study contains complete repetitions.

    Raises:
        SettingsError: if settings are invalid for a trial, or two trials have the same name.
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
        if study.equal_cost:
            found.append(StudyTrial(EQUAL_COST, stratum, None, _at_equal_cost(study, finetune)))
        for arm in (arm for arm in arms if arm.get("encoder", encoder) == encoder):
            pretrain = _settings(
                PretrainSettings, {**network, **study.pretrain, **arm, **common}, where="pretrain"
            )
            found.append(StudyTrial(arm_of(pretrain), stratum, pretrain, finetune))
    _refuse_twins(found)
    return tuple(found)


def _refuse_unequal(study: StudySettings) -> None:
    """Reject settings that the study determines, and arms that change settings shared by all arms."""
    parts = [("pretrain", study.pretrain, _OWN), ("finetune", study.finetune, {**_OWN, "init": "the arms"})]
    for where, given, own in parts:
        for key in sorted(given.keys() & own.keys()):
            raise SettingsError(f"study, {where}: '{key}' is set by the study: use {own[key]}")
    if study.methods and study.masks and study.ratios:
        for key in sorted(study.pretrain.keys() & _GRID.keys()):
            raise SettingsError(f"study, pretrain: '{key}' is set by the grid of arms: use {_GRID[key]}")
    if None in study.folds and len(set(study.folds)) > 1:
        raise SettingsError(
            "study: folds have null (the dataset's own test split) besides numbers, so patients would be "
            "tested twice: expected one of the two"
        )
    for arm in study.arms:
        for key in sorted(arm.keys() & _EQUAL):
            raise SettingsError(
                f"study: an arm sets '{key}', which all arms share: set it in pretrain; arms contain only "
                "the settings to compare, such as method, mask and ratio"
            )


def _pretrainings(study: StudySettings) -> list[dict[str, Any]]:
    named = [arm["encoder"] for arm in study.arms if "encoder" in arm]
    strange = [encoder for encoder in named if encoder not in study.encoders]
    if strange:
        known = ", ".join(filter(None, study.encoders)) or "none is listed"
        raise SettingsError(f"study: an arm has encoder '{strange[0]}', expected one of encoders: {known}")
    grid = [
        {"method": method, "mask": mask, "ratio": ratio}
        for method, mask, ratio in product(study.methods, study.masks, study.ratios)
    ]
    return [*grid, *study.arms]


def _at_equal_cost(study: StudySettings, finetune: FinetuneSettings) -> FinetuneSettings:
    """Return the settings of a fine-tuning that also has the minutes of pretraining."""
    pretrain = _settings(PretrainSettings, study.pretrain, where="pretrain")
    minutes, source = pretrain.minutes, pretrain.time_source
    if minutes is None or finetune.minutes is None or source != finetune.time_source:
        raise SettingsError(
            "study: equal_cost needs the length of both stages in minutes of one time_source: set "
            "pretrain.minutes and finetune.minutes"
        )
    return finetune.model_copy(update={"minutes": minutes + finetune.minutes})


def _stratum(study: StudySettings, encoder: str | None, share: LabelShare) -> str:
    words = [str(encoder)] if len(study.encoders) > 1 else []
    words += [f"{share or 1.0:.4g} of labels"] if len(study.label_fractions) > 1 else []
    return ", ".join(words)


def _settings(
    kind: type[Settings], values: Mapping[str, Any], *, where: str, base: str | None = None
) -> Settings:
    """Return the resolved settings of a stage, on top of the preset of its task."""
    try:
        return resolve(kind, base=base, flags=values)
    except SettingsError as error:
        raise SettingsError(f"study, {where}: {error}") from None


def _refuse_twins(trials: list[StudyTrial]) -> None:
    titles = [trial.title for trial in trials]
    twins = sorted({title for title in titles if titles.count(title) > 1})
    if twins:
        raise SettingsError(
            f"study: two trials have the name '{twins[0]}': arms must differ in method, mask, ratio or "
            "options, and seeds, folds, encoders and label fractions must not be repeated"
        )
    if not trials:
        raise SettingsError(
            "study: expected at least one arm, got none: set masks and ratios, or arms, or scratch: true"
        )
