import json

import numpy as np
import threshold
from click.testing import CliRunner

from medmim.cli import main


def test_scores_are_printed_as_lines_and_json(tiny_dataset, tmp_path, home):
    weights = str(threshold.write_model(tmp_path / "model", 0.3, mirror_axes=[]))
    words = ["evaluate", "--data", str(tiny_dataset), "--model", weights, "--out", str(tmp_path / "out")]
    words += [word for pair in ("ball=core", "ball=rim") for word in ("--label-map", pair)]
    lines = CliRunner().invoke(main, words, catch_exceptions=False)
    assert lines.exit_code == 0
    assert "contamination  it is unknown" in lines.stdout
    found = CliRunner().invoke(main, [*words, "--json"], catch_exceptions=False)
    content = json.loads(found.stdout.splitlines()[-1])
    assert content["contamination"]["verdict"] == "unknown"
    assert np.isfinite([row["value"] for row in content["scores"]]).all()
    refused = CliRunner().invoke(main, words[:5])
    assert refused.exit_code == 2
