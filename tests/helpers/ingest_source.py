"""Small sources for ingestion (volumes, labels, pictures), and readers of what ingestion wrote."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from medmim.data.dataset.manifest import Dataset, LedgerRow, read_dataset
from medmim.data.formats.nifti import Image
from medmim.data.formats.write_volume import encode_image
from medmim.files import read_jsonl
from medmim.stages.ingest import ingest

GRID = np.diag([-1.0, -1.0, 2.0, 1.0])


def scan_array(seed: int = 0, shape: tuple[int, ...] = (8, 7, 6)) -> np.ndarray:
    """Return noise with many different values, as scans have."""
    return np.random.default_rng(seed).integers(1, 900, shape).astype(np.int16)


def label_array(seed: int = 0, shape: tuple[int, ...] = (8, 7, 6), classes: int = 1) -> np.ndarray:
    """Return a label with one block of voxels for each class."""
    array = np.zeros(shape, np.uint8)
    for number in range(1, classes + 1):
        array[1 + (seed + number) % 4, 2:5, number % shape[2]] = number
    return array


def save_volume(path: Path, array: np.ndarray, affine: np.ndarray = GRID) -> None:
    """Write a NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(Image(array, affine)))


def save_picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 50)) -> None:
    """Write a picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8)).save(path)


def save_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def run_ingest(root: Path, **options: Any) -> Dataset:
    """Ingest `root`/in to `root`/out and return the dataset."""
    ingest(root / "in", root / "out", home=root / "home", **{"workers": 1, **options})
    return read_dataset(root / "out")


def read_ledger(root: Path) -> list[LedgerRow]:
    """Return the ledger of `root`/out; its rows must be numbered without gaps."""
    rows = [LedgerRow.model_validate(row) for row in read_jsonl(root / "out" / "ledger.jsonl")]
    assert [row.number for row in rows] == list(range(len(rows)))
    return rows


def count_fates(root: Path) -> dict[tuple[str, str], int]:
    """Return the number of files for each pair of fate and reason."""
    return dict(Counter((row.fate, row.reason) for row in read_ledger(root)))
