"""Reference of all settings, generated from the settings models: name, type, default and meaning."""

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

from medmim.config.resolve import FileSettings, resolve
from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.config.study import StudySettings

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
defaults, the preset of the task, `--config`, flags, `--set`. An empty default means: chosen from the dataset.
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
