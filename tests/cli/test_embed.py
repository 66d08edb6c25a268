"""The command `medmim embed`."""

import json

from click.testing import CliRunner

from medmim.cli import main


def test_the_file_and_the_picture_are_reported(study, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDMIM_HOME", str(study.home))
    out = tmp_path / "features.parquet"
    words = ["embed", "--data", str(study.data), "--model", study.tuned.run_id, "--out", str(out)]
    result = CliRunner().invoke(main, [*words, "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.splitlines()[-1])
    assert (told["embeddings"], told["images"]) == (str(out), 10)
    assert out.with_suffix(".png").is_file()
