"""Words in the path of a file: its role, its contrast, and the tokens that identify patient and visit."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Literal

from medmim.data.dataset.series_tokens import tokens_of
from medmim.data.dataset.splits import SPLIT_WORDS
from medmim.data.formats.images import PICTURE_SUFFIXES

Role = Literal["image", "label", "skip"]

VOLUME_NAMES = (
    ".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".mgz", ".mgh", ".hdr.gz", ".hdr", ".npy", ".npz",
)  # fmt: skip
_ENDINGS = (*VOLUME_NAMES, ".img.gz", ".img", *PICTURE_SUFFIXES)


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


LABEL_WORDS = word_set(
    "label labels lbl labelstr labelsts labelsval mask masks msk seg segs segm segmentation segmentations "
    "segtr gt gts groundtruth truth annotation annotations roi rois contour contours delineation "
    "delineations dseg manual"
)
IMAGE_WORDS = word_set(
    "image images img imgs imaging imagestr imagests imagesval volume volumes vol vols scan scans data raw "
    "rawdata orig original nii nifti anat"
)
PARTS = frozenset(SPLIT_WORDS)
VISIT_WORDS = word_set(
    "ses session visit tp timepoint time frame phase scan slice sl z echo day week month year baseline "
    "followup fu bl run acq part crop patch tile view study series v t"
)
SITE_WORDS = word_set(
    "site center centre fold subset part batch cohort hospital vendor scanner task dataset group split"
)
PATIENT_WORDS = word_set("patient pat pt pid subject subj sub case id p s person participant mrn")
_LABEL_ENDINGS = ("mask", "masks", "label", "labels", "segmentation", "segmentations", "seg")
_CONTAINERS = word_set("derivatives dataset datasets release processed preprocessed final resampled")
_FILLERS = PARTS | word_set(
    "2d 3d 4d expert ground png jpg tif mha nrrd npy all full new single multi class st nd va"
)
_SEQUENCES = word_set(
    "t1 t2 t2star flair dwi dti adc pd swi tof asl bold perf stir fs pre post ct mr pet ax cor sag"
)
_ALIASES = {
    "t1c": ("t1", "post"), "t1ce": ("t1", "post"), "cet1": ("t1", "post"), "t1gd": ("t1", "post"),
    "t1n": ("t1", "pre"), "hrt2": ("t2",),
    "gado": ("t1", "post"), "dp": ("pd",),
    "t2f": ("flair",), "mri": ("mr",), "pt": ("pet",), "suv": ("pet",), "hbv": ("dwi",), "cbct": ("ct",),
    "cta": ("ct",), "ncct": ("ct",), "ctres": ("ct",),
}  # fmt: skip
MODALITIES = {"ct": "CT", "pet": "PT"}
_UID = re.compile(r"\d+(?:\.\d+){4,}")
_CHUNK = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_GROUND_TRUTH = re.compile(r"ground[\W_]*truths?", re.IGNORECASE)
_TOKEN = re.compile(r"[^\W\d_]+|\d+")
_CHANNEL = re.compile(r"(.+)_(\d{4})")


def is_volume_name(name: str) -> bool:
    """Return whether a file name has the extension of a volume format."""
    return name.lower().endswith(VOLUME_NAMES)


def bare_name(name: str) -> str:
    """Return a file name without the extension of a volume or picture."""
    ending = next((end for end in _ENDINGS if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]


def contrast_of(word: str) -> tuple[str, ...]:
    """Return the sequences and modalities that a word names, such as (t1, post) for t1ce; none for others."""
    if found := _ALIASES.get(word.lower()):
        return found
    tokens = tokens_of([word])
    return tokens if tokens and set(tokens) <= _SEQUENCES else ()


def split_words(text: str) -> list[str]:
    """Split a name to lower-case words and digit runs; UIDs, hashes and contrasts stay whole."""
    words: list[str] = []
    text = _GROUND_TRUTH.sub("groundtruth", _UID.sub(lambda match: match.group().replace(".", ""), text))
    for chunk in _CHUNK.findall(text):
        pieces = _TOKEN.findall(chunk)
        whole = len(pieces) > 3 or contrast_of(chunk) or chunk.lower() in _FILLERS
        words += [chunk.lower()] if whole else [piece.lower() for piece in pieces]
    return words


def folder_words(name: str) -> list[str]:
    """Return the words of a folder's name, which may be written in camel case."""
    return split_words(_CAMEL.sub(" ", name))


def reason_beside_scans(name: str) -> str:
    """Return the reason to skip a picture among DICOM files: a label, or maybe a screenshot with a name."""
    label = any(map(is_label_word, split_words(bare_name(name))))
    return "label_picture_beside_scans" if label else "picture_beside_scans"


def is_label_word(word: str) -> bool:
    """Return whether a word marks a file as a label."""
    return word in LABEL_WORDS or (word.endswith(_LABEL_ENDINGS) and len(word) > 4)


def _is_numbered_label(chunk: str) -> bool:
    word, *rest = _TOKEN.findall(chunk.lower())
    return is_label_word(word) and len(rest) == 1 and rest[0].isdecimal()


def numbered_words(stem: str, words: list[str]) -> list[str]:
    """Return the parts of a name that contain these words, with their numbers."""
    kept: list[str] = []
    place = -1
    for index, chunk in enumerate(_CHUNK.findall(stem.lower())):
        if set(split_words(chunk)) & set(words) or (chunk.isdecimal() and kept and place == index - 1):
            kept, place = [*kept, chunk], index
    return kept


def folder_role(name: str) -> Role | None:
    """Return the role of all files in a folder if its name contains nothing else, such as labelsTrain."""
    for words in (split_words(name), folder_words(name)):
        known = [is_label_word(word) or word in IMAGE_WORDS | _FILLERS or word.isdecimal() for word in words]
        if all(known) and (role := role_of_words(words)):
            return role
    return None


def role_of_words(words: Sequence[str]) -> Role | None:
    """Return the role that words name; label words win."""
    return "label" if any(map(is_label_word, words)) else "image" if set(words) & IMAGE_WORDS else None


def paired_folders(folders: Collection[str]) -> dict[str, tuple[Role | None, str]]:
    """Return role and other words of sibling folders whose names differ in their role only.

    Such are `trainval-image` and `trainval-mask`, but a label word alone decides nothing.
    """
    pairs: dict[tuple[str, str], dict[str, Role]] = defaultdict(dict)
    for folder in folders:
        path = PurePosixPath(folder)
        words = folder_words(path.name)
        rest = "_".join(word for word in words if not is_label_word(word) and word not in IMAGE_WORDS)
        if (role := role_of_words(words)) and not folder_role(path.name):
            pairs[str(path.parent), rest][folder] = role
    return {
        folder: (role, rest)
        for (_, rest), found in pairs.items()
        if len(set(found.values())) == 2
        for folder, role in found.items()
    }


@dataclass(frozen=True)
class PathWords:
    """The words of one path.

    Attributes:
        relative: path below the source.
        channel: nnU-Net's channel number, if the layout uses it.
        folders: role of folders whose names alone would mislead, and the words that name their content.
    """

    relative: str
    channel: int | None = None
    folders: Mapping[str, tuple[Role | None, str]] = field(default_factory=dict)

    @cached_property
    def stem(self) -> str:
        """File name without extension and channel number."""
        bare = bare_name(PurePosixPath(self.relative).name)
        match = _CHANNEL.fullmatch(bare)
        return match.group(1) if match and self.channel is not None else bare

    @cached_property
    def stem_words(self) -> list[str]:
        """Words of the file name."""
        return split_words(self.stem)

    @cached_property
    def _folders(self) -> tuple[str, ...]:
        return PurePosixPath(self.relative).parts[:-1]

    @cached_property
    def unit(self) -> tuple[str, ...]:
        """Folders without those that only name a role, such as images/ and derivatives/."""
        return tuple(part for _, part in self._readings if part and part.lower() not in _CONTAINERS)

    @cached_property
    def _readings(self) -> list[tuple[Role | None, str]]:
        """Return the role of each folder, and its name if that is more than a role."""
        places = (str(PurePosixPath(*self._folders[: depth + 1])) for depth in range(len(self._folders)))
        roles = zip(places, self._folders, map(folder_role, self._folders), strict=True)
        return [self.folders.get(place, (role, "" if role else part)) for place, part, role in roles]

    @cached_property
    def split_words(self) -> tuple[str, ...]:
        """Words for a split that name a folder, or stand beside its role, as in imagesTr and images_test."""
        roles = zip(self._readings, self._folders, strict=True)
        words = (folder_words(part) if role else [part.lower()] for (role, _), part in roles)
        return tuple(word for of_folder in words for word in of_folder if word in PARTS)

    @cached_property
    def folder_role(self) -> Role | None:
        """Role of the nearest folder that names one."""
        return next((role for role, _ in reversed(self._readings) if role), None)

    @cached_property
    def stem_contrasts(self) -> frozenset[str]:
        """Sequences and modalities that the file name contains."""
        return frozenset(token for word in self.stem_words for token in contrast_of(word))

    @cached_property
    def contrasts(self) -> frozenset[str]:
        """Sequences and modalities that the file name or, without any, its folders contain."""
        words = (word for part in self._folders for word in split_words(part))
        return self.stem_contrasts or frozenset(token for word in words for token in contrast_of(word))

    @cached_property
    def key(self) -> tuple[str, ...]:
        """Tokens that identify patient and visit: all words but roles, contrasts and repeated folders."""
        stem = identity(self.stem_words)
        kept: list[str] = []
        for part in self.unit:
            words = identity(split_words(part))
            if not contains(stem, words):
                kept += words
        return (*kept, *stem)

    @cached_property
    def without_label_number(self) -> PathWords:
        """The same path without label words that a number follows, such as the reader in 21_manual1."""
        chunks = [chunk for chunk in _CHUNK.findall(self.stem) if not _is_numbered_label(chunk)]
        folder = PurePosixPath(self.relative).parent
        return replace(self, relative=str(folder / "_".join(chunks)), channel=None)

    @cached_property
    def slot_words(self) -> list[str]:
        """Identifying words of the file name that are neither digits nor words of its folders."""
        folders = {word for part in self.unit for word in split_words(part)}
        return [word for word in identity(self.stem_words) if not word.isdecimal() and word not in folders]

    @property
    def role(self) -> Role | None:
        """Role in the path: label words win over image folders; None if the values have to decide."""
        if any(is_label_word(word) for word in self.stem_words) or self.folder_role == "label":
            return "label"
        named = set(self.stem_words) & IMAGE_WORDS or self.folder_role == "image" or self.contrasts
        return "image" if named and (self.folder_role == "image" or not self.slot_words) else None


def identity(words: list[str]) -> list[str]:
    """Return the words that are neither roles nor contrasts."""
    return [
        word
        for word in words
        if not is_label_word(word) and word not in IMAGE_WORDS and not contrast_of(word)
    ]


def contains(words: Sequence[str], part: Sequence[str]) -> bool:
    """Return whether `part` occurs in `words` as it is."""
    return any(words[start : start + len(part)] == part for start in range(len(words) - len(part) + 1))
