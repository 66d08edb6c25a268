"""NIfTI files with a fourth axis: channels of one case, or time points of a series.

Frames are channels if `dataset.json` declares as many, as in tasks 1 and 5 of the Medical Segmentation
Decathlon: every frame becomes a volume with the token channel0, channel1, …, all of one visit, so that they
can be used alone or as channels. More than `MAX_CHANNELS` frames, tokens such as bold and dwi, a time step in
the header, or 3D images of the same patient (as in ACDC) mean a time series: it is quarantined, or every
time point becomes a volume on request. Otherwise the user decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medmim.data.formats.nifti import frames_of
from medmim.data.formats.volumes import is_nifti
from medmim.data.ingest.cases import LayoutCase
from medmim.data.ingest.context import READ_LIMITS, IngestContext
from medmim.data.ingest.infer_roles import AmbiguousLayoutError

MAX_CHANNELS = 10
_TIME_WORDS = frozenset(("bold", "dwi", "dti", "asl", "perf"))


def split_frames(
    context: IngestContext, cases: Sequence[LayoutCase], *, beside_dicom: bool
) -> tuple[LayoutCase, ...]:
    """Return the cases, with one case for every frame of files with a fourth axis.

    Cases of a time series that is not wanted stay as they are: reading them fails with reason time_series.
    Beside DICOM series, which would be lost too, files that may be either are not wanted.

    Raises:
        AmbiguousLayoutError: if frames may be channels or time points.
    """
    files = [case.image for case in cases if is_nifti(case.image)]
    tasks = [{"path": str(context.file(path))} for path in files]
    answers = context.each("headers", frames_of, tasks, limits=READ_LIMITS)
    found = {path: answer.value or (1, False) for path, answer in zip(files, answers, strict=True)}
    counts = {case.image: found.get(case.image, (1, False))[0] for case in cases}
    series = {case.subject for case in cases if counts[case.image] == 1}  # as in ACDC
    timed = {case.image for case in cases if case.subject in series or found[case.image][1]}
    choice = context.options.time_series
    readings = {case.image: _reading(case, counts[case.image], timed=case.image in timed) for case in cases}
    unclear = [counts[path] for path, reading in readings.items() if reading is None]
    if unclear and choice == "ask" and not beside_dicom:
        numbers = " or ".join(map(str, sorted(set(unclear))))
        raise AmbiguousLayoutError(
            f"the {numbers} frames of {len(unclear)} NIfTI files with 4 axes are channels of one image",
            "they are time points, such as of a cine",
            "decide with --time-series channels for (1), with volumes (every time point an image) or reject "
            "for (2), or declare the channels in dataset.json, as in "
            '"channel_names": {"0": "T1", "1": "T2"}',
        )
    split: list[LayoutCase] = []
    for case in cases:
        count, reading = counts[case.image], readings[case.image] or choice
        if reading == "channels":
            tokens = [(*case.tokens, f"channel{frame}") for frame in range(count)]
            split += [replace(case, frame=frame, tokens=own) for frame, own in enumerate(tokens)]
        elif reading != "image" and choice == "volumes":
            split += [replace(case, frame=frame) for frame in range(count)]
        else:
            split.append(case)
    return tuple(split)


def _reading(case: LayoutCase, count: int, *, timed: bool) -> str | None:
    """Return whether a file is an image, channels or a series; None if it may be either of the latter.

    Args:
        case: image and what its path implies.
        timed: the header gives a time step, or the patient has images without a fourth axis.
    """
    if count == 1:
        return "image"
    if case.declared_channels == count <= MAX_CHANNELS:
        return "channels"
    return "series" if timed or count > MAX_CHANNELS or _TIME_WORDS & set(case.tokens) else None


def frame_path(case: LayoutCase, source: Path) -> str:
    """Return the path of an image below the source, with the number of its frame, as key of the volume."""
    path = case.image.relative_to(source)
    return str(path) if case.frame is None else f"{path}#{case.frame}"
