import pytest

from medmim.cli.error_report import report_error, report_text


def failing(secret):
    try:
        raise OSError(f"cannot read {secret}")
    except OSError as error:
        raise KeyError(secret) from error


def caught():
    try:
        failing("SENTINEL")
    except KeyError as error:
        return error
    return None


def test_a_report_contains_types_lines_and_versions_but_no_values():
    text = report_text(caught())
    assert "KeyError" in text
    assert "OSError" in text
    assert "test_error_report:8 failing" in text
    assert "torch 2" in text
    assert "SENTINEL" not in text
    assert "/" not in text


def test_the_line_for_the_user_names_the_report(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    line = report_error(caught())
    (written,) = (tmp_path / "home" / "errors").iterdir()
    assert line.startswith("internal error, KeyError in ")
    assert str(written) in line
    assert report_error(caught()) == line
    assert written.stat().st_mode & 0o077 == 0 or written.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("home", ["file", "file/home"])
def test_an_error_is_reported_where_nothing_can_be_written(home, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / home))
    assert "; please report it (MEDMIM_DEBUG=1" in report_error(caught())
