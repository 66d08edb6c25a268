"""A checked volume as a file of the dataset, and the facts of it for the manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from medmim import files
from medmim.data.fingerprint import pixels_digest
from medmim.data.nifti import Image, encode_image


def store(image: Image, target: Path) -> dict[str, Any]:
    """Write a volume with a header of our own and return its facts for the manifest."""
    content = encode_image(image)
    files.write_bytes(target, content)
    return {
        "shape": list(image.array.shape),
        "spacing_mm": [round(length, 6) for length in image.spacing_mm],
        "orientation": image.orientation,
        "sha256": hashlib.sha256(content).hexdigest(),
        "pixels_sha256": pixels_digest(image),
    }
