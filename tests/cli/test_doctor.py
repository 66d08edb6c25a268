"""`medmim doctor`: its lines, its JSON, and the exit code of a failed check."""

import json

from command_line import medmim


def test_a_home_that_is_a_file_fails_with_advice(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    result = medmim("doctor", "--data", tmp_path, "--json")
    assert result.exit_code == 2
    assert "expected a folder, got a file" in result.stderr


def test_every_check_has_a_line_and_an_entry(home, tmp_path):
    result = medmim("doctor", "--data", tmp_path, "--json")
    checks = json.loads(result.stdout.splitlines()[-1])["checks"]
    assert result.exit_code == any(check["status"] == "bad" for check in checks)
    lines = medmim("doctor", "--data", tmp_path).stdout.splitlines()
    assert lines[-1].split("  ")[0] == "next"
    assert all(any(line[6:].startswith(check["name"]) for line in lines) for check in checks)
