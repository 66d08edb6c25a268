import json
import sqlite3

import pytest

from medmim.data.dataset.manifest import read_dataset
from medmim.errors import RunError
from medmim.stages.compare import compare_runs


@pytest.fixture(scope="module")
def compared(study):
    return compare_runs([study.tuned.run_id, study.scratch.run_id], home=study.home)


def test_pretraining_is_compared_with_scratch(compared, study):
    arms = compared.comparison.arms
    assert [arm.name for arm in arms] == ["scratch", "spark mesh 0.7 decoder_width=8"]
    assert [arm.runs for arm in arms] == [(study.scratch.run_id,), (study.tuned.run_id,)]
    assert arms[1].score.mean == pytest.approx(study.tuned.metrics["test/dice"])
    assert arms[1].by_label["core"] == pytest.approx(study.tuned.metrics["test/dice_core"])
    assert "too few patients to say" in compared.comparison.verdicts[0]
    assert not any("differ" in warning for warning in compared.comparison.warnings)


def test_the_report_lies_in_the_home_folder(compared, study):
    assert compared.report.is_file()
    assert compared.report.is_relative_to(study.home / "reports")
    said = compared.as_json()
    assert {"arms", "pairs", "verdicts", "report"} <= said.keys()
    json.dumps(said, allow_nan=False)


def test_nothing_to_compare_is_told(home):
    with pytest.raises(RunError, match="run `medmim finetune segment` first"):
        compare_runs([], home=home)


def test_a_pretraining_cannot_be_compared(study):
    with pytest.raises(RunError, match="is no fine-tuning run"):
        compare_runs([study.pretrained.run_id], home=study.home)


def test_nothing_tells_where_the_data_are_or_who_the_patients_are(compared, study):
    """Everything that a run leaves in the store and in reports: database, artifacts, pages."""
    dataset = read_dataset(study.data)
    secrets = {str(study.data), study.data.name, study.data.parent.name}
    for volume in dataset.volumes:
        secrets |= {volume.subject, volume.study + "/", volume.series, volume.image}
    with sqlite3.connect(study.home / "mlflow.db") as database:
        written = "\n".join(database.iterdump())
    kept = {"mlflow.db": written.encode()}
    for folder in ("artifacts", "reports", "checkpoints"):
        kept |= {str(path): path.read_bytes() for path in (study.home / folder).rglob("*") if path.is_file()}
        kept |= {f"name of {path}": path.name.encode() for path in (study.home / folder).rglob("*")}
    assert len(kept) > 30
    for place, content in kept.items():
        for secret in secrets:
            assert secret.encode() not in content, f"{secret} in {place}"
