"""The Python interface: every command as a function whose keyword arguments are the settings.

The functions are attributes of the package, such as `medmim.pretrain(mask="mesh", minutes=30)`. Arguments of
many: `home` is the folder of runs (None: MEDMIM_HOME, or ./medmim-runs), `log` receives lines for the user.
What the functions write is readable by you alone unless MEDMIM_SHARED is set, as on the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medmim import files
from medmim.arguments import as_command, checked, fit, fitting_options, run_id
from medmim.config.own_code import trust
from medmim.config.reference import takes_settings
from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.config.study import StudySettings
from medmim.config.yaml_settings import resolve

if TYPE_CHECKING:
    from medmim.data.dataset.manifest import Dataset
    from medmim.encoders import Encoder
    from medmim.stages.compare import CompareResult
    from medmim.stages.evaluate.run import EvaluationResult
    from medmim.stages.export.run import ExportResult
    from medmim.stages.predict.loaded_model import LoadedModel
    from medmim.stages.predict.predictions import Predictions
    from medmim.stages.run_lifecycle import RunResult
    from medmim.stages.study.runner import StudyResult

Log = Callable[[str], None]
Home = Path | str | None
Role = Literal["image", "label", "skip"]


def _home(home: Home) -> Path:
    return files.home_folder() if home is None else Path(home)


@checked
def open_dataset(data: Path | str = "medmim-data") -> Dataset:
    """Read the description and the manifest of a dataset folder."""
    from medmim.data.dataset.manifest import read_dataset

    return read_dataset(Path(data))


@as_command
def ingest(
    source: Path | str,
    out: Path | str = "medmim-data",
    *,
    home: Home = None,
    roles: Mapping[str, Role] | None = None,
    subject_pattern: str | None = None,
    subjects: Path | str | None = None,
    class_folders: bool = False,
    **options: Any,
) -> Dataset:
    """Convert scans to a dataset folder and return it.

    Args:
        source: folder, file or archive with scans.
        out: dataset folder.
        roles: glob → image, label or skip; the last match counts.
        subject_pattern: patient of a file: the first group of this expression in its path.
        subjects: CSV file with the columns file and subject.
        class_folders: the innermost folders are the classes of images.
        **options: fields of `medmim.data.ingest.context.IngestOptions`, such as labels and layout.
    """
    from medmim.data.ingest.context import IngestOptions
    from medmim.data.ingest.layout_rules import InferenceRules, SubjectRule
    from medmim.stages.ingest import ingest as run

    rules = InferenceRules(
        roles=tuple((roles or {}).items()),
        subjects=SubjectRule(subject_pattern, None if subjects is None else Path(subjects)),
        class_folders=class_folders,
    )
    fitted = fitting_options("ingest", IngestOptions, options)
    run(Path(source), Path(out), home=_home(home), rules=rules, **fitted)
    return open_dataset(out)


@takes_settings(PretrainSettings)
@as_command
def pretrain(*, home: Home = None, config: str | None = None, log: Log = print, **settings: Any) -> RunResult:
    """Pretrain an encoder and return the recorded run.

    Args:
        config: YAML file or preset; keyword arguments override it.
        **settings: see below.
    """
    flags = {key: run_id(value) if key == "init" and value else value for key, value in settings.items()}
    resolved = resolve(PretrainSettings, base=settings.get("method"), config=config, flags=flags)
    from medmim.stages.pretrain.run import pretrain as run

    return run(resolved, home=_home(home), log=log)


@takes_settings(FinetuneSettings)
@as_command
def finetune(
    task: str = "segment", *, home: Home = None, config: str | None = None, log: Log = print, **settings: Any
) -> RunResult:
    """Fine-tune an encoder for a task, test it once, register the model and return the recorded run.

    Args:
        task: segment, classify, multilabel, ordinal, detect or regress.
        config: YAML file or preset; keyword arguments override it.
        **settings: see below; `init` is a run or its id, a weights file or `scratch`.
    """
    flags = {key: run_id(value) if key == "init" and value else value for key, value in settings.items()}
    resolved = resolve(FinetuneSettings, base=task, config=config, flags={**flags, "task": task})
    from medmim.stages.finetune.run import finetune as run

    return run(resolved, home=_home(home), log=log)


@as_command
def predict(
    source: Path | str,
    out: Path | str = "predictions",
    *,
    model: str | Sequence[str] | None = None,
    home: Home = None,
    log: Log = print,
    save_probabilities: bool = False,
    pictures: int = 100,
    min_score: float | None = None,
    **options: Any,
) -> Predictions:
    """Apply a model to a folder of scans, write the predictions and return them.

    Args:
        source: folder or file with scans, or a dataset folder.
        out: output folder, outside the source.
        model: NAME, NAME:VERSION, NAME@ALIAS, run or .safetensors file, or several; None: the best.
        save_probabilities: also write the probability of each class.
        pictures: maximum number of overlay pictures.
        min_score: score from which boxes are written; None: of each class, chosen on validation cases.
        **options: force, max_memory_gb as `--max-memory`, and fields of `IngestOptions`.
    """
    from medmim.data.ingest.context import IngestOptions
    from medmim.stages.predict.outputs import Extras
    from medmim.stages.predict.run import predict as run

    force = fit(options.pop("force", False), bool, of="predict: force")
    memory = fit(options.pop("max_memory_gb", None), float | None, of="predict: max_memory_gb")
    given = fitting_options("predict", IngestOptions, options)
    extras = Extras(save_probabilities, pictures, min_score, memory)
    places: dict[str, Any] = {"source": Path(source), "out": Path(out), "home": _home(home)}
    return run(**places, model=model, log=log, extras=extras, force=force, **given)


@as_command
def evaluate(
    data: Path | str,
    out: Path | str = "evaluation",
    *,
    model: str | None = None,
    predictions: Path | str | None = None,
    home: Home = None,
    log: Log = print,
    **options: Any,
) -> EvaluationResult:
    """Score a model, or saved predictions, on another labelled dataset and write a report.

    Args:
        data: dataset folder.
        out: output folder.
        model: as in `predict`.
        predictions: folder with predictions, instead of a model.
        **options: further fields of `EvaluationOptions`, such as by, split and label_map.
    """
    from medmim.stages.evaluate.prediction_source import EvaluationOptions
    from medmim.stages.evaluate.run import evaluate as run

    given = {"model": model, "predictions": predictions, **options}
    chosen = EvaluationOptions(**fitting_options("evaluate", EvaluationOptions, given))
    return run(Path(data), Path(out), chosen, home=_home(home), log=log)


@as_command
def compare(
    *runs: RunResult | str, study: str | None = None, promote: bool = False, home: Home = None
) -> CompareResult:
    """Compare fine-tuning runs: scores, confidence intervals, paired tests and a report.

    Args:
        *runs: results or ids of runs; none: all runs comparable with the newest.
        study: compare the trials of this study instead.
        promote: make the best model champion if the paired test allows it.
    """
    from medmim.stages.compare import compare_runs, compare_study

    if study is not None:
        return compare_study(study, home=_home(home), promoting=promote)
    return compare_runs([run_id(one) for one in runs], home=_home(home), promoting=promote)


@takes_settings(StudySettings)
@as_command
def study(
    config: str | None = None,
    *,
    home: Home = None,
    dry_run: bool = False,
    max_hours: float | None = None,
    promote: bool = False,
    log: Log = print,
    **settings: Any,
) -> StudyResult:
    """Run the unfinished trainings of a study and compare all finished trials.

    Args:
        config: YAML file or preset; keyword arguments override it.
        dry_run: return the plan only.
        max_hours: start only trainings that are predicted to end within this time.
        promote: make the best model champion if the paired test allows it.
        **settings: see below.
    """
    from medmim.stages.study.runner import StudyOptions
    from medmim.stages.study.runner import study as run

    options = StudyOptions(dry_run=dry_run, max_hours=max_hours, promote=promote)
    resolved = resolve(StudySettings, config=config, flags=settings)
    return run(resolved, home=_home(home), options=options, log=log)


@as_command
def export(
    format: str,  # noqa: A002 (the name of the command-line option)
    out: Path | str | None = None,
    *,
    data: Path | str = "medmim-data",
    model: str | None = None,
    home: Home = None,
    log: Log = print,
) -> ExportResult:
    """Write a model for other programs after comparing it with PyTorch.

    Args:
        format: bundle, onnx, safetensors or datalist.
        out: file or folder to write; None: a name that depends on the format.
        data: dataset folder, with the case for the comparison with PyTorch.
        model: as in `predict`.
    """
    from medmim.stages.export.run import export as run

    place = None if out is None else Path(out)
    return run(format, data=Path(data), home=_home(home), model=model, out=place, log=log)


@checked
def load_model(
    model: str | None = None, *, home: Home = None, trust_code: Sequence[str] = (), log: Log = print
) -> LoadedModel:
    """Load a fine-tuned model; its method `predict` takes an array or a path.

    Args:
        model: as in `predict`.
        trust_code: your own code (`module:callable`) that the model may import.
        log: receives the selection and its reason where `model` leaves it open.
    """
    from medmim.stages.model_lookup import find_model
    from medmim.stages.predict.loaded_model import LoadedModel
    from medmim.training.tasks.trained_model import load_trained_model

    trust(trust_code)
    selected = find_model(model, _home(home), log)
    return LoadedModel(load_trained_model(selected.weights), title=selected.title, home=_home(home))


@checked
def load_encoder(
    weights: RunResult | Path | str, *, home: Home = None, trust_code: Sequence[str] = ()
) -> Encoder:
    """Return an encoder with the weights of a run, in evaluation mode.

    Args:
        weights: result or id of a pretraining or fine-tuning run, or a .safetensors file.
        trust_code: your own code that the weights may import.
    """
    from medmim.stages.initial_weights import named_weights, pretrained_encoder
    from medmim.tracking.mlflow_store import Store

    trust(trust_code)
    return pretrained_encoder(named_weights(run_id(weights), Store(_home(home))))
