"""Dataset descriptors: the YAML files in `data_manifests/`, and those that users write for their own data."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medmim import files
from medmim.config.yaml_settings import parse_yaml
from medmim.data.ingest.path_words import Role
from medmim.errors import SettingsError, unknown_name


class _DescriptorPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pairs(_DescriptorPart):
    """Images matched by regular expressions on their path, each with at most one label file.

    All other texts are templates, filled with the named groups of the expression that matched.

    Attributes:
        image: regular expressions for the whole path below the source; the first match is used.
        example: a path that matches, for error messages.
        label: path of the image's label.
        label_files: regular expressions of label files, in order of preference; a file labels all images
            whose `visit` is the same.
        visit: template for `label_files`.
        parts: paths of further files that contain voxels of the image.
        annotations: regular expressions of files with boxes, outlines and classes.
        target: class of the whole image, looked up in `targets`.
        healthy: classes of `targets` that mean "no finding".
        finding: class of marks without a class.
        spacing_mm: pixel spacing of pictures.
        subject: the patient.
        subject_by_pixels: for datasets without patient information: equal pixels, same patient.
        boxes_from_labels: derive a box from every connected component of a label.
        study: the visit; the images of one visit can be channels of one case.
        group: cases with the same group stay in one split.
        tokens: words of medmim's vocabulary; `token_words` translates the dataset's own words.
        skip: regular expressions of files that are not images, by the reason to skip them.
    """

    kind: Literal["pairs"] = "pairs"
    example: str | None = None
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
    study: str = "{subject}"
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
            raise ValueError("label_files need visit, a template that assigns label files to images")
        if self.example and not any(re.fullmatch(pattern, self.example) for pattern in self.image):
            raise ValueError("the example matches no image pattern")
        return self


class Arrays(_DescriptorPart):
    """NumPy archives of many images each, as in MedMNIST: `train_images`, `train_labels`, also val and test.

    `image` are regular expressions for the path; `named` maps a file name prefix to the names of its classes.
    """

    kind: Literal["arrays"]
    example: str
    image: tuple[str, ...] = Field(min_length=1)
    named: dict[str, dict[int, str]] = Field(default_factory=dict)
    skip: dict[str, str] = Field(default_factory=dict)


class InferenceLayout(_DescriptorPart):
    """Volumes and pictures whose roles are inferred from their names and values.

    Attributes:
        only: regular expression of the files that belong to the dataset; all by default.
        roles: image, label or skip by glob; the last match is used.
        subject_pattern: regular expression with a group around the patient, searched in the path.
        class_folders: the innermost folders are classes of images.
        skip: regular expressions of files that are not images, by the reason to skip them.
    """

    kind: Literal["inferred"]
    example: str | None = None
    only: str | None = None
    roles: dict[str, Role] = Field(default_factory=dict)
    subject_pattern: str | None = None
    class_folders: bool = False
    skip: dict[str, str] = Field(default_factory=dict)


class Descriptor(_DescriptorPart):
    """A dataset: the roles of its files, and for public datasets origin, licence and citation.

    Attributes:
        layout: rules that assign roles to the files.
        modality: DICOM's code by file name prefix; "" matches every name.
        labels: class names by file name prefix.
        declared: name of a JSON file in the dataset that overrides `modality` and `labels`.
        detect: regular expression that only paths of this dataset match; without it, the descriptor is used
            on request only.
        split: description of the splits, for readers only.
    """

    name: str
    title: str = ""
    source: str = ""
    licence: str = ""
    citation: str = ""
    layout: Pairs | Arrays | InferenceLayout = Field(discriminator="kind")
    modality: dict[str, str] = Field(default_factory=lambda: {"": "OT"})
    labels: dict[str, dict[int, str]] = Field(default_factory=dict)
    declared: str | None = None
    detect: str | None = None
    split: str = ""

    @field_validator("layout", mode="before")
    @classmethod
    def _default_kind(cls, layout: Any) -> Any:
        return {"kind": "pairs", **layout} if isinstance(layout, dict) else layout

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
    """Load a shipped descriptor by name, or a user's own by the path of its YAML file.

    Raises:
        UsageError: if there is no descriptor of that name.
        SettingsError: if the file is invalid; the message lists every problem.
    """
    known = known_descriptors()
    if name in known:
        return _shipped(known[name])
    if not name.endswith((".yaml", ".yml")) or not Path(name).is_file():
        raise unknown_name("dataset descriptor", name, known)
    return _read(Path(name), name)


@functools.cache
def _shipped(path: Path) -> Descriptor:
    """Return a shipped descriptor; every ingestion looks into all of them."""
    return _read(path, path.stem)


def _read(path: Path, name: str) -> Descriptor:
    try:
        text = path.read_text(encoding="utf-8")
        return Descriptor.model_validate(parse_yaml(text, where=f"dataset descriptor '{name}'"))
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}" for one in error.errors())
        raise SettingsError(f"dataset descriptor '{name}': {'; '.join(problems)}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"dataset descriptor '{name}' is not a text file; save it as UTF-8") from error


def by_prefix(table: Mapping[str, Any], name: str) -> Any:
    """Return the entry with the longest key that is a prefix of `name`, or None."""
    fitting = [prefix for prefix in table if name.startswith(prefix)]
    return table[max(fitting, key=len)] if fitting else None


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error.msg}") from error
