"""Types of setting values: sizes, cells, words, windows, and the names of a weights file.

Each accepts what the command line gives, a text, and what a YAML file gives.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from medmim.config.yaml_settings import read_yaml
from medmim.errors import SettingsError


def _as_sequence(value: Any) -> Any:
    """Return one number, or numbers separated by commas, as a sequence of sizes."""
    if isinstance(value, int | float):
        return (value,)
    return tuple(value.split(",")) if isinstance(value, str) else value


def _ascending(values: tuple[float, float]) -> tuple[float, float]:
    """Raise ValueError unless the first value is below the second."""
    if values[0] >= values[1]:
        raise ValueError("expected a lower and a higher intensity, such as -160,240")
    return values


def _as_words(value: Any) -> Any:
    """Split words at commas."""
    return tuple(value.replace(" ", "").split(",")) if isinstance(value, str) else value


def _as_regions(value: Any) -> Any:
    """Return the pairs of a mapping: stored settings are sorted by key, and the order of regions matters."""
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple):
        raise ValueError("expected regions such as {whole: [1, 2, 3], core: [2, 3]}")
    return tuple((name, _members(own)) for name, own in pairs)


def _members(value: Any) -> Any:
    return _as_words(value) if isinstance(value, str) else _as_sequence(value)


def _as_cell(value: Any) -> Any:
    """Parse a cell size: all axes in voxels, or all in millimetres, such as `8mm,16mm`."""
    split = value.split(",") if isinstance(value, str) else value
    parts = [split] if isinstance(split, int | float) else split
    words = [str(part).strip().lower() for part in parts]
    if all(_MILLIMETRES.fullmatch(word) for word in words):
        return tuple(f"{float(word.removesuffix('mm')):g}mm" for word in words)
    if all(word.isdecimal() and int(word) for word in words):
        return tuple(int(word) for word in words)
    raise ValueError("expected voxels such as 8 or 8,8,4, or millimetres such as 8mm or 8mm,16mm,16mm")


_MILLIMETRES = re.compile(r"(?=.*[1-9])\d+(\.\d+)?\s*mm")
CellSize = Annotated[tuple[int | str, ...], BeforeValidator(_as_cell)]
Sizes = Annotated[tuple[Annotated[int, Field(gt=0)], ...], BeforeValidator(_as_sequence)]
Words = Annotated[tuple[str, ...], BeforeValidator(_as_words)]
Window = Annotated[tuple[float, float], BeforeValidator(_as_sequence), AfterValidator(_ascending)]
Numbers = Annotated[tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(_as_sequence)]
RegionMembers = Annotated[tuple[tuple[str, tuple[int | str, ...]], ...], BeforeValidator(_as_regions)]
LabelValues = Annotated[tuple[int, ...], BeforeValidator(_as_sequence)]
FolderName = Annotated[str, Field(pattern=r"^\.?[A-Za-z0-9_-][A-Za-z0-9_.-]*$", max_length=200)]
Share = Annotated[float, Field(gt=0, lt=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class InitMap(BaseModel):
    r"""Names of the tensors in a weights file that medmim does not recognise.

    Attributes:
        encoder: name of the encoder that the weights fit.
        encoder_options: its options.
        keys: pattern of a whole name in the file → name in the encoder, with `\1` for the first group.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str
    encoder_options: dict[str, Any] = Field(default_factory=dict)
    keys: dict[str, str] = Field(min_length=1)

    @field_validator("keys")
    @classmethod
    def _patterns(cls, keys: dict[str, str]) -> dict[str, str]:
        for pattern, new in keys.items():
            try:
                re.sub(f"{pattern}|", new, "")
            except re.error as error:
                raise ValueError(f"expected patterns, got '{pattern}' → '{new}': {error}") from None
        return keys


def _as_init_map(value: Any) -> Any:
    """Read the rules from a YAML file."""
    return read_yaml(Path(value)) if isinstance(value, str | Path) else value


def read_init_map(path: Path) -> InitMap:
    """Read the rules of `--init-map`.

    Raises:
        SettingsError: one line that lists every problem.
    """
    try:
        return InitMap.model_validate(read_yaml(path))
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise SettingsError(f"--init-map '{path.name}': {'; '.join(problems)}") from None


def _as_augmentation(value: Any) -> Any:
    """Read the fields from a YAML file, so that runs are recorded and compared with its content."""
    is_file = isinstance(value, str) and value.endswith((".yaml", ".yml"))
    return read_yaml(Path(value)) if is_file else value


AugmentationFile = Annotated[str | dict[str, Any], BeforeValidator(_as_augmentation)]
InitMapFile = Annotated[InitMap, BeforeValidator(_as_init_map)]
