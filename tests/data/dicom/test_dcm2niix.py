"""Links for dcm2niix contain no path of the source and work as long as their maker lives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dcm2niix
import pytest
from dicom_maker import stack_of, task_of, write_series
from pydicom.uid import RLELossless

from medmim.data.dicom.convert_with_decoder import convert_with_decoder
from medmim.data.dicom.dcm2niix import FdLinks


def test_another_process_reads_through_a_link_without_the_path(tmp_path: Path):
    file = tmp_path / "JOHN DOE"
    file.write_bytes(b"scan")
    with FdLinks(1) as links:
        links.link(tmp_path / "0", file)
        assert "DOE" not in str((tmp_path / "0").readlink())
        assert subprocess.run(["cat", tmp_path / "0"], capture_output=True, check=True).stdout == b"scan"
    assert not (tmp_path / "0").exists()


def test_links_in_the_source_are_not_followed(tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path)
    with FdLinks(1) as links, pytest.raises(OSError, match="link"):
        links.link(tmp_path / "0", tmp_path / "link")


def test_files_are_copied_if_descriptors_run_out(tmp_path: Path):
    (tmp_path / "scan").write_bytes(b"scan")
    program = f"""
import resource
from pathlib import Path
from medmim.data.dicom.dcm2niix import FdLinks
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 90))
with FdLinks(100) as links:
    for place in range(100):
        links.link(Path({str(tmp_path)!r}) / str(place), Path({str(tmp_path / "scan")!r}))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    made = [tmp_path / str(place) for place in range(100)]
    assert [path.is_symlink() for path in made] == [True] * 26 + [False] * 74
    assert {path.read_bytes() for path in made if not path.is_symlink()} == {b"scan"}


def test_files_of_a_killed_conversion_do_not_name_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The converter lists its input folder: a kill would leave exactly these files."""
    paths = write_series(
        tmp_path / "JOHN DOE",
        count=3,
        tweak=lambda dataset, _: dataset.compress(RLELossless, generate_instance_uid=False),
    )
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\nfor last; do :; done\nls -l "$last" > {tmp_path}/listing\n')
    program.chmod(0o700)
    monkeypatch.setattr(dcm2niix, "bin", str(program))
    (tmp_path / "staging").mkdir()
    task = task_of(stack_of(paths), tmp_path, staging=str(tmp_path / "staging" / "work"))
    assert convert_with_decoder(task).shape == (10, 8, 3)
    listing = (tmp_path / "listing").read_text()
    assert listing.count("/proc/") == 3
    assert "DOE" not in listing
    assert not list((tmp_path / "staging").iterdir())
