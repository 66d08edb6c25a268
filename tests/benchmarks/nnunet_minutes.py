"""Test Dice of nnU-Net and of medmim after the same processor minutes, for the same training patients.

    python -m tests.benchmarks.nnunet_minutes --data hippo --python NNUNET/bin/python --work FOLDER

Both train from random weights on one core and are scored by `medmim evaluate` on the test patients. nnU-Net's
own plan is meant for a GPU; `nnunet small` takes half its channels, and the patch and batch of medmim's plan.
Rows are appended to docs/results/nnunet_minutes.csv when they are finished; existing rows are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

Row = dict[str, Any]

COLUMNS = ("dataset", "arm", "version", "minutes", "steps", "seed", "dice", "low", "high", "patients")
NUMBER, FOLDER = "7", "Dataset007_Compared"
MEDMIM = [sys.executable, "-m", "medmim"]


def run(words: list[str], **settings: str) -> Row:
    """Run a program on one core and return the JSON object of its last line, if it has one."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}")
    lines = ran.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines and lines[-1].startswith('{"') else {}


def dice_of(answer: Row) -> Row:
    """Return mean Dice of the test patients with its interval."""
    score = next(row for row in answer["scores"] if row["metric"] == "dice")
    return {"dice": score["value"], **{key: score[key] for key in ("low", "high", "patients")}}


def prepared(given: argparse.Namespace) -> dict[str, str]:
    """Export the dataset, let nnU-Net plan it, and write the small plans; return nnU-Net's environment."""
    names = ("raw", "preprocessed", "results")
    settings = {f"nnUNet_{name}": str(given.work / name) for name in names}
    settings |= {"nnUNet_n_proc_DA": "0", "nnUNet_compile": "f", "PYTHONPATH": ""}
    raw, planned = given.work / "raw" / FOLDER, given.work / "preprocessed" / FOLDER
    if (planned / "smallPlans.json").is_file():
        return settings
    run([*MEDMIM, "export", "--data", str(given.data), "--datalist", "nnunet", "--out", str(raw)])
    program = "import nnunetv2.experiment_planning.plan_and_preprocess_entrypoints as e; "
    words = ["-c", f"{program}e.plan_and_preprocess_entry()", "-d", NUMBER, "-c", "3d_fullres", "-np", "1"]
    # the planner takes this number for PyTorch's threads, which 0 is not
    run([str(given.python), *words], **{**settings, "nnUNet_n_proc_DA": "1"})
    shutil.copy2(raw / "splits_final.json", planned)
    plans = json.loads((planned / "nnUNetPlans.json").read_text(encoding="utf-8"))
    configuration = plans["configurations"]["3d_fullres"]
    network = configuration["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [width // 2 for width in network["features_per_stage"]]
    configuration |= {"batch_size": 2, "patch_size": [32, 40, 32]}
    text = json.dumps({**plans, "plans_name": "smallPlans"})
    (planned / "smallPlans.json").write_text(text, encoding="utf-8")
    return settings


def nnunet(plans: str, given: argparse.Namespace, minutes: float) -> Row:
    """Train nnU-Net, predict the test images, and score the label maps."""
    settings = prepared(given)
    out = given.work / f"{plans}-{minutes:g}-{given.seed}"
    images = given.work / "raw" / FOLDER / "imagesTs"
    side = Path(__file__).with_name("nnunet_minutes_side.py")
    words = [str(side), NUMBER, plans, f"{minutes:g}", str(given.seed), str(images), str(out)]
    answer = run([str(given.python), *words], **settings)
    if answer["predictions"] != len(list(images.glob("*.nii.gz"))):  # `evaluate` counts missing ones as empty
        sys.exit(f"{out}: expected a label map of every test image, got {answer['predictions']}")
    score = ["evaluate", "--data", str(given.data), "--predictions", str(out), "--metrics", "dice", "--json"]
    scored = run([*MEDMIM, *score, "--out", f"{out}-scores"])
    version = " torch ".join(answer["versions"].values())
    return {"version": version, "steps": answer["iterations"], **dice_of(scored)}


def medmim(precision: str, given: argparse.Namespace, minutes: float) -> Row:
    """Train medmim's default recipe in this precision; `finetune` scores the test patients."""
    words = ["finetune", "segment", "--data", str(given.data), "--init", "scratch", "--json"]
    settings = {"minutes": minutes, "time_source": "processor", "seed": given.seed, "precision": precision}
    words += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    answer = run([*MEDMIM, *words], MEDMIM_HOME=str(given.work / "home"))
    commit = ["git", "rev-parse", "--short", "HEAD"]
    version = subprocess.run(commit, capture_output=True, text=True, check=True).stdout.strip()
    return {"version": version, "steps": int(answer["metrics"]["last/steps"]), **dice_of(answer)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Append the rows that the table lacks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="dataset folder of `medmim ingest`")
    parser.add_argument("--python", type=Path, help="Python of an environment with nnunetv2")
    parser.add_argument("--work", type=Path, required=True, help="folder for trainings and predictions")
    parser.add_argument("--arms", nargs="+", default=[*ARMS], choices=[*ARMS])
    parser.add_argument("--minutes", type=float, nargs="+", default=[5, 15, 30, 60], help="processor minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/nnunet_minutes.csv"))
    given = parser.parse_args(arguments)
    known = pd.read_csv(given.out) if given.out.is_file() else pd.DataFrame(columns=COLUMNS)
    done = set(zip(known["arm"], known["minutes"], known["seed"], strict=True))
    for minutes in sorted(given.minutes):
        for arm in given.arms:
            if (arm, minutes, given.seed) in done:
                continue
            row = ARMS[arm](given, minutes)
            whole = {"dataset": given.data.name, "arm": arm, "minutes": minutes, "seed": given.seed, **row}
            table = pd.DataFrame([whole], columns=COLUMNS)
            table.to_csv(
                given.out, mode="a", header=not given.out.is_file(), index=False, float_format="%.4g"
            )
            sys.stdout.write(f"{whole}\n")


ARMS = {
    "nnunet": partial(nnunet, "nnUNetPlans"),
    "nnunet small": partial(nnunet, "smallPlans"),
    "medmim": partial(medmim, "bf16"),
    "medmim fp32": partial(medmim, "fp32"),
}

if __name__ == "__main__":
    main()
