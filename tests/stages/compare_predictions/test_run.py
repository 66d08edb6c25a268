import json

import label_folders as maker
import numpy as np
import pytest
from click.testing import CliRunner

from medmim.cli import main
from medmim.errors import UsageError
from medmim.stages.compare_predictions.cases import PredictionSet, ScoredPredictions
from medmim.stages.compare_predictions.label_maps import MapOptions
from medmim.stages.compare_predictions.run import compare_predictions, described_rows


def quiet(*_):
    """Take progress."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return maker.two_tools(tmp_path_factory.mktemp("tools"), cases=10, missing=[1], shifted=[2])


def compared(root, *tools, metrics=("dice", "hd95_mm", "volume_error_ml")):
    texts = [f"{name}={root / folder}" for name, folder in tools]
    options = MapOptions(metrics=metrics)
    return compare_predictions(texts, root / "labels", options, home=root / "home", progress=quiet)


def test_a_difference_between_predictions_is_claimed_for_these_predictions(root):
    found = compared(root, ("nnunet", "good"), ("mine", "worse"))
    [contrast] = found.compared.findings.contrasts
    assert (contrast.first, contrast.second, contrast.claimed) == ("nnunet", "mine", True)
    assert "over 10 patients, one set of predictions each: evidence of a difference" in contrast.verdict
    assert "contamination of nnunet and mine: unknown" in contrast.verdict
    assert any("claims hold for these predictions only" in one for one in found.compared.findings.warnings)


def test_numbers_are_the_same_in_the_other_order_and_mirrored_under_the_other_names(root):
    first = compared(root, ("a", "good"), ("b", "worse")).compared.findings
    assert compared(root, ("b", "worse"), ("a", "good")).compared.findings.as_json() == first.as_json()
    mirrored = compared(root, ("a", "worse"), ("b", "good")).compared.findings.contrasts[0]
    assert (mirrored.first, mirrored.second) == ("b", "a")
    assert mirrored.test == first.contrasts[0].test
    assert mirrored.p_adjusted == first.contrasts[0].p_adjusted


def test_the_report_names_no_case(root):
    found = compared(root, ("nnunet", "good"), ("mine", "worse"))
    folder = found.compared.report.parent
    for path in folder.iterdir():
        assert b"case_0" not in path.read_bytes(), path.name
    page = found.compared.report.read_text()
    for words in (
        "1 of 10 cases without a prediction",
        "1 of 10 cases shifted against the label",
        "Bland–Altman",
        "HD95 (larger directed) mm",
        "mean Dice over the cases that every tool has",
    ):
        assert words in page


def test_the_interval_of_a_described_distance_stays_inside_the_patients_values(tmp_path):
    """It started below 0 or ended beyond the image, as a mean minus or plus t times its error does."""
    values = [2.1, 3.4, 2.2, 4.0, 3.1, 61.0]
    rows = tuple({"patient": f"p{who}", "hd95_mm": value} for who, value in enumerate(values))
    for count, interval in ((6, "2.1000 … 61.0000"), (5, "–")):
        scored = ScoredPredictions((rows[-count:],), {"HD95": "hd95_mm"})
        [row] = described_rows([PredictionSet("x", 0, tmp_path)], scored)
        assert (row["95 % interval"], row["patients"]) == (interval, str(count))


def test_further_trainings_of_a_tool_are_seeds(root):
    found = compared(root, ("x", "good"), ("y", "worse"), ("x", "labels"), metrics=("dice",))
    assert {arm.name: arm.seeds for arm in found.compared.findings.arms} == {"x": (0, 1), "y": (0,)}


def test_class_tables_are_compared_by_the_same_engine(tmp_path):
    rng, truth = np.random.default_rng(0), "ab" * 30
    for tool, errors in (("truth", 0.0), ("good", 0.05), ("bad", 0.5)):
        swapped = {"a": "b", "b": "a"}
        given = [swapped[one] if rng.random() < errors else one for one in truth]
        lines = [f"{number},{one}" for number, one in enumerate(given)]
        (tmp_path / f"{tool}.csv").write_text("\n".join(["image,label", *lines]))
    texts = [f"{tool}={tmp_path / tool}.csv" for tool in ("good", "bad")]
    words = {"home": tmp_path, "progress": quiet}
    found = compare_predictions(texts, tmp_path / "truth.csv", MapOptions(), **words).compared
    assert found.findings.metric == "macro-F1"
    assert found.findings.contrasts[0].claimed
    assert "Calibration in bins of equal size" in found.report.read_text()
    with pytest.raises(UsageError, match="--metrics is for label maps"):
        compare_predictions(texts, tmp_path / "truth.csv", MapOptions(metrics=("dice",)), **words)


def test_boxes_are_compared_by_the_same_engine(tmp_path):
    boxes = [{"image_id": n, "category_id": 1, "bbox": [n, 0, 10, 10]} for n in range(8)]
    truth = {"images": [{"id": n, "file_name": f"{n}.png"} for n in range(8)], "annotations": boxes}
    (tmp_path / "truth.json").write_text(json.dumps({**truth, "categories": [{"id": 1, "name": "mass"}]}))
    for tool, right in (("good", 8), ("bad", 3)):
        (tmp_path / f"{tool}.json").write_text(json.dumps([{**box, "score": 0.9} for box in boxes[:right]]))
    texts = [f"{tool}={tmp_path / tool}.json" for tool in ("good", "bad")]
    found = compare_predictions(
        texts, tmp_path / "truth.json", MapOptions(), home=tmp_path, progress=quiet
    ).compared.findings
    assert {arm.name: round(arm.mean, 2) for arm in found.arms} == {"good": 1.0, "bad": 0.38}


def test_the_command_prints_cases_that_score_0_and_json(root, monkeypatch):
    monkeypatch.setenv("MEDMIM_HOME", str(root / "home"))
    words = ["compare", "--predictions", f"a={root}/good", "--predictions", f"b={root}/worse"]
    words += ["--labels", f"{root}/labels", "--metrics", "dice"]
    lines = CliRunner().invoke(main, words).stdout
    assert "b: case_001: without a prediction; counted as wrong" in lines
    result = CliRunner().invoke(main, [*words, "--json"])
    content = json.loads(result.stdout.splitlines()[-1])
    assert [one["case"] for one in content["problems"]] == ["case_001", "case_002"]
    assert content["arms"][0]["dice"]["n"] == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--predictions", "a=."], "needs --labels"),
        (["--labels", "."], "is for --predictions"),
        (["--predictions", "a=.", "--promote"], "expected files only"),
    ],
)
def test_arguments_that_do_not_fit_together_are_rejected(words, message):
    result = CliRunner().invoke(main, ["compare", *words])
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("header", "metric", "classes"),
    [("image,value", "R²", 5), ("image,grade", "quadratic κ", 5), ("image,mass,cyst", "macro AUROC", 2)],
)
def test_numbers_grades_and_several_classes_are_compared_by_the_same_engine(
    tmp_path, header, metric, classes
):
    rng = np.random.default_rng(0)
    truth = rng.integers(classes, size=(40, header.count(",")))
    for tool, share in (("truth", 0.0), ("good", 0.05), ("bad", 0.6)):
        wrong = rng.random(truth.shape) < share
        given = np.where(wrong, rng.permutation(truth), truth)
        lines = [f"{n},{','.join(map(str, row))}" for n, row in enumerate(given)]
        (tmp_path / f"{tool}.csv").write_text("\n".join([header, *lines]))
    texts = [f"{tool}={tmp_path / tool}.csv" for tool in ("good", "bad")]
    words = {"home": tmp_path, "progress": quiet}
    findings = compare_predictions(texts, tmp_path / "truth.csv", MapOptions(), **words).compared.findings
    assert findings.metric == metric
    means = {arm.name: arm.mean for arm in findings.arms}
    assert means["good"] > means["bad"]
    again = compare_predictions(texts[::-1], tmp_path / "truth.csv", MapOptions(), **words)
    assert again.compared.findings.as_json() == findings.as_json()
