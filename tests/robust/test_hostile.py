"""Damaged and malicious files: each gets its row, nothing crashes, hangs, escapes or eats the memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from dicom_maker import write_series
from hostile import hostile_files
from mutations import mutated

from medmim.data.ingest.sources import walk
from medmim.files import read_jsonl

MAX_GIB = 4.5
GOLDEN = Path(__file__).with_name("golden_hostile.txt")


def ingest(source: Path, out: Path, *words: str) -> tuple[list[dict], str, float]:
    """Run the real command; return the ledger, stderr and the seconds that it took."""
    line = [sys.executable, "-m", "medmim", "ingest", str(source), "--out", str(out), "--json", *words]
    surroundings = {**os.environ, "MEDMIM_HOME": str(out.parent / "home")}
    started = time.monotonic()
    ran = subprocess.run(line, env=surroundings, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "internal error" not in ran.stderr
    assert "Traceback" not in ran.stderr
    counts = json.loads(ran.stdout.splitlines()[-1])
    rows = list(read_jsonl(out / "ledger.jsonl"))
    fates = Counter(row["fate"] for row in rows)
    assert counts["files_seen"] == len(rows) == sum(fates.values())
    return rows, ran.stderr, time.monotonic() - started


def below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def check_golden(source: Path, rows: list[dict]) -> None:
    """Each file has the fate and reason that the table gives for its kind."""
    lines = GOLDEN.read_text(encoding="utf-8").splitlines()[1:]
    golden = {kind: (fate, reason) for fate, reason, kind in (line.split(" ", 2) for line in lines)}
    fates = {row["number"]: (row["fate"], row["reason"]) for row in rows}
    found = {one.path: fates[one.number] for one in walk(source) if one.path.parent.name != "zz sound"}
    assert {path.parent.name for path in found} == set(golden)
    wrong = {
        str(path.relative_to(source)): fate
        for path, fate in found.items()
        if fate != golden[path.parent.name]
    }
    assert not wrong


def check(source: Path, tmp_path: Path, capsys) -> list[dict]:
    """Ingest a folder of bad files with one sound series among them, which must come through."""
    write_series(source / "zz sound", series="1.2.777", patient="sound", study="1.2.7")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    rows, _, seconds = ingest(source, tmp_path / "out")
    assert sum(not row.get("member") for row in rows) >= len(below(source))
    accepted = [row for row in rows if row["fate"] == "accepted"]
    assert sum(row["reason"].startswith("volume") for row in accepted) >= 6
    after = {path for path in tmp_path.rglob("*") if path.is_file()}
    strays = [p for p in after - before if not p.is_relative_to(tmp_path / "out") and "home" not in p.parts]
    assert not strays
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    assert peak < MAX_GIB
    common = dict(Counter(row["reason"] for row in rows).most_common(12))
    with capsys.disabled():
        sys.stderr.write(f"\n{len(rows)} rows, {seconds:.1f} s, peak {peak:.2f} GiB a process: {common}\n")
    return rows


def write(source: Path, files) -> None:
    for name, content in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)


def test_hand_built_files(tmp_path, capsys):
    write(tmp_path / "in", hostile_files(1).items())
    check_golden(tmp_path / "in", check(tmp_path / "in", tmp_path, capsys))


def test_some_mutated_files(tmp_path, capsys):
    write(tmp_path / "in", mutated(1, 150))
    check(tmp_path / "in", tmp_path, capsys)


@pytest.mark.slow
def test_all_hand_built_files(tmp_path, capsys):
    made = hostile_files(3)
    assert len(made) >= 180
    write(tmp_path / "in", made.items())
    check_golden(tmp_path / "in", check(tmp_path / "in", tmp_path, capsys))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_250_mutated_files(seed, tmp_path, capsys):
    write(tmp_path / "in", mutated(100 + seed, 250))
    check(tmp_path / "in", tmp_path, capsys)
