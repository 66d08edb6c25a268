"""The round trip to nnU-Net on real cases: raw dataset, checkpoint, equal maps, three training iterations.

nnU-Net is installed in an environment of its own, whose Python is given:

    python -m tests.benchmarks.nnunet_round_trip --nnunet ENV/bin/python --data hippocampus --out FILE.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from medmim import __version__
from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.data.dataset.manifest import read_dataset
from medmim.stages.export.run import _windows, export
from medmim.stages.finetune.run import finetune
from medmim.stages.ingest import ingest
from medmim.stages.pretrain.run import pretrain
from medmim.training.trained_encoder import load_trained_encoder

DATASET = "Dataset004_Hippocampus"
SIDE = Path(__file__).with_name("nnunet_side.py")
TRIALS = [("pretraining", 3, "S"), ("pretraining", 2, "S"), ("fine-tuning", 3, "S")]
TRIALS += [("pretraining", 3, "L"), ("pretraining", 2, "L"), ("pretraining", 3, "M")]
CONFIGURATIONS = {2: "2d", 3: "3d_fullres"}


def run_nnunet(python: Path, work: Path, *words: str, workers: int = 1) -> str:
    """Run a program of nnU-Net's environment and return its output."""
    places = {name: str(work / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    settings = {"nnUNet_n_proc_DA": str(workers), "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ran = subprocess.run(
        [str(python), *words],
        env={**environment, **places, **settings},
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        sys.exit(f"nnU-Net failed:\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}")
    return ran.stdout


def prepare(python: Path, cases: Path, work: Path, count: int) -> Path:
    """Ingest some cases, write them as nnU-Net raw data, and let nnU-Net check and plan them."""
    data = work / "hippocampus"
    if (work / "nnUNet_preprocessed" / DATASET / "splits_final.json").is_file():  # of an earlier call
        return data
    if data.is_dir():
        return plan(python, work, data)
    for folder in ("imagesTr", "labelsTr"):
        (work / "source" / folder).mkdir(parents=True)
        for path in sorted((cases / folder).glob("hippo*.nii.gz"))[:count]:
            shutil.copy2(path, work / "source" / folder)
    ingest(work / "source", data, home=work / "home")
    export("nnunet-raw", data=data, home=work / "home", out=work / "nnUNet_raw" / DATASET)
    return plan(python, work, data)


def plan(python: Path, work: Path, data: Path) -> Path:
    """Let nnU-Net check, plan and preprocess the raw dataset."""
    program = "import nnunetv2.experiment_planning.plan_and_preprocess_entrypoints as e; "
    program += "e.plan_and_preprocess_entry()"
    words = ["-d", "4", "--verify_dataset_integrity", "-npfp", "1", "-np", "1", "1", "-c", "2d", "3d_fullres"]
    sys.stdout.write(run_nnunet(python, work, "-c", program, *words)[-600:])
    place = work / "nnUNet_preprocessed" / DATASET
    shutil.copy2(work / "nnUNet_raw" / DATASET / "splits_final.json", place)
    return data


def weights_of(kind: str, dims: int, size: str, data: Path, home: Path) -> Path:
    """Pretrain or fine-tune a `resenc` encoder for two steps."""
    settings: dict[str, Any] = {
        "data": data,
        "dims": dims,
        "encoder": "resenc",
        "encoder_options": {"size": size},
        "size": (64,) if size == "L" or dims == 2 else (32,),
        "batch_size": 2,
        "steps": 2,
        "num_evaluations": 1,
        "workers": 0,
    }
    if kind == "pretraining":
        return pretrain(PretrainSettings(**settings, ratio=0.5), home=home).checkpoint
    settings |= {"task": "segment", "init": "scratch"}
    return finetune(FinetuneSettings(**settings), home=home).checkpoint


def round_trip(python: Path, data: Path, work: Path, kind: str, dims: int, size: str) -> dict[str, Any]:
    """Export an encoder, load it in nnU-Net, and train."""
    weights = weights_of(kind, dims, size, data, work / "home")
    place = work / "nnUNet_preprocessed" / DATASET
    out = work / f"{kind}-{dims}-{size}"
    words: dict[str, Any] = {"data": data, "home": work / "home", "model": str(weights)}
    made = export("nnunet", **words, out=out, plans=place / "nnUNetPlans.json")
    shutil.copy2(out / "medmimPlans.json", place)
    trained, dataset = load_trained_encoder(weights), read_dataset(data)
    case, images = _windows(dataset, trained)
    with torch.no_grad():
        maps = {f"map{number}": one.numpy() for number, one in enumerate(trained.encoder(images))}
    volume = nibabel.as_closest_canonical(nibabel.load(data / case.image)).get_fdata(dtype=np.float32)
    np.savez(work / "maps.npz", images=images.numpy(), volume=volume, **maps)
    patch = [max(32, stride) for stride in trained.encoder.total_stride]
    part = "Ts" if case.split == "test" else "Tr"
    request = {
        "dataset": DATASET,
        "configuration": CONFIGURATIONS[dims],
        "patch": patch,
        "axes": list(range(dims))[::-1],
        "checkpoint": str(out / "checkpoint_final.pth"),
        "maps": str(work / "maps.npz"),
        "image": str(work / "nnUNet_raw" / DATASET / f"images{part}" / f"{case.id}_0000.nii.gz"),
    }
    (work / "request.json").write_text(json.dumps(request))
    told = run_nnunet(python, work, str(SIDE), str(work / "request.json"), workers=0)
    answer = json.loads(told.splitlines()[-1])
    megabytes = round((out / "checkpoint_final.pth").stat().st_size / 1e6, 1)
    row = {"kind": kind, "dims": dims, "size": size, "patch": patch, "checkpoint_mb": megabytes}
    return {**row, "difference_at_export": made.difference, **answer}


def main() -> None:
    """Run all encoders; print and write one row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nnunet", type=Path, required=True, help="Python of nnU-Net's environment")
    parser.add_argument("--data", type=Path, required=True, help="Task04 of the Decathlon")
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--work", type=Path, help="folder of intermediate files; kept")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if not (asked.data / "imagesTr").is_dir():
        sys.exit(f"skipped: no imagesTr in '{asked.data}'")
    look = "import importlib.util as u, sys; sys.exit(u.find_spec('nnunetv2') is None)"
    if not asked.nnunet.is_file() or subprocess.run([asked.nnunet, "-c", look], check=False).returncode:
        sys.exit(f"skipped: nnU-Net v2 is not installed for '{asked.nnunet}'")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = (asked.work or Path(folder)).resolve()
        data = prepare(asked.nnunet, asked.data, work, asked.cases)
        rows = []
        for trial in TRIALS:
            rows.append(round_trip(asked.nnunet, data, work, *trial))
            print(json.dumps(rows[-1]), flush=True)  # noqa: T201
            result = {"medmim": __version__, "torch": torch.__version__, "rows": rows}
            if asked.out:
                asked.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
