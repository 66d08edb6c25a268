"""`medmim predict`: its JSON and its lines for people."""

import json

import numpy as np
import threshold
import tiny
from command_line import medmim

from medmim.data.formats.nifti import Image
from medmim.data.formats.write_volume import encode_image


def test_the_command_prints_json_and_lines(tmp_path, home):
    scan, weights = tmp_path / "scans" / "a.nii.gz", threshold.write_model(tmp_path / "model", 1.5)
    image, _ = tiny.blob(np.random.default_rng(0), tiny.SHAPE)
    scan.parent.mkdir()
    scan.write_bytes(encode_image(Image(image, np.eye(4))))
    words = ["predict", scan.parent, "--model", weights, "--out", tmp_path / "out"]
    result = medmim(*words, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert {"predictions", "model", "predicted", "failures", "dicom", "files", "warnings"} <= told.keys()
    result = medmim(*words)
    assert "1 predicted, 0 failed" in result.stdout
    assert "ball" in result.stdout
