"""How long ingestion takes next to dcm2niix, SimpleITK and dicom2nifti, which only convert: same files.

python tests/benchmarks/ingest_ratio.py --series 12 --slices 60 --size 256 --rounds 3
python tests/benchmarks/ingest_ratio.py --source /some/dicom

dicom2nifti is no dependency: `pip install --target FOLDER --no-deps dicom2nifti`, then PYTHONPATH=FOLDER.
Each program runs in a process of its own, its start included; medians of wall and processor seconds and of
peak memory, and the wall-time ratio of each round, are printed as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from scipy import ndimage

_CODE = {
    "medmim": """
import os
from medmim.cli import main
os.environ["MEDMIM_HOME"] = str(out / "home")
main(["ingest", str(source), "--out", str(out / "dataset")])
""",
    "simpleitk": """
import SimpleITK
reader = SimpleITK.ImageSeriesReader()
folders = sorted({path.parent for path in source.rglob("*") if path.is_file()})
for folder in folders:
    for series in reader.GetGDCMSeriesIDs(str(folder)):
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series))
        SimpleITK.WriteImage(reader.Execute(), str(out / f"{series}.nii.gz"))
""",
    "dcm2niix": """
import subprocess, dcm2niix
subprocess.run([dcm2niix.bin, "-z", "y", "-o", str(out), str(source)])
""",
    "dicom2nifti": """
import dicom2nifti, dicom2nifti.settings
dicom2nifti.settings.disable_validate_slicecount()
dicom2nifti.convert_directory(str(source), str(out), compression=True, reorient=False)
""",
}
_HEAD = "import sys, logging\nfrom pathlib import Path\nsource, out = Path(sys.argv[1]), Path(sys.argv[2])\n"


def make_series(folder: Path, number: int, *, slices: int, size: int) -> None:
    """Write a CT-like series: smooth anatomy, noise, air around it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(number)
    volume = ndimage.gaussian_filter(rng.normal(size=(slices, size, size)), (2, 8, 8)) * 9000
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    inside = rows**2 + columns**2 < 0.2
    volume = np.where(inside, volume + 40 + rng.normal(size=volume.shape) * 12, -1000)
    for place, pixels in enumerate(np.clip(volume, -1000, 2000) + 1024):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        meta.MediaStorageSOPInstanceUID = f"1.2.9.{number}.{place + 1}"
        made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        made.StudyInstanceUID, made.SeriesInstanceUID = f"1.2.7.{number}", f"1.2.8.{number}"
        made.FrameOfReferenceUID, made.Modality, made.PatientID = f"1.2.6.{number}", "CT", f"P{number}"
        made.PatientName, made.StudyDate, made.Manufacturer = "A^B", "20200101", "GENERATED"
        made.SeriesNumber, made.InstanceNumber, made.AcquisitionNumber = number + 1, place + 1, 1
        made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        made.Rows = made.Columns = size
        made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
        made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
        made.PixelSpacing, made.SliceThickness = [0.8, 0.8], 1.5
        made.ImageOrientationPatient, made.ImagePositionPatient = (
            [1, 0, 0, 0, 1, 0],
            [-100, -100, 1.5 * place],
        )
        made.RescaleSlope, made.RescaleIntercept = 1, -1024
        made.PixelData = pixels.astype(np.uint16).tobytes()
        made.save_as(folder / f"{place:04d}.dcm", enforce_file_format=True)


def timed(name: str, source: Path, work: Path) -> tuple[float, float, float]:
    """Run a program; return wall and processor seconds, and peak memory of its largest process (MiB)."""
    out = Path(tempfile.mkdtemp(dir=work))
    (out / "code.py").write_text(_HEAD + _CODE[name])
    words = [sys.executable, "-W", "ignore", str(out / "code.py"), str(source), str(out)]
    start = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, name)
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    """Measure in turns and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--programs", nargs="+", default=list(_CODE), choices=list(_CODE))
    for name, value in (("series", 8), ("slices", 60), ("size", 256), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder)
        source = options.source or work / "in"
        if options.source is None:
            for number in range(options.series):
                make_series(source / f"{number}", number, slices=options.slices, size=options.size)
        runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in options.programs}
        for _ in range(options.rounds):
            for name, found in runs.items():
                found.append(timed(name, source, work))
        files = sum(path.is_file() for path in source.rglob("*"))
    result: dict[str, object] = {"files": files, "rounds": options.rounds}
    for name, found in runs.items():
        wall, cpu, peak = (round(median(one[part] for one in found), 3) for part in range(3))
        result[name] = {"wall_s": wall, "cpu_s": cpu, "peak_mib": peak}
        ratios = [mine[0] / one[0] for mine, one in zip(runs["medmim"], found, strict=True)]
        result[f"medmim_over_{name}"] = [round(ratio, 2) for ratio in sorted(ratios)]
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
