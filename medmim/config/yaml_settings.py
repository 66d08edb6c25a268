"""Merging of settings from presets, YAML files, flags and `--set`, and their validation.

Precedence, lowest first: defaults, preset of the task, `--config FILE`, flags, `--set key=value`.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from medmim import files
from medmim.config.own_code import trust_settings
from medmim.config.replaced_settings import Replacements, merge, nested
from medmim.errors import SettingsError, did_you_mean

_LOG = logging.getLogger(__name__)

_EXPECTED = {  # what pydantic's types of errors mean to people who write YAML
    **dict.fromkeys(("tuple_type", "list_type", "set_type"), "expected a list, such as [1, 2]"),
    **dict.fromkeys(("dict_type", "model_type"), "expected names with values, such as {name: value}"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "expected a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "expected a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "expected true or false"),
    "string_type": "expected a text",
}


class FileSettings(BaseModel):
    """Base class of settings that a YAML file can provide.

    Attributes:
        presets: folder below configs/ with the presets of this model.
        renamed: settings of 0.1.0 that are accepted for one release → today's names.
        renamed_inside: for a setting, values (or keys of a mapping) of 0.1.0 → today's.
        newer: settings of later versions, which digests of trainings contain only if they are set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    presets: ClassVar[str]
    renamed: ClassVar[Mapping[str, str]] = {}
    renamed_inside: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    newer: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def with_current_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Replace names of 0.1.0 and print a line with the new name for each; a later duplicate wins."""
        result: dict[str, Any] = {}
        for key, value in _renamed(values, cls.renamed, where="setting").items():
            result[key] = _renamed_value(value, cls.renamed_inside.get(key, {}), where=key)
        return result

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, values: Any) -> Any:
        return cls.with_current_names(values) if isinstance(values, Mapping) else values

    @classmethod
    def place_of(cls, key: str) -> str | None:
        """Return where a setting belongs that this model does not have; None if that is unknown."""
        return None

    @property
    def newer_defaults(self) -> set[str]:
        """The newer settings that have their defaults."""
        fields = type(self).model_fields
        return {
            name
            for name in self.newer
            if getattr(self, name) == fields[name].get_default(call_default_factory=True)
        }

    def fingerprint(self, *, exclude: set[str]) -> dict[str, Any]:
        """Return the settings under their names of 0.1.0: digests of trainings must not change."""
        old = {new: name for name, new in self.renamed.items()}
        inside = {
            key: {new: name for name, new in table.items()} for key, table in self.renamed_inside.items()
        }
        values = self.model_dump(mode="json", exclude=exclude | self.newer_defaults)
        return {old.get(key, key): _exchanged(value, inside.get(key, {})) for key, value in values.items()}


def _renamed(values: Mapping[str, Any], table: Mapping[str, str], *, where: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        if key in table:
            _LOG.warning(
                "%s '%s' is now called '%s'; this release still accepts the old name", where, key, table[key]
            )
        result.pop(table.get(key, key), None)
        result[table.get(key, key)] = value
    return result


def _renamed_value(value: Any, table: Mapping[str, str], *, where: str) -> Any:
    if isinstance(value, Mapping):
        return _renamed(value, table, where=where)
    return next(iter(_renamed({value: None}, table, where=where))) if isinstance(value, str) else value


def _exchanged(value: Any, table: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {table.get(key, key): inner for key, inner in value.items()}
    return table.get(value, value) if isinstance(value, str) else value


Settings = TypeVar("Settings", bound=FileSettings)


def resolve(
    kind: type[Settings],
    *,
    base: str | None = None,
    config: str | None = None,
    flags: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
) -> Settings:
    """Merge preset, file, flags and overrides into validated settings.

    Args:
        base: preset of lowest precedence, such as that of a task; ignored if there is no such preset.
        flags: values from the command line; None means "not given".
        overrides: `key=value` words; values are parsed as YAML, `options.name=value` changes one option.

    Raises:
        SettingsError: one message that lists every unknown key and invalid value.
    """
    values: dict[str, Any] = {}
    if base is not None and base in presets(kind):
        merge(values, kind.with_current_names(read_yaml(presets(kind)[base])))
    if config is not None:
        merge(values, kind.with_current_names(read_yaml(find_config(config, kind))))
    given = kind.with_current_names({key: one for key, one in (flags or {}).items() if one is not None})
    merge(values, given)
    replaced = Replacements(given)
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals:
            raise SettingsError(f"--set {word}: expected key=value, such as --set batch_size=2")
        key, value = key.strip().replace("-", "_"), parse_yaml(text, where=f"--set {key}")
        merge(values, kind.with_current_names(nested(values, key, value)))
        replaced.log(kind.renamed.get(key, key), value, word=f"--set {word}")
    try:
        settings = kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(problem, kind) for problem in error.errors(include_url=False))
        raise SettingsError(f"settings{f' in {config}' if config else ''}: {problems}") from None
    trust_settings(settings.model_dump())
    return settings


def find_config(name: str, kind: type[FileSettings]) -> Path:
    """Return the file that `--config` names: a path, or a preset."""
    if Path(name).is_file():
        return Path(name)
    known = presets(kind)
    if name in known:
        return known[name]
    raise SettingsError(f"config '{name}': no such file or preset{did_you_mean(name, known)}")


def presets(kind: type[FileSettings]) -> dict[str, Path]:
    """Return the presets that ship with medmim: name → file."""
    folder = files.shipped("configs") / kind.presets
    return {path.stem: path for path in folder.glob("*.yaml")}


_MAX_YAML_VALUES = 10_000


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path}: expected a YAML text file that you may read, got {type(error).__name__}"
        ) from None
    content = parse_yaml(text, where=str(path))
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected 'key: value' lines, got {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def parse_yaml(text: str, *, where: str) -> Any:
    """Parse YAML without objects, and without aliases that expand to a huge document.

    Raises:
        SettingsError: naming `where`, for invalid YAML, deep nesting or more than 10,000 values.
    """
    loader = None
    try:
        loader = yaml.SafeLoader(text)  # the parser in C would overflow its stack in deep nesting
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded_size(node, {}) > _MAX_YAML_VALUES:
            raise SettingsError(
                f"{where}: expands to more than {_MAX_YAML_VALUES} values; remove aliases (*name)"
            )
        _refuse_repeated_keys(node, where)
        return loader.construct_document(node)
    except RecursionError:
        raise SettingsError(f"{where}: nested too deeply; expected 'key: value' lines") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise SettingsError(f"{where}: not valid YAML (line {line})") from None
    finally:
        if loader is not None:
            loader.dispose()


def _refuse_repeated_keys(node: yaml.Node, where: str) -> None:
    """Raise SettingsError for a key that a mapping contains twice, of which YAML would drop the first."""
    parts = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        keys = [str(key.value) for key, _ in node.value]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        if repeated:
            raise SettingsError(f"{where}: '{repeated[0]}' is given twice; expected every name once")
        parts = [value for _, value in node.value]
    for part in parts:
        _refuse_repeated_keys(part, where)


def _expanded_size(node: yaml.Node, known: dict[int, float]) -> float:
    """Count the values of a document with its aliases expanded; infinite for one that contains itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1.0
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = (
            node.value
            if isinstance(node, yaml.SequenceNode)
            else [one for pair in node.value for one in pair]
        )
        known[id(node)] = 1.0 + sum(_expanded_size(part, known) for part in parts)
    return known[id(node)]


def _explain(problem: Any, kind: type[FileSettings]) -> str:
    """Format one pydantic error as 'key: expected, got'."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        place = kind.place_of(key)
        return f"'{key}' {place}" if place else f"unknown key '{key}'{did_you_mean(key, kind.model_fields)}"
    message = _EXPECTED.get(problem["type"]) or str(problem["msg"]).removeprefix("Value error, ")
    message = re.sub("^Input should be (?=greater|less)", "expected a value ", message)
    message = re.sub("^Input should be ", "expected ", message)
    if not key:
        return message
    return f"{key}: {message[0].lower()}{message[1:]}, got {problem['input']!r}"
