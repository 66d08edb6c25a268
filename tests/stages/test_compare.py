import json
import re
import sqlite3
from dataclasses import replace

import pytest

from medmim.data.dataset.manifest import read_dataset
from medmim.errors import RunError
from medmim.stages.compare import compare_runs


@pytest.fixture(scope="module")
def compared(study):
    return compare_runs([study.tuned.run_id, study.scratch.run_id], home=study.home)


def test_pretraining_is_compared_with_scratch(compared, study):
    control, arm = compared.findings.arms
    assert [control.name, arm.name] == ["scratch", "spark mesh 0.7 decoder_width=8"]
    assert [control.runs, arm.runs] == [(study.scratch.run_id,), (study.tuned.run_id,)]
    assert arm.mean == pytest.approx(study.tuned.metrics["test/dice"])
    assert arm.by_label["core"] == pytest.approx(study.tuned.metrics["test/dice_core"])
    assert (arm.columns["method"], arm.columns["mask"], arm.columns["ratio"]) == ("spark", "mesh", "0.7")
    assert arm.mask_statistics["card/realised_ratio"] == pytest.approx(0.7, abs=0.1)
    assert arm.minutes > 0
    assert "too few patients for a claim" in compared.findings.verdicts[0]
    assert compared.findings.differences == ()


def test_the_report_is_in_the_home_folder(compared, study):
    assert compared.report.is_file()
    assert compared.report.is_relative_to(study.home / "reports")
    assert re.fullmatch(r"tiny-segment-\w{8}", compared.report.parent.name)
    content = compared.as_json()
    assert {"arms", "pairs", "verdicts", "report", "scores", "warnings"} <= content.keys()
    json.dumps(content, allow_nan=False)


def test_a_printed_comparison_names_what_is_unequal_and_every_warning(compared):
    findings = replace(compared.findings, differences=("fine-tuning steps: 2 (a)",), warnings=("skewed",))
    printed = str(replace(compared, findings=findings, notes=("one run is unfinished",)))
    for line in ("unequal: fine-tuning steps: 2 (a)", "note: skewed", "note: one run is unfinished"):
        assert line in printed


def test_without_a_finished_run_there_is_an_error(home):
    with pytest.raises(RunError, match="run `medmim finetune segment` first"):
        compare_runs([], home=home)


def test_a_pretraining_cannot_be_compared(study):
    with pytest.raises(
        RunError, match=r"compare .*: expected a run of `medmim finetune`, got run .* of `medmim pretrain`"
    ):
        compare_runs([study.pretrained.run_id], home=study.home)


def test_store_and_reports_name_no_data_folder_and_no_patient(compared, study):
    """Everything that a run leaves: database, artifacts, pages."""
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
