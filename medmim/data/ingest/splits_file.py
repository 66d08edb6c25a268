"""Splits that the user gives in a file: lists by split, a table, nnU-Net folds or a MONAI datalist."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from medmim.data.dataset.manifest import Split
from medmim.data.dataset.pseudonyms import Keys
from medmim.data.dataset.splits import SPLIT_WORDS, given_splits
from medmim.data.ingest.context import IngestedVolume
from medmim.data.ingest.path_words import bare_name
from medmim.errors import DataError, UsageError, counted, did_you_mean
from medmim.text_formats import SpreadsheetError, parse_csv, parse_json, read_table_text, zeros_hint

_NAME_KEYS = ("image", "file", "name", "path", "case", "id", "subject", "patient", "series")


@dataclass(frozen=True)
class SplitsFile:
    """Names of files, patients or series, each with its split."""

    entries: tuple[tuple[str, Split], ...]

    @classmethod
    def read(cls, path: Path, fold: int = 0) -> SplitsFile:
        """Read a splits file.

        Args:
            path: JSON `{"train": [...], "val": [...], "test": [...]}`, nnU-Net's list of such folds, a MONAI
                datalist (`training` with `fold`, `testing`), or CSV with the columns file and split, or file
                and fold.
            fold: the fold that is `val`; all other folds are `train`.

        Raises:
            UsageError: if the file is none of these.
        """
        try:
            text = read_table_text(path)
            entries = (
                _from_json(parse_json(text), fold) if text.lstrip()[:1] in "[{" else _from_csv(text, fold)
            )
        except SpreadsheetError as error:
            raise UsageError(f"--splits '{path}': {error}") from error
        except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
            raise UsageError(
                f"--splits '{path}' cannot be read: expected JSON with lists train, val and test, nnU-Net's "
                "splits_final.json, a MONAI datalist, or CSV with the columns file and split"
            ) from error
        if not entries:
            raise UsageError(f"--splits '{path}' names no file: expected one for each image")
        return cls(tuple(entries))


def _from_json(content: Any, fold: int) -> list[tuple[str, Split]]:
    if isinstance(content, list):  # nnU-Net: one object for each fold
        _check_fold(fold, range(len(content)))
        content = content[fold]
    folds = {
        one["fold"]
        for members in content.values()
        for one in (members if isinstance(members, list) else ())
        if isinstance(one, dict) and "fold" in one
    }
    if folds:
        _check_fold(fold, folds)
    entries: list[tuple[str, Split]] = []
    for word, members in content.items():
        split = SPLIT_WORDS.get(str(word).strip().lower())
        if split is None and isinstance(members, list) and get_close_matches(word.casefold(), SPLIT_WORDS):
            raise UsageError(f"--splits: unknown list '{word}'{did_you_mean(word.casefold(), SPLIT_WORDS)}")
        for member in members if split and isinstance(members, list) else ():
            if not isinstance(member, dict):
                entries.append((str(member), split or "train"))
                continue
            name = next(member[key] for key in _NAME_KEYS if key in member)
            held_out = split == "train" and member.get("fold") == fold
            images = name if isinstance(name, list) else [name]
            entries += [(str(image), "val" if held_out else split or "train") for image in images]
    return entries


def _from_csv(text: str, fold: int) -> list[tuple[str, Split]]:
    names, rows = parse_csv(text, delimiters=",;\t")
    columns = {str(name).strip().lower(): str(name) for name in names}
    name = next(columns[key] for key in (*_NAME_KEYS, "filename", "patientid") if key in columns)
    column = columns["split" if "split" in columns else "fold"]
    cells = [(str(row[name] or "").strip(), str(row[column] or "").strip()) for row in rows]
    cells = [pair for pair in cells if any(pair)]  # without empty rows
    if "split" in columns:
        return [(one, _split_of(word)) for one, word in cells]
    folds = [int(float(word)) for _, word in cells]  # a spreadsheet writes 1 as 1.0
    _check_fold(fold, set(folds))
    return [(one, "val" if own == fold else "train") for (one, _), own in zip(cells, folds, strict=True)]


def _split_of(word: str) -> Split:
    """Return the split that a cell names.

    Raises:
        UsageError: for any other word.
    """
    if (split := SPLIT_WORDS.get(word.lower())) is None:
        raise UsageError(f"--splits: expected train, val or test in the column split, got '{word}'")
    return split


def _check_fold(fold: int, known: Collection[int]) -> None:
    """Require the fold that is validated in a file of folds, which would otherwise all be for training."""
    if fold not in known:
        folds = ", ".join(map(str, sorted(known)))
        raise UsageError(f"--splits-fold {fold}: expected a fold of the file, {folds or 'which has none'}")


def apply_splits(
    made: Sequence[IngestedVolume], splits: SplitsFile, keys: Sequence[Keys]
) -> list[IngestedVolume]:
    """Return the volumes with the splits of a file; all volumes of a patient get the split of any of them.

    Args:
        keys: keys of names in files and in DICOM headers.

    Raises:
        DataError: if the file names unknown images, puts a patient into two splits, or leaves images out.
    """
    index = _Index(made, keys)
    places = [index.find(name) for name, _ in splits.entries]
    if unknown := [number for number, found in enumerate(places, start=1) if not found]:
        hint = zeros_hint((splits.entries[number - 1][0] for number in unknown), index.find)
        raise DataError(
            f"--splits names {len(unknown)} of {counted(len(places), 'image')} that were not ingested "
            f"(entries {', '.join(map(str, unknown[:5]))}{', …' if len(unknown) > 5 else ''}): expected "
            f"paths, file names, patients or series of the source; correct the file{hint}",
            reason="split_unknown",
        )
    pairs = zip(splits.entries, places, strict=True)
    by_subject = given_splits(
        (made[place].volume.subject, split) for (_, split), found in pairs for place in found
    )
    missing = [one for one in made if one.volume.subject not in by_subject]
    if missing:
        raise DataError(
            f"--splits omits {len(missing)} of {counted(len(made), 'image')}: expected a split for each "
            "patient; add them to the file, or exclude them with --role 'GLOB=skip'",
            reason="split_missing",
        )
    return [
        replace(one, volume=one.volume.model_copy(update={"split": by_subject[one.volume.subject]}))
        for one in made
    ]


class _Index:
    """Finds volumes by path, file name, stem, patient or series."""

    def __init__(self, made: Sequence[IngestedVolume], keys: Sequence[Keys]) -> None:
        self._keys = keys
        self._names: Mapping[str, list[int]] = defaultdict(list)
        for place, one in enumerate(made):
            volume = one.volume
            for name in {one.name, _without_channel(one.name), volume.subject, volume.series, volume.study}:
                self._names[name].append(place)

    def find(self, name: str) -> list[int]:
        """Return the places of the volumes that a name means."""
        path = PurePosixPath(name.replace("\\", "/").removeprefix("./"))
        forms = [bare_name(path.name), _without_channel(bare_name(path.name)), name, str(path)]
        kinds, texts = ("series", "subject", "study"), (str(path), bare_name(str(path)), path.name)
        hashed = [one.key(kind, text) for one in self._keys for kind in kinds for text in texts]
        return next((found for form in (*hashed, *forms) if (found := self._names.get(form, []))), [])


def _without_channel(stem: str) -> str:
    head, separator, tail = stem.rpartition("_")
    return head if separator and len(tail) == 4 and tail.isdecimal() else stem
