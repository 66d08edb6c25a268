"""`medmim clean` lists first and removes on request."""

from click.testing import CliRunner

from medmim.cli import main


def test_files_are_listed_and_removed_only_with_yes(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path))
    left = tmp_path / "studies" / "tmpabc"
    left.mkdir(parents=True)
    (left / "weights").write_bytes(bytes(2_000_000))
    listed = CliRunner().invoke(main, ["clean"]).stdout.splitlines()
    assert listed[-2:] == ["     2.0 MB  could be removed", "next  medmim clean --yes"]
    assert CliRunner().invoke(main, ["clean", "--dry-run", "--yes"]).exit_code == 0
    assert left.exists()
    assert CliRunner().invoke(main, ["clean", "--yes"]).exit_code == 0
    assert not left.exists()
