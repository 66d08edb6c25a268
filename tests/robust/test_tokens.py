"""No byte that medmim writes holds a word of the source, on good paths and on bad ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tokens import Tokens, write_corpus

from medmim.files import read_jsonl

UNFILTERED = Path(__file__).parent / "unfiltered"
SLOW = pytest.param(180, marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[20, SLOW], ids=["few-bad", "180-bad"])
def corpus(request, tmp_path_factory):
    """A folder with tokens, and what each command said and wrote about it."""
    tmp = tmp_path_factory.mktemp("tokens")
    tokens = Tokens()
    write_corpus(tmp / "in", tokens, bad=request.param)
    surroundings = {**os.environ, "MEDMIM_HOME": str(tmp / "home"), "TMPDIR": str(tmp / "temporary")}
    (tmp / "temporary").mkdir()
    said: dict[str, bytes] = {}
    source, out = str(tmp / "in"), str(tmp / "out")
    for words in (
        ["ingest", source, "--out", out, "--dry-run"],
        ["ingest", source, "--out", out],
        ["ingest", source, "--out", out, "--json"],
        ["ingest", str(tmp / "in" / "bad"), "--out", str(tmp / "nothing")],
        ["inspect", out],
        ["verify", out],
    ):
        line = [sys.executable, "-m", "medmim", *words]
        ran = subprocess.run(line, env=surroundings, capture_output=True, check=False)
        said[f"said by {' '.join(words[:1])} {len(said)}"] = ran.stdout + b"\n" + ran.stderr
        assert b"internal error" not in ran.stderr
        assert ran.returncode in (0, 1)
    return tmp, tokens, said


def written(*folders: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_corpus_is_large_and_its_series_are_accepted(corpus):
    tmp, tokens, _ = corpus
    assert len(tokens.places) >= 1200
    assert len(set(tokens.places.values())) >= 14
    rows = list(read_jsonl(tmp / "out" / "ledger.jsonl"))
    fates = Counter(row["fate"] for row in rows)
    assert fates["accepted"] >= 28, Counter(row["reason"] for row in rows)
    assert fates["quarantined"] >= 20


def test_no_token_gets_out(corpus, capsys):
    tmp, tokens, said = corpus
    contents = said | written(tmp / "out", tmp / "nothing", tmp / "home", tmp / "temporary")
    assert tokens.found_in(contents) == {}
    with capsys.disabled():
        size, kinds = sum(map(len, contents.values())), len(set(tokens.places.values()))
        sys.stderr.write(f"\n{len(tokens.places)} tokens, {kinds} kinds, {size} bytes written: 0 found\n")


def test_with_the_filter_off_the_tokens_get_out(corpus, capsys):
    """The control: the same ingestion, its allow-list, vocabulary and keys switched off in every process."""
    tmp, tokens, _ = corpus
    path = os.pathsep.join([str(UNFILTERED), *filter(None, sys.path)])
    surroundings = {**os.environ, "MEDMIM_HOME": str(tmp / "home"), "PYTHONPATH": path}
    line = [sys.executable, "-m", "medmim", "ingest", str(tmp / "in"), "--out", str(tmp / "unfiltered")]
    ran = subprocess.run(line, env=surroundings, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = tokens.found_in({"said": ran.stdout + ran.stderr} | written(tmp / "unfiltered"))
    lost = Counter(place for token, place in tokens.places.items() if token not in found)
    kinds = {tokens.places[token] for token in found}
    with capsys.disabled():
        sys.stderr.write(
            f"\nfilter off: {len(found)} of {len(tokens.places)} tokens, {len(kinds)} kinds found\n"
        )
    assert len(found) >= 0.95 * len(tokens.places), lost
    assert len(kinds) >= 14


@pytest.mark.slow
def test_no_token_reaches_the_runs(corpus):
    """One step of pretraining on the dataset: nothing in the MLflow store, the logs or the weights."""
    tmp, tokens, _ = corpus
    surroundings = {**os.environ, "MEDMIM_HOME": str(tmp / "home")}
    words = ["pretrain", "--data", str(tmp / "out"), "--steps", "1", "--size", "16", "--batch-size", "2"]
    more = ["--encoder", "dynunet", "--workers", "0", "--precision", "fp32"]
    line = [sys.executable, "-m", "medmim", *words, *more]
    ran = subprocess.run(line, env=surroundings, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    contents = {"said": ran.stdout + ran.stderr} | written(tmp / "home", tmp / "out")
    assert any(name.endswith("mlflow.db") for name in contents)
    assert tokens.found_in(contents) == {}
