"""The classes of a segmentation: names, label values, and overlapping regions of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medmim.data.dataset.manifest import Dataset
from medmim.data.formats.labels import NOT_ANNOTATED
from medmim.data.loading.fingerprint import Fingerprint
from medmim.data.loading.foreground_sampling import IGNORE, foreground_shares
from medmim.data.loading.preprocessing_plan import Regions
from medmim.errors import DataError, UsageError, counted

_MAX_CLASSES = IGNORE - 1  # class indices are stored in a byte
_RAREST = 3


@dataclass(frozen=True)
class LabelScheme:
    """The classes of a segmentation in the order of their indices, which start at 1.

    Attributes:
        values: label values of each class.
        regions: as in `PreprocessingPlan`.
        chosen: whether the user chose classes or regions, so that further label values are background.
        left_out: those values, in labels of any split.
    """

    values: Mapping[str, tuple[int, ...]]
    regions: Regions | None = None
    chosen: bool = False
    left_out: tuple[int, ...] = ()

    @property
    def names(self) -> dict[int, str]:
        """Class names by index."""
        return dict(enumerate(self.values, start=1))

    @property
    def codes(self) -> tuple[int, ...]:
        """Value of each class in written label files."""
        return tuple(own[0] for own in self.values.values())

    @property
    def pairs(self) -> tuple[tuple[int, int], ...] | None:
        """Pairs of a label value and its class; None if every value is a class."""
        classes = enumerate(self.values.values(), start=1)
        return tuple((value, number) for number, own in classes for value in own) if self.chosen else None

    def lines(self, fingerprint: Fingerprint) -> list[str]:
        """Return lines about the classes in the training labels for the user."""
        lines = []
        class_of = {value: name for name, own in self.values.items() for value in own}
        found = fingerprint.codes()
        seen = {class_of.get(code) for code in found}
        unseen = [f"'{name}' ({_listed(own)})" for name, own in self.values.items() if name not in seen]
        if unseen:
            lines.append(f"warning: no training label contains {', '.join(unseen)}: it cannot be predicted")
        merged = [
            f"{name} ({_listed(own)}; written as {own[0]})" for name, own in self.values.items() if own[1:]
        ]
        lines += [f"classes of several label values: {', '.join(merged)}"] if merged else []
        if self.left_out:
            setting = "regions" if self.regions else "labels"
            lines.append(
                f"warning: label values {_listed(self.left_out)} are background: `{setting}` leaves them out"
            )
        if not self.chosen and list(class_of) == [*range(1, len(class_of)), NOT_ANNOTATED]:
            lines.append(
                f"warning: label value {NOT_ANNOTATED} is trained as a class; if nobody annotated these "
                f"voxels, use --set ignore_label={NOT_ANNOTATED}"
            )
        full, cases = fingerprint.without_background, len(fingerprint.cases)
        if full and not self.left_out:
            first = next(iter(self.values))
            others = ", ".join(f"{name}: [{_listed(own)}]" for name, own in list(self.values.items())[1:])
            lines.append(
                f"warning: {full} of {counted(cases, 'training label')} without any 0, which stands for "
                f"background: every voxel there belongs to a class; if '{first}' is the background, use "
                f"--set 'labels={{{others}}}'"
            )
        return [*lines, *self._region_lines(), *self._sampling_lines(fingerprint, class_of)]

    def _region_lines(self) -> list[str]:
        if not self.regions:
            return []
        names, codes = self.names, self.codes
        parts = [f"{name} ({', '.join(names[one] for one in own)})" for name, own in self.regions]
        order = [
            f"{code} where {name} exceeds 0.5" for (name, _), code in zip(self.regions, codes, strict=True)
        ]
        return [f"regions: {', '.join(parts)}; labels are written in this order: {', then '.join(order)}"]

    def _sampling_lines(self, fingerprint: Fingerprint, class_of: Mapping[int, str]) -> list[str]:
        number = {name: place for place, name in self.names.items()}
        cases = [
            {number[class_of[code]] for code in codes if code in class_of} for codes in fingerprint.cases
        ]
        shares = foreground_shares([sorted(classes) for classes in cases])
        if len(shares) < 2:
            return []
        rarest = sorted(shares, key=lambda one: shares[one])[:_RAREST]
        listed = ", ".join(f"{self.names[one]} {shares[one]:.1%}" for one in rarest)
        return [f"foreground patches are centred on each class of a volume equally often; rarest: {listed}"]


def label_scheme(
    dataset: Dataset,
    fingerprint: Fingerprint,
    *,
    labels: Mapping[str, Sequence[int]],
    regions: Sequence[Sequence[Any]] = (),
) -> LabelScheme:
    """Return the classes of a dataset.

    Args:
        labels: label values of each merged class; empty: every value is a class.
        regions: name and members of each region, in the order in which labels are written; a member is a
            label value or the name of a class. Classes of no region are background.

    Raises:
        DataError: if all training labels are empty, or there are more classes than a byte can number.
        UsageError: for values that no label has, or regions from which labels cannot be written.
    """
    if not fingerprint.classes:
        raise DataError("all training labels are empty: expected at least one class", reason="label_empty")
    known = {*dataset.info.label_codes, *dataset.info.label_names, *fingerprint.codes()}
    codes = sorted(known - {0, fingerprint.ignore})
    unknown = [value for own in labels.values() for value in own if value not in codes]
    if unknown:
        raise UsageError(f"labels: no label has the value {_listed(unknown)}; expected {_listed(codes)}")
    if len(labels or codes) > _MAX_CLASSES:
        raise DataError(
            f"labels have {len(codes)} classes, expected at most {_MAX_CLASSES}: merge some of them",
            reason="label_too_large",
        )
    names = dataset.info.label_names
    values: dict[str, tuple[int, ...]] = {names.get(code, f"label_{code}"): (code,) for code in codes}
    if labels:
        # stored settings are sorted by name, so that the order given is not known when a run is resumed
        ordered = sorted(labels.items(), key=lambda one: tuple(one[1]))
        values = {name: tuple(own) for name, own in ordered}
    scheme = _with_regions(values, regions) if regions else LabelScheme(values, chosen=bool(labels))
    used = {value for own in scheme.values.values() for value in own}
    return replace(scheme, left_out=tuple(code for code in codes if code not in used))


def _with_regions(values: Mapping[str, tuple[int, ...]], regions: Sequence[Sequence[Any]]) -> LabelScheme:
    """Return the scheme whose class k is the only one that region k, but no later region, contains."""
    classes = {str(name): _members(str(name), members, values) for name, members in regions}
    last = {one: name for name, own in classes.items() for one in own}
    for name in classes:
        own = [one for one in values if last.get(one) == name]
        if len(own) != 1:
            raise UsageError(
                f"regions: labels cannot be written back, since {' and '.join(own) or 'no class'} "
                f"{'belong' if own else 'belongs'} to '{name}' but to no later region; expected one such "
                "class for each region: list regions from the largest to the smallest, and merge classes "
                "with `labels` or add a region"
            )
    own = [next(one for one, name in last.items() if name == region) for region in classes]
    order = {one: number for number, one in enumerate(own, start=1)}
    found = tuple((name, tuple(sorted(order[one] for one in own))) for name, own in classes.items())
    return LabelScheme({one: values[one] for one in order}, found, chosen=True)


def _members(region: str, members: Sequence[Any], values: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return the classes of a region, whose members are names of classes or label values."""
    of_value = {value: name for name, own in values.items() for value in own}
    unknown = [one for one in members if one not in values and one not in of_value]
    if unknown:
        known = ", ".join(f"{_listed(own)} ({name})" for name, own in values.items())
        raise UsageError(f"regions: no class of '{region}' is {_listed(unknown)}; expected {known}")
    chosen = dict.fromkeys(one if one in values else of_value[one] for one in members)
    for name in chosen:
        missing = [value for value in values[name] if name not in members and value not in members]
        if missing:
            raise UsageError(
                f"regions: '{region}' has only a part of the merged class '{name}'; add {_listed(missing)}"
            )
    return list(chosen)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
