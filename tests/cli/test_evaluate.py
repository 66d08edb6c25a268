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
    assert "metrics        those of segment: dice for overlap" in lines.stdout
    found = CliRunner().invoke(main, [*words, "--json"], catch_exceptions=False)
    content = json.loads(found.stdout.splitlines()[-1])
    assert content["contamination"]["verdict"] == "unknown"
    assert np.isfinite([row["value"] for row in content["scores"]]).all()
    chosen = CliRunner().invoke(
        main, [*words, "--json", "--metrics", "hd95_mm, cldice"], catch_exceptions=False
    )
    content = json.loads(chosen.stdout.splitlines()[-1])
    assert [row["metric"] for row in content["scores"]][:2] == ["dice", "dice_present"]
    assert [row["metric"] for row in content["scores"]][-2:] == ["hd95_mm", "cldice"]
    assert content["metrics"] == "chosen: dice (always reported), hd95_mm, cldice"
    unknown = CliRunner().invoke(main, [*words, "--metrics", "cldise"])
    assert unknown.exit_code == 2
    assert "unknown metric of segment 'cldise'; did you mean 'cldice'?" in unknown.stderr
    refused = CliRunner().invoke(main, words[:5])
    assert refused.exit_code == 2
