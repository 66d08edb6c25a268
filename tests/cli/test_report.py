"""`medmim report` writes its page also in a new home."""

from click.testing import CliRunner

from medmim.cli import main


def test_a_new_home_has_a_page_too(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path))
    written = CliRunner().invoke(main, ["report"])
    assert written.exit_code == 0
    assert written.stdout.endswith("next     medmim pretrain\n")
    assert "None yet" in (tmp_path / "reports" / "index.html").read_text(encoding="utf-8")
