"""The slices of a source found again for the volumes of its dataset, by the keys that the manifest keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medmim import files
from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.dicom.slices import Slice, own_place
from medmim.data.formats.geometry import Affine
from medmim.data.ingest.pseudonyms import Keys
from medmim.data.ingest.scan import ScannedFile, scan_file_as_json
from medmim.data.ingest.sources import walk
from medmim.data.sandbox.sandbox import Sandbox
from medmim.errors import DataError

Instances = Mapping[str, Sequence[Slice]]


def find_instances(source: Path, dataset: Dataset, *, keys: Keys, sandbox: Sandbox) -> Instances:
    """Read the headers of accepted DICOM files again; return their slices by the key of their instance.

    Args:
        source: folder that the dataset was made from.
        dataset: of which volumes keep keys of their slices.
        keys: that the dataset was made with.
        sandbox: where files are parsed.
    """
    if not any(volume.slices for volume in dataset.volumes):
        return {}
    used = {row["number"] for row in files.read_jsonl(dataset.root / "ledger.jsonl") if row["volume"]}
    paths = {one.number: one.file for one in walk(source) if one.number in used}
    tasks = [{"path": str(path)} for path in paths.values()]
    answers = sandbox.run_each(scan_file_as_json, tasks, keep=ScannedFile.model_validate)
    found: dict[str, list[Slice]] = defaultdict(list)
    for (number, path), answer in zip(paths.items(), answers, strict=True):
        for header in answer.value.headers if answer.value else ():
            found[keys.key("instance", header.instance)].append(Slice(number, path, header))
    return found


def slices_of_volume(volume: VolumeRecord, affine: Affine, instances: Instances) -> list[dict[str, Any]]:
    """Return where each slice of a volume's third axis lies in the source, as `write_segmentation` takes it.

    Args:
        volume: row of the manifest.
        affine: of its file, voxel → mm in RAS.
        instances: slices by key.

    Raises:
        DataError: with reason source_not_found (in an archive, say), no_place_in_space (pictures),
            mosaic_source or frames_unclear.
    """
    return [_told(_one(instances.get(key, ()), affine, place)) for place, key in enumerate(volume.slices)]


def _one(candidates: Sequence[Slice], affine: Affine, place: int) -> Slice:
    """Return the one slice that lies at a place of the third axis."""
    if not candidates:
        raise _refusal("source_not_found")
    kind = candidates[0].header.kind
    if kind == "tile":
        raise _refusal("mosaic_source")
    if candidates[0].header.position is None:
        raise _refusal("no_place_in_space")
    if kind == "slice" and len(candidates) == 1:
        return candidates[0]
    back = np.linalg.inv(affine)
    positions = np.array([one.header.position for one in candidates]) * [-1.0, -1.0, 1.0]
    heights = np.rint(positions @ back[2, :3] + back[2, 3])
    here = [one for one, height in zip(candidates, heights, strict=True) if height == place]
    if len(here) != 1:
        raise _refusal("frames_unclear")
    return here[0]


def _told(one: Slice) -> dict[str, Any]:
    header = one.header
    return {
        "file": str(one.path),
        "frame": None if header.kind == "slice" else header.frame,
        "place": own_place(header),
        "size": [header.rows, header.columns],
    }


def _refusal(reason: str) -> DataError:
    return DataError("no DICOM-SEG: its slices cannot be referred to", reason=reason)
