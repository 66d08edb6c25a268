"""The command line of `medmim ingest`."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medmim.cli.next_command import data_option
from medmim.cli.options import (
    cluster_options,
    home,
    json_option,
    out_option,
    path_option,
    print_result,
)
from medmim.cli.progress import phases
from medmim.errors import counted

if TYPE_CHECKING:
    from medmim.data.dataset.manifest import Dataset, DatasetInfo
    from medmim.data.ingest.dry_run import PatientRow, SeriesRow
    from medmim.data.ingest.layout_rules import InferenceRules

_HEAD = "patient study series  type files  voxels         spacing mm       contrast           outcome"
_ROWS = 20  # of patients in a dry run


@click.command(
    "ingest",
    epilog="""\b
Examples:
  medmim ingest /dicom
  medmim ingest /dicom --dry-run
  medmim ingest /dicom --labels /masks --out lung-data
  medmim ingest /dicom --label-name 1=lesion --label-name 2=edema
  medmim ingest --as msd /data/Task04_Hippocampus
  medmim ingest /pictures --subject-pattern '^([^_]+)_' --splits splits.json
  medmim ingest /second-site --add medmim-data
  medmim ingest /dicom --engine ray --address head:6379""",
)
@click.argument("source", type=click.Path(path_type=Path))
@out_option("medmim-data", "Dataset folder.")
@path_option("--labels", help="Folder of label volumes named <SeriesInstanceUID>.nii.gz.")
@click.option(
    "layout", "--as", help="Layout: a shipped descriptor such as msd, or a YAML file.  [default: detected]"
)
@click.option("--name", help="Name of the dataset.  [default: its own, its layout's, or 'dataset']")
@click.option(
    "label_names",
    "--label-name",
    multiple=True,
    metavar="NUMBER=NAME",
    help="Name of a class in the labels, such as 1=lesion; repeat it for each class.",
)
@click.option(
    "--resample-labels",
    is_flag=True,
    help="Resample labels that are not on the grid of their image.  [default: refuse them]",
)
@click.option(
    "uneven_spacing",
    "--regrid",
    flag_value="regrid",
    help="Interpolate unevenly spaced DICOM slices on an even grid.  [default: refuse them]",
)
@click.option(
    "uneven_spacing",
    "--keep-spacing",
    flag_value="keep",
    help="Keep unevenly spaced DICOM slices as they are, and store their mean spacing.",
)
@click.option(
    "--ignore-label",
    type=click.IntRange(-(2**15), 2**16 - 1),
    help="Value of label voxels that nobody annotated, such as 255 or -1; they belong to no class.",
)
@click.option(
    "--overlap",
    type=click.Choice(["smallest", "regions"]),
    default="smallest",
    show_default=True,
    help="Where classes overlap: keep the smallest, or all, with codes for combinations and named regions.",
)
@click.option(
    "--time-series",
    type=click.Choice(["ask", "channels", "reject", "volumes"]),
    default="ask",
    help="Frames of 4D NIfTI files: volumes makes an image of every time point, channels of every undeclared "
    "channel.  [default: reject time series; stop where frames may be either]",
)
@click.option(
    "roles",
    "--role",
    multiple=True,
    metavar="GLOB=ROLE",
    help="Role of files: image, label or skip, as in '*_prob.nii.gz=skip'; repeat it, the last match counts.",
)
@click.option(
    "--subject-pattern",
    metavar="REGEX",
    help="Patient of a file: the first group of this expression in its path below SOURCE, as in '^([^/]+)/'.",
)
@path_option(
    "--subjects",
    help="Patients of files: a CSV file with the columns file (path, name or folder; for DICOM also "
    "SeriesInstanceUID or PatientID) and subject.",
)
@click.option("--class-folders", is_flag=True, help="Use the innermost folder as the class of each image.")
@path_option(
    "--splits",
    help="Splits: JSON or CSV of names, nnU-Net's splits_final.json or a MONAI datalist.  [default: random]",
)
@click.option("--splits-fold", type=int, default=0, help="Fold of --splits that is val.  [default: 0]")
@path_option("--label-map", help="CSV file with the columns label and series, for labels with other names.")
@path_option("--add", metavar="DATASET", help="Add SOURCE to this dataset; splits of its patients stay.")
@click.option(
    "source_name", "--source", help="Name of the source, such as a hospital.  [default: source-1, …]"
)
@click.option(
    "--separate-patients",
    is_flag=True,
    help="With --add: patients with the PatientID of a patient of another source are other people.",
)
@click.option("--follow-links", is_flag=True, help="Follow symbolic links that lead out of SOURCE.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one per CPU core]")
@cluster_options(
    "Where the processes run; ray: on a cluster whose nodes see SOURCE and --out at the same paths."
)
@click.option(
    "--allow-burned-in",
    is_flag=True,
    help="Accept ultrasound, secondary captures and similar images, whose pixels often show names.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print what would be ingested, from headers alone; write nothing."
)
@json_option
def command(*, source: Path, out: Path, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Convert the scans below SOURCE to a dataset folder: checked, pseudonymised, split by patient.

    SOURCE is a folder, a file or an archive. The ledger lists every file as accepted, quarantined or skipped,
    with a reason.
    """
    options["label_names"] = _names(options["label_names"])
    options["uneven_spacing"] = options["uneven_spacing"] or "reject"
    _check_engine(options, dry_run=dry_run)
    out = options["add"] or out
    options["add"] = options["add"] is not None
    if dry_run:
        options["rules"] = _rules(options)
        _show(source, out, as_json=as_json, options=options)
        return
    from medmim.data.sandbox.sandbox import for_scans

    with for_scans(options["workers"]) as sandbox, phases() as progress:
        # imported here, so that the workers import their modules at the same time
        from medmim.stages.ingest import ingest

        options["rules"] = _rules(options)
        info = ingest(source, out, home=home(), progress=progress, sandbox=sandbox, **options)
    from medmim.data.dataset.manifest import read_dataset
    from medmim.data.ingest.warning_texts import warning_text

    counts = info.counts
    lines = [
        f"dataset      {out}, named '{info.name}' (as its models will be; --name changes it)",
        f"files        {counts['files_seen']} seen = {counts['files_accepted']} accepted + "
        f"{counts['files_quarantined']} quarantined + {counts['files_skipped']} skipped",
        f"volumes      {_counts(counts['volumes'], counts['labels'], counts['subjects'])}",
        *_annotation_lines(read_dataset(out)),
        *([f"regions      {_regions(info)}"] if info.regions else []),
        f"splits       train {counts['train']}, val {counts['val']}, test {counts['test']}",
        *(f"  {number:6d}  {reason}" for reason, number in info.reasons.items()),
        *_limited([f"warning      {warning_text(one)}" for one in info.warnings]),
    ]
    option = data_option(out)
    following = f"medmim inspect{option.replace(' --data', '')}, then medmim pretrain{option}"
    result = {"dataset": str(out), **counts, "reasons": info.reasons, "warnings": list(info.warnings)}
    print_result(result, as_json=as_json, lines=lines, following=following)


def _annotation_lines(dataset: Dataset) -> list[str]:
    """Return the classes of labels, boxes and images with their numbers, so that a misread table is seen."""
    volumes, names = dataset.volumes, dataset.info.label_names if dataset.labelled else {}
    unnamed = any(name == f"class {code}" for code, name in names.items())
    hint = {"labels": " (--label-name 1=NAME names them)"} if unnamed else {}
    several = sum(bool(one.targets) for one in volumes)
    with_label = Counter(one.split for one in volumes if one.label)
    partly = 0 < with_label.total() < len(volumes)
    lines = {
        "targets": [f"{counted(several, 'image')} with values of several classes"] * bool(several),
        "labels": [f"{code} {name}" for code, name in sorted(names.items())],
        "labelled": [f"{split} {with_label[split]}" for split in ("train", "val", "test") if partly],
        "boxes": _numbers(box.name for one in volumes for box in one.boxes),
        "classes": _numbers(one.target for one in volumes if one.target is not None),
    }
    more = {kind: f" and {len(words) - 10} more" for kind, words in lines.items() if len(words) > 10}
    shown = {kind: ", ".join(words[:10]) + more.get(kind, "") for kind, words in lines.items() if words}
    return [f"{kind:12s} {words}{hint.get(kind, '')}" for kind, words in shown.items()]


def _numbers(names: Iterable[str]) -> list[str]:
    return [f"{name} {number}" for name, number in Counter(names).most_common()]


def _regions(info: DatasetInfo) -> str:
    """Return the codes of overlapping classes, and the setting that trains them."""
    table = ", ".join(f"{one.name}: [{', '.join(map(str, one.codes))}]" for one in info.regions)
    return f"overlapping classes are kept; train them with --set 'regions={{{table}}}'"


def _check_engine(options: Mapping[str, Any], *, dry_run: bool) -> None:
    if (options["engine"] == "ray") != (options["address"] is not None):
        example = "--engine ray --address head:6379"
        raise click.UsageError(f"--engine ray and --address require each other, as in {example}")
    if dry_run and options["engine"] == "ray":
        raise click.UsageError("--dry-run reads headers on this machine: omit --engine ray")


def _names(words: Sequence[str]) -> dict[int, str]:
    """Parse `--label-name 1=lesion --label-name 2=edema`."""
    names: dict[int, str] = {}
    for word in words:
        number, _, name = word.partition("=")
        if not number.strip().isdecimal() or not 0 < int(number) < 2**16 or not name.strip():
            raise click.UsageError(f"--label-name {word}: expected a class number and a name, as in 1=lesion")
        names[int(number)] = name.strip()
    if len({name.lower() for name in names.values()}) < len(names):
        raise click.UsageError("--label-name: expected a different name for each number")
    return names


def _rules(options: dict[str, Any]) -> InferenceRules:
    """Return the user's decisions about the layout, and remove them from the options."""
    from medmim.data.ingest.layout_rules import InferenceRules, SubjectRule

    roles = []
    for word in options.pop("roles"):
        glob, _, role = word.rpartition("=")
        if not glob or role not in ("image", "label", "skip"):
            expected = "a glob and image, label or skip, as in '*_prob.nii.gz=skip'"
            raise click.UsageError(f"--role {word}: expected {expected}")
        roles.append((glob, role))
    return InferenceRules(
        roles=tuple(roles),
        subjects=SubjectRule(options.pop("subject_pattern"), options.pop("subjects")),
        class_folders=options.pop("class_folders"),
    )


def _counts(images: int, labels: int, subjects: int) -> str:
    return f"{counted(images, 'image')}, {counted(labels, 'label')}, {counted(subjects, 'subject')}"


def _limited(lines: Sequence[str]) -> list[str]:
    """Return at most ten lines, and the number of the others."""
    more = [f"             and {len(lines) - 10} more in dataset.json"] if len(lines) > 10 else []
    return [*lines[:10], *more]


def _show(source: Path, out: Path, *, as_json: bool, options: Mapping[str, Any]) -> None:
    """Print the preview."""
    from medmim.stages.ingest import preview

    with phases() as progress:
        found = preview(source, out, progress=progress, **options)
    lines = [_HEAD, *(_line(row) for row in found.series)] if found.series else []
    if found.images:
        lines.append(f"layout       {found.layout or 'generic'}")
        lines.append("patient      images labels  visits contrast")
        lines += [_patient_line(row) for row in found.patients[:_ROWS]]
        if (more := len(found.patients) - _ROWS) > 0:
            lines.append(f"             and {counted(more, 'more patient')}")
        lines.append(f"volumes      {_counts(found.images, found.labels, len(found.patients))}")
    lines += [f"warning      {text}" for text in found.warnings]
    lines += [f"  {number:6d}  {reason}" for reason, number in found.others.items()]
    lines.append(f"dry run      headers of {counted(found.files_seen, 'file')} read, nothing written")
    following = f"medmim ingest {shlex.quote(str(source))}, with the same options but --dry-run"
    print_result(found.as_json(), as_json=as_json, lines=lines, following=following)


def _patient_line(row: PatientRow) -> str:
    place = f"P{row.patient:<10d} {row.images:7d} {row.labels:6d} {row.visits:7d}"
    return f"{place} {', '.join(row.contrasts)}"


def _line(row: SeriesRow) -> str:
    shape = "×".join(str(count) for count in row.shape)
    spacing = "×".join(f"{length:.3g}" for length in row.spacing_mm)
    numbers = [f"{name} {value:.4g}" for name, value in row.measured.items()]
    more = f" ({', '.join((*numbers, *row.notes))})" if numbers or row.notes else ""
    place = f"P{row.patient:<4d} {row.study:5d} {row.series:6d}  {row.modality:3s} {row.files:5d}"
    more += f" …{row.uid_tail}"
    return f"{place}  {shape:14s} {spacing:16s} {' '.join(row.tokens):18s} {row.outcome}{more}"
