"""Descriptors of data sets: the YAML files in `data_manifests/`, or one of the user's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medmim import files
from medmim.errors import SettingsError, unknown_name


class _DescriptorPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pairs(_DescriptorPart):
    """Images matched by patterns on their path below the source, each with at most one label file.

    `image` holds regular expressions, tried in order on the whole path; the other texts are templates that
    are filled with their named groups. `skip` gives reasons for files that look like images and are none.
    `example` is a path that fits, for messages.

    Labels: `label` is the path of an image's label; or `label_files` are patterns, the best first, of files
    that label all images for which the template `visit` gives what it gives for them. `parts` are paths of
    files that hold an image's voxels. `annotations` are patterns of files with boxes, outlines and classes.

    `subject_by_pixels` is for sets that name no patients: equal pixels, one patient.

    `boxes_from_labels` gives every connected part of a label a box.

    `tokens` are words of medmim's vocabulary about the image; `token_words` translates the set's own to them.

    Classes of whole images: `target` is filled and looked up in `targets`; `healthy` are those of them that
    mean "nothing to find". `finding` is the class of marks that name none.
    """

    kind: Literal["pairs"]
    example: str
    image: tuple[str, ...] = Field(min_length=1)
    label: str | None = None
    label_files: tuple[str, ...] = ()
    visit: str | None = None
    parts: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()
    target: str | None = None
    targets: dict[str, str] = Field(default_factory=dict)
    healthy: tuple[str, ...] = ()
    finding: str = "finding"
    spacing_mm: float | None = Field(default=None, gt=0)
    subject: str = "{subject}"
    subject_by_pixels: bool = False
    boxes_from_labels: bool = False
    study: str = "{study}"
    group: str | None = None
    tokens: tuple[str, ...] = ()
    token_words: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    skip: dict[str, str] = Field(default_factory=dict)

    @field_validator("image", "skip", "label_files", "annotations")
    @classmethod
    def _patterns(cls, value: Any) -> Any:
        for pattern in value.values() if isinstance(value, dict) else value:
            _check_pattern(pattern)
        return value

    @model_validator(mode="after")
    def _templates(self) -> Pairs:
        optional = (self.label, self.group, self.target, self.visit)
        texts = [self.subject, self.study, *filter(None, optional), *self.tokens, *self.parts]
        used = {name for text in texts for _, name, _, _ in Formatter().parse(text) if name is not None}
        for pattern in self.image:
            if missing := used - set(re.compile(pattern).groupindex):
                raise ValueError(
                    f"an image pattern lacks the named groups {sorted(missing)} that templates use"
                )
        if self.label_files and not self.visit:
            raise ValueError("label_files need visit, a template that tells whose label a file is")
        if not any(re.fullmatch(pattern, self.example) for pattern in self.image):
            raise ValueError("the example matches no image pattern")
        return self


class Arrays(_DescriptorPart):
    """Files of NumPy arrays that hold many pictures each, as MedMNIST does; `targets` name its classes.

    `image` are patterns on the path; a file holds `train_images`, `train_labels` and so on for val and test.
    `named` gives the classes by how the file's name begins.
    """

    kind: Literal["arrays"]
    example: str
    image: tuple[str, ...] = Field(min_length=1)
    named: dict[str, dict[int, str]] = Field(default_factory=dict)
    skip: dict[str, str] = Field(default_factory=dict)


class Descriptor(_DescriptorPart):
    """One public data set: where it comes from, under which licence, and what its files are.

    `modality` and `labels` are keyed by how image file names begin; "" fits every name. `declared` is the
    name of a JSON file that a copy of the set may bring along and that then rules over both. `detect` is a
    pattern that the paths of no other data set match; without it the descriptor is used on request only.
    """

    name: str
    title: str
    source: str
    licence: str
    citation: str
    layout: Pairs | Arrays = Field(discriminator="kind")
    modality: dict[str, str]
    labels: dict[str, dict[int, str]] = Field(default_factory=dict)
    declared: str | None = None
    detect: str | None = None
    split: str

    @field_validator("detect")
    @classmethod
    def _pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            _check_pattern(pattern)
        return pattern


def known_descriptors() -> dict[str, Path]:
    """Return the shipped descriptors: name → file."""
    return {path.stem: path for path in sorted(files.shipped("data_manifests").glob("*.yaml"))}


def load_descriptor(name: str) -> Descriptor:
    """Load a shipped descriptor by name, or one of your own by the path of its YAML file.

    Raises:
        UsageError: if there is none of that name.
        SettingsError: if the file breaks the rules; the message lists every problem.
    """
    known = known_descriptors()
    path = known.get(name, Path(name) if name.endswith((".yaml", ".yml")) else None)
    if path is None or not path.is_file():
        raise unknown_name("data set descriptor", name, known)
    try:
        return Descriptor.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}" for one in error.errors())
        raise SettingsError(f"data set descriptor '{name}': {'; '.join(problems)}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsError(f"data set descriptor '{name}' is no YAML text; correct its syntax") from error


def by_prefix(table: Mapping[str, Any], name: str) -> Any:
    """Return the entry with the longest key that `name` begins with, or None."""
    fitting = [prefix for prefix in table if name.startswith(prefix)]
    return table[max(fitting, key=len)] if fitting else None


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error.msg}") from error
