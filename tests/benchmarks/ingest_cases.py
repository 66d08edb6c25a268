"""Ingest every case of a folder; compare images/labels/patients, or the stop, with what is expected.

python tests/benchmarks/ingest_cases.py CASES --table docs/results/ingest_cases.csv
python tests/benchmarks/ingest_cases.py CASES --vendor dcm_qa dcm_qa_reference

A case is a folder with `in/`, or a .tar.gz of one. The column `expected` of the table is kept and may list
alternatives with |; all others are rewritten. `--vendor` adds a row that counts the reference volumes whose
voxels and affine are those of one ingested volume.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np

from medmim.data.dataset.manifest import Dataset, read_dataset
from medmim.data.formats import geometry
from medmim.data.formats.nifti import Image, read_image
from medmim.data.sandbox.sandbox import Sandbox, for_scans
from medmim.errors import MedmimError
from medmim.files import read_jsonl
from medmim.stages.ingest import ingest

_COLUMNS = ("case", "expected", "outcome", "right", "boxes", "splits", "contrasts", "notes")


def outcome_of(source: Path, work: Path, sandbox: Sandbox) -> dict[str, str]:
    """Return the row of a case."""
    try:
        ingest(source, work / "out", home=work / "home", sandbox=sandbox)
    except MedmimError as error:
        rows = read_jsonl(work / "out" / "ledger.jsonl") if (work / "out" / "ledger.jsonl").exists() else []
        reasons = Counter(row["reason"] for row in rows if row["fate"] != "accepted")
        return {"outcome": "stop", "notes": " ".join([str(error.reason), *sorted(reasons)])}
    dataset = read_dataset(work / "out")
    volumes = dataset.volumes
    labels = sum(one.label is not None for one in volumes)
    notes = {str(warning["kind"]) for warning in dataset.info.warnings}
    notes |= {repair for one in volumes for repair in one.repairs}
    notes |= {f"{name}={value}" for one in volumes for name, value in one.flags.items()}
    notes |= {
        row["reason"] for row in read_jsonl(work / "out" / "ledger.jsonl") if row["fate"] == "quarantined"
    }
    splits = Counter(one.split for one in volumes)
    return {
        "outcome": f"{len(volumes)}/{labels}/{len({one.subject for one in volumes})}",
        "boxes": str(sum(len(one.boxes) for one in volumes) or ""),
        "splits": " ".join(f"{name}={count}" for name, count in sorted(splits.items(), key=str)),
        "contrasts": " ".join(sorted({"+".join(one.tokens) or one.modality for one in volumes})),
        "notes": " ".join(sorted(notes)),
    }


def vendor_row(source: Path, reference: Path, work: Path, sandbox: Sandbox) -> dict[str, str]:
    """Return the row of a vendor folder: how many reference volumes equal one ingested volume each."""
    ingest(source, work / "out", home=work / "home", sandbox=sandbox)
    dataset = read_dataset(work / "out")
    counts = Counter(_matches(dataset, image) for image in _references(reference))
    equal, total = counts[1], counts.total()
    return {
        "case": f"vendor {source.name}",
        "expected": f"{total} of {total} equal",
        "outcome": f"{equal} of {total} equal",
        "right": "yes" if equal == total else "no",
    }


def _references(folder: Path) -> list[Image]:
    found = []
    for path in sorted(folder.glob("*.nii*")):
        image = nib.load(path)
        array = np.asanyarray(image.dataobj)
        times = array.shape[3] if array.ndim == 4 else 1
        parts = [array[..., time] if array.ndim == 4 else array for time in range(times)]
        found += [Image(part, np.asarray(image.affine, np.float64)) for part in parts]
    return found


def _matches(dataset: Dataset, reference: Image) -> int:
    """Return the number of volumes with the voxels and the affine (within 0.001 mm) of a reference."""
    count = 0
    for volume in (one for one in dataset.volumes if one.slices):
        image = read_image(dataset.root / volume.image)
        turned = geometry.align_axes(reference, image.affine)
        equal = turned is not None and np.array_equal(turned.array, image.array)
        count += equal and geometry.corner_distance(image.array.shape, image.affine, turned.affine) < 1e-3
    return count


def main() -> None:
    """Write the table and print its counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path)
    parser.add_argument("--table", type=Path, default=Path("docs/results/ingest_cases.csv"))
    parser.add_argument("--vendor", type=Path, nargs=2)
    options = parser.parse_args()
    known = {}
    if options.table.exists():
        with options.table.open(newline="") as stream:
            known = {row["case"]: row["expected"] for row in csv.DictReader(stream)}
    rows = []
    with for_scans(1) as sandbox, tempfile.TemporaryDirectory() as folder:
        for place, case in enumerate(sorted(options.cases.iterdir())):
            work = Path(folder) / str(place)
            work.mkdir()
            source, name = case / "in", case.name.removesuffix(".tar.gz")
            if case.name.endswith(".tar.gz"):
                with tarfile.open(case) as archive:
                    archive.extractall(work / "case", filter="tar")
                source = next((work / "case").rglob("in"), work / "case")
            if not source.is_dir():
                continue
            row = {"case": name, "expected": known.get(name, ""), **outcome_of(source, work, sandbox)}
            rows.append({**row, "right": "yes" if row["outcome"] in row["expected"].split("|") else "no"})
        if options.vendor:
            rows.append(vendor_row(*options.vendor, Path(folder) / "vendor", sandbox))
    with options.table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, _COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    sys.stdout.write(f"{sum(row['right'] == 'yes' for row in rows)} of {len(rows)} right\n")


if __name__ == "__main__":
    main()
