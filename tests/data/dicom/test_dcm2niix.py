"""Links to the source name no path, work while their maker lives, and become copies where they must."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_maker import make_slice

from medmim.data.dicom import convert as module
from medmim.data.dicom.convert import convert
from medmim.data.dicom.dcm2niix import FdLinks


def test_another_process_reads_through_a_link_that_says_no_path(tmp_path: Path):
    file = tmp_path / "JOHN DOE"
    file.write_bytes(b"scan")
    with FdLinks(1) as links:
        links.link(tmp_path / "0", file)
        assert "DOE" not in str((tmp_path / "0").readlink())
        assert subprocess.run(["cat", tmp_path / "0"], capture_output=True, check=True).stdout == b"scan"
    assert not (tmp_path / "0").exists()


def test_a_link_of_the_source_is_not_followed(tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path)
    with FdLinks(1) as links, pytest.raises(OSError, match="link"):
        links.link(tmp_path / "0", tmp_path / "link")


def test_copies_where_descriptors_run_out(tmp_path: Path):
    (tmp_path / "scan").write_bytes(b"scan")
    program = f"""
import resource
from pathlib import Path
from medmim.data.dicom.dcm2niix import Links
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 90))
with Links(100) as links:
    for place in range(100):
        links.link(Path({str(tmp_path)!r}) / str(place), Path({str(tmp_path / "scan")!r}))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    made = [tmp_path / str(place) for place in range(100)]
    assert [path.is_symlink() for path in made] == [True] * 26 + [False] * 74
    assert {path.read_bytes() for path in made if not path.is_symlink()} == {b"scan"}


def test_nothing_that_a_conversion_leaves_when_it_is_killed_names_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Looked at while the converter runs: a kill would leave just this."""
    left: list[str] = []

    def converter(source: Path, result: Path, *, precise: bool) -> None:
        left.extend(str(path) for path in source.iterdir())
        left.extend(str(path.readlink()) for path in source.iterdir() if path.is_symlink())

    monkeypatch.setattr(module, "run_converter", converter)
    folder = tmp_path / "JOHN DOE"
    folder.mkdir()
    for place in range(3):
        make_slice(place).save_as(folder / f"{place}", enforce_file_format=True)
    (tmp_path / "staging").mkdir()
    facts = convert(
        [str(folder / f"{place}") for place in range(3)],
        np.diag([1.25, 1.5, 3.0, 1.0]).tolist(),
        [[1.0, 0.0]] * 3,
        staging=str(tmp_path / "staging" / "work"),
        target=str(tmp_path / "target.nii.gz"),
        size=[8, 10],
    )
    assert facts["shape"] == [10, 8, 3]
    assert len(left) == 6
    assert "DOE" not in "".join(left)
    assert not list((tmp_path / "staging").iterdir())
