import json

import pytest
from click.testing import CliRunner

from medmim.cli import main
from medmim.data.dataset.manifest import read_dataset
from medmim.tracking.mlflow_store import Store

WORDS = ["demo", "--patients", "5", "--pretrain-steps", "2", "--finetune-steps", "2", "--json"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The result of one demo, its output folder and what it said."""
    out = tmp_path_factory.mktemp("demo")
    result = CliRunner().invoke(main, [*WORDS, "--out", str(out)])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1]), out, result.stderr


def test_it_says_where_it_is(demo):
    _, _, stderr = demo
    for step in range(1, 6):
        assert f"{step}/5" in stderr
    assert "Traceback" not in stderr


def test_it_ends_with_a_comparison_against_scratch(demo):
    found, _, _ = demo
    assert {"arms", "pairs", "verdicts", "report", "panels", "home"} <= found.keys()
    assert [arm["name"] for arm in found["arms"]] == ["scratch", "spark mesh 0.7"]
    # five patients leave one for the test: there is no verdict, and a sentence says why
    assert found["verdicts"] == []
    assert any("expected 2 or more test patients with a score, got 1" in note for note in found["warnings"])


def test_it_leaves_pictures_and_a_report(demo):
    found, out, _ = demo
    assert set(found["panels"]) == {"reconstruction", "segmentation"}
    for path in (*found["panels"].values(), found["report"]):
        assert path.startswith(str(out))
        with open(path, "rb") as stream:  # noqa: PTH123
            assert len(stream.read()) > 1000


def test_every_file_was_accounted_for(demo):
    _, out, _ = demo
    dataset = read_dataset(out / "dataset-0-5")
    counts = dataset.info.counts
    fates = [counts[f"files_{fate}"] for fate in ("accepted", "quarantined", "skipped")]
    assert counts["files_seen"] == sum(fates)
    assert counts["files_quarantined"] > 0
    assert dataset.labelled


def test_the_models_are_registered(demo):
    found, _, _ = demo
    from pathlib import Path

    versions = Store(Path(found["home"])).client.search_model_versions("name = 'demo-segment'")
    assert len(versions) == 2
