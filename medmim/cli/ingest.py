"""`medmim ingest`."""

from __future__ import annotations

from pathlib import Path

import click

from medmim.cli.options import home, json_option, phases, print_result


@click.command(
    "ingest",
    epilog="""\b
Examples:
  medmim ingest /dicom
  medmim ingest /dicom --labels /masks --out lung-data
  medmim ingest --as msd /data/Task04_Hippocampus""",
)
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default="medmim-data", show_default=True, help="Dataset folder."
)
@click.option(
    "--labels", type=click.Path(path_type=Path), help="Folder of <SeriesInstanceUID>.nii.gz label volumes."
)
@click.option("layout", "--as", help="Descriptor of a known data set, such as msd.  [default: recognised]")
@click.option("--name", help="Name of the dataset (no patient's).  [default: the descriptor's, or 'dataset']")
@click.option("--workers", type=int, help="Processes.  [default: one a core]")
@json_option
def command(
    *,
    source: Path,
    out: Path,
    labels: Path | None,
    layout: str | None,
    name: str | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Turn the scans below SOURCE into a dataset folder: checked, pseudonymised, split by patient.

    Every file ends in the ledger: accepted, quarantined or skipped, with a reason.
    """
    from medmim.stages.ingest import ingest

    with phases() as progress:
        info = ingest(
            source,
            out,
            labels=labels,
            layout=layout,
            name=name,
            workers=workers,
            home=home(),
            progress=progress,
        )
    counts = info.counts
    lines = [
        f"dataset      {out}",
        f"files        {counts['files_seen']} seen = {counts['files_accepted']} accepted + "
        f"{counts['files_quarantined']} quarantined + {counts['files_skipped']} skipped",
        f"volumes      {counts['volumes']} of {counts['subjects']} subjects, {counts['labels']} with labels",
        f"splits       train {counts['train']}, val {counts['val']}, test {counts['test']}",
        *(f"  {number:6d}  {reason}" for reason, number in info.reasons.items()),
        "next         medmim pretrain",
    ]
    print_result({"dataset": str(out), **counts, "reasons": info.reasons}, as_json=as_json, lines=lines)
