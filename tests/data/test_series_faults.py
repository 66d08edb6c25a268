"""Twenty faults of a series, each with ten seeds: the volume is correct by the analytic truth, or refused.

A generated scene is known at every point of space. A volume is correct if each voxel has the scene's value at
the position that its affine gives; any other result that is not refused or noted as repaired is a silent
error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_maker import task_of, unit
from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medmim.data.dicom.convert_with_decoder import convert_with_decoder
from medmim.data.dicom.series import group_slices
from medmim.data.dicom.slices import RejectedSlices, SingleImage, Slice, SliceStack
from medmim.data.formats.nifti import Image, read_image
from medmim.data.ingest.dicom_series import _DAMAGE
from medmim.data.ingest.scan import scan_file

MR = "1.2.840.10008.5.1.4.1.1.4"
ROWS, COLUMNS, COUNT = 12, 14, 12
Fault = Callable[[list[FileDataset], np.random.Generator], list[FileDataset]]


class Scene:
    """A series with random spacing, direction and position, of a scene that is known everywhere."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        turn = np.linalg.qr(self.rng.normal(size=(3, 3)))[0]
        self.orientation = np.array(unit(tuple(turn[:, :2].T.ravel().tolist())))
        self.normal = np.cross(self.orientation[:3], self.orientation[3:])
        self.spacing = self.rng.uniform(0.6, 1.5, 2)
        self.step = float(self.rng.uniform(1.5, 4.0))
        self.origin = self.rng.uniform(-80, 80, 3)
        self.wave = self.rng.uniform(-0.09, 0.09, 3)

    def values(self, lps: np.ndarray) -> np.ndarray:
        """Return the scene at places in mm (LPS): smooth, and different everywhere along each axis."""
        return 2000.0 + 900.0 * np.sin(lps @ self.wave) + 3.0 * (lps @ self.wave)

    def position(self, place: float) -> np.ndarray:
        return self.origin + place * self.step * self.normal

    def slice(self, place: int) -> FileDataset:
        return self.slice_at(self.position(place), place)

    def slice_at(
        self, position: np.ndarray, place: int, orientation: np.ndarray | None = None
    ) -> FileDataset:
        axes = (self.orientation if orientation is None else orientation).reshape(2, 3)
        rows, columns = np.mgrid[:ROWS, :COLUMNS]
        lps = (
            position
            + (columns * self.spacing[1])[..., None] * axes[0]
            + (rows * self.spacing[0])[..., None] * axes[1]
        )
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MR
        meta.MediaStorageSOPInstanceUID = f"1.2.3.{place + 1}"
        made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        made.SOPClassUID, made.SOPInstanceUID, made.Modality = MR, f"1.2.3.{place + 1}", "MR"
        made.StudyInstanceUID, made.SeriesInstanceUID, made.PatientID = "1.2", "1.2.3", "P"
        made.SeriesNumber, made.InstanceNumber, made.AcquisitionNumber = 1, place + 1, 1
        made.ImageType, made.EchoTime = ["ORIGINAL", "PRIMARY", "M"], 10
        made.Rows, made.Columns, made.SamplesPerPixel = ROWS, COLUMNS, 1
        made.PhotometricInterpretation = "MONOCHROME2"
        made.BitsAllocated = made.BitsStored = 16
        made.HighBit, made.PixelRepresentation = 15, 0
        made.PixelSpacing, made.SliceThickness = (
            [round(v, 6) for v in self.spacing.tolist()],
            round(self.step, 6),
        )
        made.SpacingBetweenSlices = round(self.step, 6)
        made.ImageOrientationPatient = [round(v, 9) for v in axes.ravel().tolist()]
        made.ImagePositionPatient = [round(v, 6) for v in position.tolist()]
        made.PixelData = np.rint(self.values(lps)).astype(np.uint16).tobytes()
        return made


def _rows(made: list[FileDataset], scene: Scene, middle: int) -> list[FileDataset]:
    made[middle].Rows, made[middle].PixelData = ROWS - 2, made[middle].PixelData[: (ROWS - 2) * COLUMNS * 2]
    return made


def _set(name: str, value: Any) -> Callable[..., list[FileDataset]]:
    def change(made: list[FileDataset], scene: Scene, middle: int) -> list[FileDataset]:
        setattr(made[middle], name, value)
        return made

    return change


def _drop(name: str) -> Callable[..., list[FileDataset]]:
    def change(made: list[FileDataset], scene: Scene, middle: int) -> list[FileDataset]:
        delattr(made[middle], name)
        return made

    return change


def _missing(made: list[FileDataset], scene: Scene, middle: int) -> list[FileDataset]:
    return made[:middle] + made[middle + 1 :]


def _every_second(made: list[FileDataset], scene: Scene, middle: int) -> list[FileDataset]:
    return made[::2]


def _two_at_one_place(made: list[FileDataset], scene: Scene, middle: int) -> list[FileDataset]:
    made[middle].ImagePositionPatient = made[middle + 1].ImagePositionPatient
    return made


def _same_instance(made: list[FileDataset], scene: Scene, middle: int) -> list[FileDataset]:
    made[middle].SOPInstanceUID = made[middle + 1].SOPInstanceUID
    return made


def _turned(made: list[FileDataset], scene: Scene, middle: int) -> list[FileDataset]:
    axes = np.concatenate([scene.orientation[3:], -scene.orientation[:3]])
    made[middle] = scene.slice_at(scene.position(middle), middle, axes)
    return made


def _a_little_turned(made: list[FileDataset], scene: Scene, middle: int) -> list[FileDataset]:
    axes = scene.orientation[:3] * np.cos(0.1) + scene.normal * np.sin(0.1)
    made[middle] = scene.slice_at(
        scene.position(middle), middle, np.concatenate([axes, scene.orientation[3:]])
    )
    return made


def _moved(share: float, sideways: bool) -> Callable[..., list[FileDataset]]:
    def change(made: list[FileDataset], scene: Scene, middle: int) -> list[FileDataset]:
        way = scene.orientation[:3] * scene.spacing[1] if sideways else scene.normal * scene.step
        made[middle] = scene.slice_at(scene.position(middle) + share * way, middle)
        return made

    return change


def _tilted(made: list[FileDataset], scene: Scene, middle: int) -> list[FileDataset]:
    drift = scene.orientation[3:] * scene.step * np.tan(np.radians(5 + middle))
    return [scene.slice_at(scene.position(place) + place * drift, place) for place in range(COUNT)]


def _wider(made: list[FileDataset], scene: Scene, middle: int) -> list[FileDataset]:
    for place in range(middle, COUNT):
        made[place] = scene.slice_at(scene.position(middle + (place - middle) * 1.4), place)
    return made


def _localiser(made: list[FileDataset], scene: Scene, middle: int) -> list[FileDataset]:
    axes = np.concatenate([scene.orientation[:3], scene.normal])
    return [*made, scene.slice_at(scene.origin, COUNT, axes)]


def _second_time(made: list[FileDataset], scene: Scene, middle: int) -> list[FileDataset]:
    again = [scene.slice(place) for place in range(COUNT)]
    for place, one in enumerate(again):
        one.SOPInstanceUID, one.InstanceNumber = f"1.2.4.{place}", COUNT + place + 1
    return [*made, *again[:middle]]


def _other_patient(made: list[FileDataset], scene: Scene, middle: int) -> list[FileDataset]:
    made[middle].PatientID = "Q"
    return made


def _shuffled(made: list[FileDataset], scene: Scene, middle: int) -> list[FileDataset]:
    for one in made:
        del one.InstanceNumber
    return [made[place] for place in scene.rng.permutation(COUNT)]


def _reversed_numbers(made: list[FileDataset], scene: Scene, middle: int) -> list[FileDataset]:
    for one in made:
        one.InstanceNumber = int(scene.rng.integers(1, 99))
    return made[::-1]


FAULTS: dict[str, Callable[..., list[FileDataset]]] = {
    "a slice is missing": _missing,
    "every second slice is missing": _every_second,
    "two slices at one place": _two_at_one_place,
    "two contents of one instance": _same_instance,
    "a slice is turned in its plane": _turned,
    "a slice is a little out of its plane": _a_little_turned,
    "a slice has other rows": _rows,
    "a slice has another spacing": _set("PixelSpacing", [2.0, 2.0]),
    "a slice is half a step up": _moved(0.5, False),
    "a slice is a pixel to the side": _moved(1.0, True),
    "the gantry is tilted": _tilted,
    "the step changes in the middle": _wider,
    "a localiser is in the series": _localiser,
    "a second time that is not whole": _second_time,
    "numbers are missing and files shuffled": _shuffled,
    "numbers are wrong": _reversed_numbers,
    "a slice without a position": _drop("ImagePositionPatient"),
    "a slope is not a number": _set("RescaleSlope", "NaN"),
    "a slice has an intercept of its own": _set("RescaleIntercept", 500),
    "a slice of another patient": _other_patient,
}


def outcome(name: str, seed: int, folder: Path) -> str:
    """Ingest one faulty series; return refused, right, repaired or picture, or why it is a silent error."""
    scene = Scene(seed)
    made = FAULTS[name](
        [scene.slice(place) for place in range(COUNT)], scene, int(scene.rng.integers(2, COUNT - 3))
    )
    slices, blocked = [], {}
    seen: dict[str, list[Slice]] = {}
    for number, dataset in enumerate(made):
        path = folder / f"{number}"
        dataset.save_as(path, enforce_file_format=False)
        scanned = scan_file(path)
        if scanned.series and scanned.reason in _DAMAGE:
            blocked[scanned.series] = "damaged_series"
        for header in scanned.headers:
            same = seen.setdefault(header.instance, [])
            if header.position in [one.header.position for one in same]:  # as in `volumes_from_dicom`
                blocked[header.series] = "duplicate_instance"
            slices.append(Slice(number, path, header))
            same.append(slices[-1])
    found = [
        "refused" if isinstance(group, RejectedSlices) else _judged(group, scene, folder)
        for group in group_slices(slices, blocked)
    ]
    wrong = [one for one in found if one not in ("refused", "right", "picture", "repaired")]
    return wrong[0] if wrong else "right" if "right" in found else found[0]


def _judged(group: SliceStack | SingleImage, scene: Scene, folder: Path) -> str:
    if isinstance(group, SingleImage):
        return "picture"
    task = task_of(group, folder)
    if convert_with_decoder(task).reason:
        return "refused"
    return _compared(read_image(Path(task.target)), group, scene)


def _compared(image: Image, stack: SliceStack, scene: Scene) -> str:
    """Compare every voxel with the scene at the position that the affine gives."""
    indices = np.indices(image.array.shape).reshape(3, -1).T
    ras = indices @ image.affine[:3, :3].T + image.affine[:3, 3]
    offsets = np.array([one.header.intercept for one in stack.slices])[indices[:, 2]]
    truth = scene.values(ras * [-1, -1, 1]) + offsets
    covered = image.array.ravel() > image.array.min() if stack.repairs else np.ones(len(truth), bool)
    difference = np.abs(image.array.ravel() - truth)[covered].max()
    slope = 900.0 * float(
        np.linalg.norm(scene.wave)
    )  # grey values per mm: half a pixel is allowed if it is noted
    allowed = 1.5 + (0.5 * slope * scene.spacing.max() if stack.repairs else 1e-3 * slope)
    places = np.array([one.header.position for one in stack.slices]) * [-1, -1, 1]
    columns = np.outer(np.arange(len(places)), image.affine[:3, 2]) + image.affine[:3, 3]
    if not stack.repairs and (off := np.abs(columns - places).max()) > 1e-4:
        return f"slices are off by {off:.6f} mm"
    if difference > allowed:
        return f"values are off by {difference:.1f} and allowed are {allowed:.1f}"
    return "repaired" if stack.repairs else "right"


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_refused_repaired_or_harmless(tmp_path: Path, name: str):
    assert outcome(name, 0, tmp_path) in ("refused", "right", "repaired")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 10))
def test_faults_are_refused_repaired_or_harmless_with_any_seed(tmp_path: Path, seed: int):
    for name in FAULTS:
        (tmp_path / name).mkdir()
        assert outcome(name, seed, tmp_path / name) in ("refused", "right", "repaired"), name


def test_the_check_finds_a_silent_error(tmp_path: Path):
    """Two slices exchange their pixels, which no header shows."""
    scene = Scene(0)
    made = [scene.slice(place) for place in range(COUNT)]
    made[4].PixelData, made[5].PixelData = made[5].PixelData, made[4].PixelData
    slices = []
    for number, dataset in enumerate(made):
        dataset.save_as(tmp_path / f"{number}")
        header = scan_file(tmp_path / f"{number}").header
        assert header is not None
        slices.append(Slice(number, tmp_path / f"{number}", header))
    (stack,) = group_slices(slices, {})
    assert isinstance(stack, SliceStack)
    assert "off by" in _judged(stack, scene, tmp_path)
    assert dcmread(tmp_path / "4").Rows == ROWS
