"""Segmentations of 3D Slicer (.seg.nrrd): named segments in one or several layers of label values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medmim.data.formats.class_names import clean_class_name
from medmim.data.formats.nifti import Image
from medmim.data.formats.overlapping_classes import draw_classes
from medmim.data.formats.volumes import read_layers
from medmim.data.formats.write_volume import encode_image

SLICER_NAMES = (".seg.nrrd",)


def read_slicer_segments(path: str) -> list[tuple[int, str]]:
    """Return label value and name of each named segment; meant for a sandbox.

    Raises:
        DataError: if the file cannot be read.
    """
    _, _, metadata = read_layers(Path(path))
    return [(value, name) for value, _, name in _segments(metadata)]


def number_slicer_segments(path: str, numbers: Mapping[str, int], target: str) -> int:
    """Write the segments as one label with these class numbers by name; meant for a sandbox.

    Where segments of several classes overlap, the smaller one stays visible.

    Returns:
        Number of voxels that several classes mark.

    Raises:
        DataError: if the file cannot be read.
    """
    layers, affine, metadata = read_layers(Path(path))
    masks = [(layers[layer] == value, numbers[name]) for value, layer, name in _segments(metadata)]
    merged, overlap = draw_classes(masks, layers.shape[1:])
    Path(target).write_bytes(encode_image(Image(merged, affine)))
    return overlap


def _segments(metadata: Mapping[str, str]) -> list[tuple[int, int, str]]:
    """Return label value, layer and name of each segment; names other than plain words become numbers."""
    found = []
    for place in range(len(metadata)):
        name = metadata.get(f"Segment{place}_Name", "").strip()
        value, layer = (metadata.get(f"Segment{place}_{key}", "") for key in ("LabelValue", "Layer"))
        if not name:
            break
        number = int(value) if value.isdecimal() else place + 1
        found.append((number, int(layer) if layer.isdecimal() else 0, clean_class_name(name, number)))
    return found
