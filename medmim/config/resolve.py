"""Settings that a file, flags and words can give: merged, and refused completely and kindly when wrong.

Precedence, lowest first: the model's defaults, the preset of the task, `--config FILE`, flags,
`--set key=value`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medmim import files
from medmim.errors import SettingsError, did_you_mean


class FileSettings(BaseModel):
    """Settings that a YAML file can hold; `presets` is the folder below configs/ where shipped ones lie."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    presets: ClassVar[str]


Settings = TypeVar("Settings", bound=FileSettings)


def resolve(
    kind: type[Settings],
    *,
    base: str | None = None,
    config: str | None = None,
    flags: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
) -> Settings:
    """Merge defaults, base, file, flags and overrides into settings.

    Args:
        kind: the settings model.
        base: preset that lies under everything, such as that of a task; none where it does not exist.
        config: path of a YAML file, or the name of one that ships with medmim.
        flags: values from the command line; None means "not given".
        overrides: `key=value` words; values are read as YAML, and `options.name=value` changes one option.

    Raises:
        SettingsError: one message with every unknown key and every bad value.
    """
    values: dict[str, Any] = {}
    if base is not None and base in presets(kind):
        _merge(values, _read(presets(kind)[base]))
    if config is not None:
        _merge(values, _read(find_config(config, kind)))
    _merge(values, {key: value for key, value in (flags or {}).items() if value is not None})
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals:
            raise SettingsError(f"--set {word}: expected key=value, such as --set batch_size=2")
        _merge(values, _nested(values, key.strip().replace("-", "_"), _parse(text, where=f"--set {key}")))
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(problem, kind) for problem in error.errors(include_url=False))
        raise SettingsError(f"settings{f' in {config}' if config else ''}: {problems}") from None


def find_config(name: str, kind: type[FileSettings]) -> Path:
    """Return the file of a `--config` word: a path, or the name of a shipped preset."""
    if Path(name).is_file():
        return Path(name)
    known = presets(kind)
    if name in known:
        return known[name]
    raise SettingsError(f"config '{name}': no such file or preset{did_you_mean(name, known)}")


def presets(kind: type[FileSettings]) -> dict[str, Path]:
    """Return the files that ship with medmim, by name."""
    folder = files.shipped("configs") / kind.presets
    return {path.stem: path for path in folder.glob("*.yaml")}


_BUDGETS = ("steps", "epochs", "minutes")
_LABEL_BUDGETS = ("labelled", "label_fraction")


def _merge(values: dict[str, Any], newer: Mapping[str, Any]) -> None:
    """Let newer values win; a newer budget replaces an older one of another kind."""
    for group in (_BUDGETS, _LABEL_BUDGETS):
        if any(newer.get(key) is not None for key in group):
            for key in group:
                values.pop(key, None)
    values.update(newer)


def _nested(values: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return `a.b=value` as the mapping of `a`, in which `b` is new and the rest stays."""
    first, _, rest = key.partition(".")
    if not rest:
        return {first: value}
    known = values.get(first)
    inner = known if isinstance(known, Mapping) else {}
    changed = dict(inner)
    _merge(changed, _nested(inner, rest, value))
    return {first: changed}


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path}: expected a YAML text file that you may read, got {type(error).__name__}"
        ) from None
    content = _parse(text, where=str(path))
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected 'key: value' lines, got {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def _parse(text: str, *, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise SettingsError(f"{where}: not valid YAML (line {line})") from None


def _explain(problem: Any, kind: type[FileSettings]) -> str:
    """Turn one pydantic problem into 'key: what was expected, what was got'."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}'{did_you_mean(key, kind.model_fields)}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not key:
        return message
    return f"{key}: {message[0].lower()}{message[1:]}, got {problem['input']!r}"
