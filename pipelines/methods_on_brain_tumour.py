"""Pretraining methods on figshare's brain tumours: what is each worth to a linear probe, at equal cost?

python pipelines/methods_on_brain_tumour.py SOURCE [--minutes 10] [--seeds 2]

SOURCE is the folder with images/ and annotations.jsonl. Every method gets the same minutes of processor time
and an encoder of about 11 million parameters; OMP_NUM_THREADS=1 counts one core. Finished cells are kept in
results.jsonl and skipped when it is started again.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import click

import medmim
from medmim import files

CNN: dict[str, Any] = {"encoder": "resnet18", "encoder_options": {}}
VIT: dict[str, Any] = {
    "encoder": "vit",
    "encoder_options": {"width": 288, "depth": 11, "heads": 6, "patch": 16},
}
SPARK = {"method": "spark", "ratio": 0.7, **CNN}
ARMS: dict[str, dict[str, Any]] = {
    "random initialisation, ResNet": CNN,
    "random initialisation, ViT": VIT,
    "SparK mesh 0.7": {**SPARK, "mask": "mesh"},
    "SparK random 0.7": {**SPARK, "mask": "random"},
    "MAE": {"method": "mae", "mask": "random", "ratio": 0.75, **VIT},
    "SimMIM": {"method": "simmim", "mask": "random", "ratio": 0.6, **VIT},
    # visible patches keep apart; a gap around every patch, as in the paper, does not divide 128 pixels
    "Latent MIM": {"method": "latent_mim", "mask": "gap", "ratio": 0.9, **VIT},
    "MaskAnyNet": {"method": "mask_any_net", "mask": "combined", "ratio": 0.25, **CNN},
    "contrastive": {"method": "contrastive", "mask": "random", "ratio": 0.5, **CNN},
}


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default="methods-study", show_default=True)
@click.option(
    "--minutes", type=float, default=10, show_default=True, help="Of processor time, of each pretraining."
)
@click.option("--steps", type=int, help="Steps of each pretraining instead of minutes.")
@click.option("--seeds", type=int, default=2, show_default=True)
@click.option("--size", type=int, default=128, show_default=True, help="Voxels along each axis.")
@click.option("--batch-size", type=int, default=16, show_default=True)
@click.option("--arm", "arms", type=click.Choice(list(ARMS)), multiple=True, help="[default: all]")
def main(*, source: Path, out: Path, seeds: int, arms: tuple[str, ...], **words: Any) -> None:
    """Run what is missing and print the table."""
    data, results = out / "dataset", out / "results.jsonl"
    if not (data / "dataset.json").is_file():
        medmim.ingest(source, data, layout="figshare_brain_tumor", home=out / "medmim-runs")
    rows = list(files.read_jsonl(results)) if results.is_file() else []
    for seed in range(seeds):
        for arm in arms or ARMS:
            if any((row["arm"], row["seed"]) == (arm, seed) for row in rows):
                continue
            rows.append({"arm": arm, "seed": seed, **_cell(ARMS[arm], out, seed, **words)})
            files.write_jsonl(results, rows)
            click.echo(f"{arm}, seed {seed}: linear macro-F1 {rows[-1]['linear_f1']:.3f}", err=True)
    for line in table(rows):
        click.echo(line)


def _cell(
    arm: dict[str, Any],
    out: Path,
    seed: int,
    *,
    minutes: float,
    steps: int | None,
    size: int,
    batch_size: int,
) -> dict[str, Any]:
    """Pretrain one method with one seed, and probe it."""
    from frozen_probe import probe  # noqa: PLC0415 (it loads PyTorch, for which --help does not wait)

    weights, found = None, {"steps": 0.0, "run_id": ""}
    if "method" in arm:
        result = medmim.pretrain(
            **arm,
            **({"steps": steps} if steps else {"minutes": minutes, "time_source": "processor"}),
            data=out / "dataset",
            dims=2,
            size=(size,),
            batch_size=batch_size,
            augment="resized",  # about as large as the probe sees them
            seed=seed,
            num_evaluations=1,
            monitors=False,
            home=out / "medmim-runs",
        )
        weights, found = result.checkpoint, {"steps": result.metrics["last/steps"], "run_id": result.run_id}
    kind = {key: arm[key] for key in ("encoder", "encoder_options")}
    probed = probe(weights, data=out / "dataset", size=size, seed=seed, **kind)
    return {**found, "linear_f1": probed.linear_f1, "knn_f1": probed.knn_f1, "images": probed.images}


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table: mean and spread over seeds, and the difference to random weights of the encoder."""
    lines = [f"{'arm':<31} seeds  steps    linear macro-F1   kNN macro-F1     against random weights"]
    random = {
        kind: [row["linear_f1"] for row in rows if row["arm"] == f"random initialisation, {kind}"]
        for kind in ("ResNet", "ViT")
    }
    for arm in dict.fromkeys(row["arm"] for row in rows):
        chosen = [row for row in rows if row["arm"] == arm]
        linear, nearest = ([row[key] for row in chosen] for key in ("linear_f1", "knn_f1"))
        base = random["ViT" if ARMS[arm]["encoder"] == "vit" else "ResNet"]
        verdict = ""
        if base and "method" in ARMS[arm]:
            verdict = f"{statistics.mean(linear) - statistics.mean(base):+.3f}"
            verdict += " above in every seed" if min(linear) > max(base) else " not above in every seed"
        steps = statistics.mean(row["steps"] for row in chosen)
        scores = f"{_spread(linear)}     {_spread(nearest)}    {verdict}".rstrip()
        lines.append(f"{arm:<31} {len(chosen):>5} {steps:>6.0f}    {scores}")
    return lines


def _spread(values: list[float]) -> str:
    deviation = f"{statistics.stdev(values):.3f}" if len(values) > 1 else "  –  "
    return f"{statistics.mean(values):.3f} ± {deviation}"


if __name__ == "__main__":
    main()
