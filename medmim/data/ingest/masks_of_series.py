"""Volume files that are labels of DICOM series by their folders or names, as in patient1/mask.nii.gz."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from medmim.data.dicom.header import Header
from medmim.data.ingest.infer_roles import AmbiguousLayoutError, Candidate, ImageIndex, apply_given
from medmim.data.ingest.path_words import PathWords, Role
from medmim.data.ingest.scan import ScannedFile


def masks_of_series(
    source: Path,
    scanned: Mapping[int, ScannedFile],
    paths: Mapping[int, Path],
    *,
    given: Sequence[tuple[str, Role]],
    known: Collection[int] = (),
) -> dict[int, tuple[str, ...]]:
    """Return the series that each label belongs to, in a source of DICOM series and labels only.

    A label belongs to the series below its folder if these are of one patient, else to those whose folders
    its path names. Whether it lies on their grid is checked when it is attached.

    Args:
        given: roles that the user gave, as for `infer_roles`.
        known: files that are labels by another rule.

    Raises:
        AmbiguousLayoutError: if a series has several labels.
    """
    inside = {number: paths[number] for number in scanned if paths[number].is_relative_to(source)}
    files = {
        number: _candidate(path, source)
        for number, path in inside.items()
        if number not in known and (scanned[number].nifti or scanned[number].reason == "volume_file")
    }
    apply_given(list(files.values()), given)
    roles = {one.role for one in files.values()} - {"skip"}
    if roles != {"label"}:
        return {}
    series = _SeriesIndex(
        source, [(inside[n], one.headers[0]) for n, one in scanned.items() if n in inside and one.headers]
    )
    labels = {number: one for number, one in files.items() if one.role == "label"}
    found = {number: own for number, one in labels.items() if (own := series.of_label(one))}
    counts = Counter(one for own in found.values() for one in own)
    if several := sum(count > 1 for count in counts.values()):
        raise AmbiguousLayoutError(
            f"{several} DICOM series have several label files, which mark different classes",
            "they mark the same finding, by several readers or with several methods",
            "merge the files of (1) to one with class numbers, or keep one of (2): exclude the others with "
            "--role 'GLOB=skip'",
        )
    return found


class _SeriesIndex:
    """The DICOM series of a source: the folder of the first file of each, and its patient."""

    def __init__(self, source: Path, slices: Sequence[tuple[Path, Header]]) -> None:
        self._patients = {header.series: header.patient or header.study for _, header in slices}
        first = {header.series: path.parent / "image.nii" for path, header in reversed(slices)}
        self._images = {one: _candidate(path, source) for one, path in first.items()}
        self._index = ImageIndex(list(self._images.values()))

    def of_label(self, label: Candidate) -> tuple[str, ...]:
        """Return the series that a label may belong to."""
        unit = label.words.unit
        below = [one for one, image in self._images.items() if image.words.unit[: len(unit)] == unit]
        if len({self._patients[one] for one in below}) == 1:
            return tuple(below)
        named = self._index.images_of(label)
        return tuple(one for one, image in self._images.items() if image in named)


def _candidate(path: Path, source: Path) -> Candidate:
    words = PathWords(path.relative_to(source).as_posix())
    return Candidate(path, words, words.role)
