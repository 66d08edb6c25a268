"""Smoke tests of the developer benchmarks: each runs on the smallest input."""

import json
import runpy
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from medmim.masks import MASKS

FOLDER = Path(__file__).parent


def functions_of(script):
    return runpy.run_path(str(FOLDER / script))


def test_every_mask_has_a_row_of_its_evenness_variety_and_drawing_time():
    measured = functions_of("mask_variety.py")["measured"]
    rows = {name: measured(name, 2, 0.6) for name in MASKS}
    assert rows["mesh"]["density_variance"] < 0.5 * rows["random"]["density_variance"]
    assert rows["mesh"]["distinct"] > 0.9 * rows["mesh"]["drawn"]


@pytest.mark.slow
@pytest.mark.filterwarnings("error:Corrupt cache file")
def test_loaders_are_timed_on_the_same_volumes(tiny_dataset):
    result = functions_of("data_loading.py")["bench_data_loading"](
        tiny_dataset, dims=3, batch_size=8, workers=0
    )
    assert [row.name for row in result.rows] == ["medmim", "MONAI CacheDataset", "MONAI PersistentDataset"]
    assert result.volumes == 7


def test_a_step_is_compared_with_a_supervised_one():
    script = functions_of("method_steps.py")
    trials = [
        replace(trial, encoder="dynunet")
        for trial in script["default_trials"](2, size=(16,), batch=2)
        if trial.method in ("spark", "contrastive")
    ]
    rows = script["bench_methods"](trials, runs=1, memory=False)
    assert [row.method for row in rows] == ["spark", "contrastive"]


def test_losses_are_read_from_the_log_of_nnunet():
    log = "2026-11-29: train_loss 1.1103\n2026-11-29: val_loss -0.5\n2026-11-29: train_loss -0.0542\n"
    assert functions_of("nnunet_round_trip.py")["losses_in"](log) == [1.1103, -0.0542]


def test_comparisons_are_simulated():
    script = functions_of("comparison_statistics.py")
    truth = script["Truth"](patients=6, seeds=2)
    rows = [
        *script["false_claims_and_coverage"](truth, 2),
        *script["whole_comparison"](truth, 1),
        *script["challenges"](truth, 1),
        *script["evenness"](2),
    ]
    assert len({row["question"] for row in rows}) == 6
    assert all(0 <= row["share"] <= 1 for row in rows)


def test_training_steps_are_timed_and_scores_become_rows(tmp_path):
    script = functions_of("step_speed.py")
    small = script["Network"]("segment", "dynunet", {"filters": [4, 8]}, (16, 16), 2)
    rows = list(script["step_times"]([small]))
    assert {(row["bf16"], row["channels_last"]) for row in rows} == {
        (a, b) for a in (True, False) for b in (True, False)
    }
    recipe = functions_of("recipe.py")
    score = {"metric": "dice", "value": 0.5, "low": 0.4, "high": 0.6, "patients": 3}
    answer = {"metrics": {"last/minutes": 1.0, "last/steps": 9.0}, "scores": [score]}
    recipe["append"](tmp_path / "a.csv", recipe["rows_of"](answer, dataset="d", task="segment", seed=0))
    assert (tmp_path / "a.csv").read_text().splitlines()[1] == "d,segment,,,,0,1.0,9,dice,0.5,0.4,0.6,3"


def test_rows_of_nnunet_and_medmim_that_are_in_the_table_are_not_trained_again(tmp_path):
    script = functions_of("nnunet_minutes.py")
    score = {"metric": "dice", "value": 0.5, "low": 0.4, "high": 0.6, "patients": 3, "cases": 4}
    dice = {"dice": 0.5, "low": 0.4, "high": 0.6, "patients": 3}
    assert script["dice_of"]({"scores": [{"metric": "hd95_mm"}, score]}) == dice
    table, known = tmp_path / "rows.csv", {"arm": "medmim", "minutes": 5, "seed": 0, **dice}
    pd.DataFrame([known], columns=script["COLUMNS"]).to_csv(table, index=False)
    before = table.read_text()
    words = ["--data", "nowhere", "--work", str(tmp_path), "--out", str(table)]
    script["main"]([*words, "--arms", "medmim", "--minutes", "5"])
    assert table.read_text() == before


def test_scores_are_drawn_against_the_minutes_of_pretraining(tmp_path):
    rows = pd.DataFrame({"pretrain_minutes": [0, 15, 0, 15], "dice": [0.8, 0.81, 0.82, 0.83]})
    rows["low"], rows["high"] = rows["dice"] - 0.1, rows["dice"] + 0.05
    functions_of("pretraining_minutes.py")["draw"](rows, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_scores_of_classes_numbers_and_boxes_equal_their_references():
    rows = functions_of("score_references.py")["compared"](15)
    assert {row["task"] for row in rows} == {"classify", "ordinal", "multilabel", "regress", "detect"}
    assert max(row["largest difference"] for row in rows) < 1e-12
    assert not any(row["one of both undefined"] for row in rows)


def test_masks_methods_and_packed_cells_equal_the_formulas_of_the_official_codes():
    masks, methods, packed = (functions_of(f"parity{name}.py") for name in ("", "_of_methods", "_of_packed"))
    rows = [
        *masks["count_rows"](most=40),
        *masks["reuse_rows"](samples=2),
        *masks["crop_rows"](draws=400, longest=30),
        *methods["optimizer_rows"](),
        *methods["mae_rows"](),
        *methods["latent_mim_rows"](),
        *packed["packed_rows"](),
        *packed["refusal_rows"](),
    ]
    assert [row for row in rows if not row.met] == []
    assert len(rows) > 40
    assert len(list(masks["mesh_rows"](draws=20, samples=16, grids=[(7, 7)]))) == 4
    assert len(list(masks["block_rows"](samples=20))) == 5


def test_random_convolutions_are_compared_with_a_higher_precision(capsys):
    wrong = functions_of("cpu_convolutions.py")["run_seed"]
    assert wrong(Namespace(seed=0, count=8, precision="bf16", plain=False)) == 0
    assert json.loads(capsys.readouterr().out) == {"seed": 0, "convolutions": 8, "wrong": 0}
