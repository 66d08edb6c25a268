"""What commands create is private whatever the umask of the process is."""

import os
import stat

import pytest
from click.testing import CliRunner

from medmim.cli import main
from medmim.files import SHARED
from medmim.tracking.mlflow_store import Store


@pytest.mark.parametrize(("words", "forbidden"), [([], 0o077), (["--shared"], 0o007)])
def test_home_and_store_are_private_under_any_umask(words, forbidden, tiny_dataset, tmp_path, monkeypatch):
    given = ["--data", str(tiny_dataset), "--steps", "1", "--batch-size", "2", "--set", "monitors=false"]
    monkeypatch.delenv(SHARED, raising=False)
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    before = os.umask(0)
    try:
        result = CliRunner().invoke(main, ["pretrain", *given, *words])
        assert os.umask(0) == 0  # that of the caller is restored
    finally:
        os.umask(before)
        os.environ.pop(SHARED, None)
    assert result.exit_code == 0, result.output
    paths = [tmp_path / "home", *(tmp_path / "home").rglob("*")]
    assert "mlflow.db" in {path.name for path in paths}
    assert all(stat.S_IMODE(path.stat().st_mode) & forbidden == 0 for path in paths)


def test_packs_unpacked_stores_and_reports_are_private_under_any_umask(new_home, tmp_path, monkeypatch):
    monkeypatch.delenv(SHARED, raising=False)
    own = new_home()
    run = Store(own).begin(experiment="s", name="s", tags={"study": "s", "stage": "pretrain"})
    run.text("note.txt", "text")
    run.finish("FINISHED")
    out, there = tmp_path / "packs" / "s.zip", tmp_path / "there"
    before = os.umask(0)
    try:
        for home, words in ((own, f"pack s --out {out}"), (there, f"unpack {out}"), (there, "report")):
            monkeypatch.setenv("MEDMIM_HOME", str(home))
            result = CliRunner().invoke(main, words.split())
            assert result.exit_code == 0, result.output
    finally:
        os.umask(before)
    paths = [out.parent, out, there, *there.rglob("*")]
    assert {"index.html", "note.txt"} <= {path.name for path in paths}
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in paths)
