"""A commented template of study files, and the JSON schema by which editors complete and check them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medmim import files
from medmim.config.reference import describe
from medmim.config.resolve import FileSettings
from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.config.study import StudySettings
from medmim.errors import UsageError

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
