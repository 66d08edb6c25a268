"""What is generated from the settings models: their reference, and the template and schema of study files."""

from __future__ import annotations

import ast
import importlib.util
import re
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter, Signature, cleandoc, signature
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from medmim import files
from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.config.study import StudySettings
from medmim.config.yaml_settings import FileSettings, resolve
from medmim.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])
_KINDS: dict[str, type[FileSettings]] = {"pretrain": PretrainSettings, "study": StudySettings}
_TASK_MODULES = {
    "segment": "segmentation",
    "classify": "classification",
    "detect": "detection",
    "multilabel": "multilabel",
    "ordinal": "ordinal",
    "regress": "regression",
}
_SHOWN = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}
_INTRODUCTION = """\
# Settings

Every setting, generated from the code (`medmim settings segment` prints the same). Change one with
`--set name=value`, in a YAML file (`--config FILE`), or as a keyword argument in Python; later ones win:
defaults, the preset of the task, `--config`, flags, `--set`. A `--set` that replaces a flag is reported.
An empty default means: chosen from the dataset.
Where you set nothing, the recipe (`medmim plan segment`) chooses encoder, size, spacing, batch size and
length from data and machine instead.
"""
_LIMITS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


@dataclass(frozen=True)
class SettingDescription:
    """One setting for people.

    Attributes:
        name: key in YAML files, and keyword argument.
        type: accepted values.
        default: the default as YAML; empty where there is none.
        meaning: what it does.
    """

    name: str
    type: str
    default: str
    meaning: str


def describe(kind: type[FileSettings], *, base: str | None = None) -> tuple[SettingDescription, ...]:
    """Return all settings of a model, in the order of their definition."""
    meanings: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        meanings |= _meanings(parent.__doc__ or "")
    defaults = resolve(kind, base=base)
    return tuple(
        SettingDescription(name, _type(field), _yaml(getattr(defaults, name)), meanings.get(name, ""))
        for name, field in kind.model_fields.items()
    )


def settings_of(task: str) -> tuple[SettingDescription, ...]:
    """Return the settings of `pretrain`, `study` or a fine-tuning task, with its defaults."""
    if task in _KINDS:
        return describe(_KINDS[task])
    return (*describe(FinetuneSettings, base=task), *task_options(task))


def task_options(task: str) -> tuple[SettingDescription, ...]:
    """Return the options of a fine-tuning task, read from its source without importing PyTorch."""
    spec = importlib.util.find_spec(f"medmim.training.tasks.{_TASK_MODULES[task]}")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    found = next(
        one for one in tree.body if isinstance(one, ast.ClassDef) and one.name.lower() == _TASK_MODULES[task]
    )
    meanings = _meanings(ast.get_docstring(found) or "")
    return tuple(
        SettingDescription(
            f"task_options.{field.target.id}",
            ast.unparse(field.annotation),
            ast.unparse(field.value).strip("'") if field.value else "",
            meanings[field.target.id],
        )
        for field in found.body
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and field.target.id in meanings
    )


def reference_page() -> str:
    """Return the page `docs/settings.md`."""
    parts = [_INTRODUCTION]
    for task in ("pretrain", *_TASK_MODULES, "study"):
        parts.append(f"## {task}\n\n{_markdown(settings_of(task))}\n")
    return "\n".join(parts)


def _markdown(settings: Sequence[SettingDescription]) -> str:
    rows = [
        f"| `{one.name}` | {one.type} | {f'`{one.default}`' if one.default else ''} | {one.meaning} |"
        for one in settings
    ]
    return "\n".join(["| setting | type | default | meaning |", "|---|---|---|---|", *rows])


def _meanings(docstring: str) -> dict[str, str]:
    """Return the texts of the section Attributes of a docstring, by name."""
    section = cleandoc(docstring).partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    for names, text in re.findall(r"^    (\w[\w, ]*): ((?:.*\n?)(?:^     +.*\n?)*)", section, flags=re.M):
        found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def _type(field: FieldInfo) -> str:
    """Return the accepted values of a field: words, or a kind of value with its limits."""
    limits = " and ".join(
        f"{sign} {getattr(one, name):g}"
        for one in field.metadata
        for name, sign in _LIMITS.items()
        if getattr(one, name, None) is not None
    )
    words = _type_words(field.annotation)
    return f"{words} {limits}".strip()


def _type_words(annotation: Any) -> str:
    if annotation in _SHOWN:
        return _SHOWN[annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_words(one) for one in parts if one is not types.NoneType))
    if origin is tuple:
        return f"list of {_type_words(parts[0])}"
    if origin is dict:
        return "mapping"
    return _type_words(parts[0]) if parts else str(getattr(annotation, "__name__", annotation))


def _yaml(value: Any) -> str:
    """Return a default as it is written in YAML, on one line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_yaml(one) or "null" for one in value) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return "{}" if value == {} else str(value)


def takes_settings(kind: type[FileSettings]) -> Callable[[Function], Function]:
    """Add the settings of a model to the signature and the docstring of a function."""

    def add(function: Function) -> Function:
        known = signature(function)
        own = [one for one in known.parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
        names = {one.name for one in own}
        more = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=field.default, annotation=field.annotation)
            for name, field in kind.model_fields.items()
            if name not in names
        ]
        changed: Any = function
        changed.__signature__ = Signature([*own, *more], return_annotation=known.return_annotation)
        lines = [f"    {one.name} ({one.type}): {one.meaning}" for one in describe(kind)]
        changed.__doc__ = f"{function.__doc__}\n\nSettings:\n" + "\n".join(lines)
        return function

    return add


_SCALARS = ["string", "number", "boolean"]
_TEMPLATE = """\
# yaml-language-server: $schema={schema}
# medmim study {path} --dry-run      prints the plan and predicted hours
# medmim study {path}                runs it; the same command continues an interrupted study
name: {name}
data: medmim-data

# the arms: every combination of methods, masks and ratios, and a control without pretraining
methods: [spark]
masks: [random, mesh]
ratios: [0.7]
seeds: [0, 1]

# what all arms share; `medmim settings pretrain` lists every setting
pretrain:
  steps: 2000
  # size: 96
  # encoder: resnet18

# `medmim settings segment` lists every setting
finetune:
  task: segment
  steps: 2000
  # num_labelled: 10

# further settings of a study, with their defaults
"""


def write_template(path: Path) -> tuple[Path, Path]:
    """Write a template and, next to it, its JSON schema; return their paths.

    Raises:
        UsageError: if a file exists, or the name does not end in .yaml.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"--init '{path}': expected a file name that ends in .yaml")
    schema = path.with_suffix(".schema.json")
    for one in (path, schema):
        if one.exists():
            raise UsageError(f"--init '{one}' exists: expected a new path; choose another")
    files.write_bytes(path, study_template(path, schema.name).encode())
    files.write_json(schema, study_schema())
    return path, schema


def study_template(path: Path, schema: str) -> str:
    """Return the template for a path, whose stem becomes the name of the study."""
    text = _TEMPLATE.format(schema=schema, path=path.name, name=path.stem.replace(" ", "-"))
    shown = {line.partition(":")[0] for line in text.splitlines()}
    rest = [one for one in describe(StudySettings) if one.name not in shown]
    return text + "".join(f"# {one.meaning}\n# {one.name}: {one.default or 'null'}\n" for one in rest)


def study_schema() -> dict[str, Any]:
    """Return the JSON schema of study files, with the settings of both stages."""
    schema = StudySettings.model_json_schema()
    stages: dict[str, type[FileSettings]] = {"pretrain": PretrainSettings, "finetune": FinetuneSettings}
    for name, kind in stages.items():
        inner = kind.model_json_schema()
        meanings = {one.name: one.meaning for one in describe(kind)}
        for key, setting in inner["properties"].items():
            setting["description"] = meanings[key]
        schema["properties"][name] = _relaxed(inner)
    for one in describe(StudySettings):
        schema["properties"][one.name]["description"] = one.meaning
    return schema


def _relaxed(schema: dict[str, Any]) -> dict[str, Any]:
    """Accept one value where a list is expected, as the settings do."""
    for setting in schema["properties"].values():
        choices = setting.get("anyOf", [setting])
        if any(one.get("type") == "array" for one in choices):
            kept = {key: setting[key] for key in ("description", "default", "title") if key in setting}
            lists = [{key: value for key, value in one.items() if key not in kept} for one in choices]
            setting.clear()
            setting.update(kept | {"anyOf": [*lists, {"type": _SCALARS}]})
    return schema
