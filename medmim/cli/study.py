"""`medmim study`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medmim.cli.compare import comparison_lines
from medmim.cli.options import (
    cluster_options,
    home,
    json_option,
    note_server,
    path_option,
    print_result,
    set_option,
)
from medmim.cli.progress import log_line

if TYPE_CHECKING:
    from medmim.stages.study.engines import StudyEngine
    from medmim.stages.study.runner import StudyResult


@click.command(
    "study",
    epilog="""\b
Examples:
  medmim study --init my_study.yaml
  medmim study quick --data medmim-data --dry-run
  medmim study quick --data medmim-data
  medmim study mesh_mask --max-hours 2.5 --set seeds=[0,1]
  medmim study my_study.yaml --set pretrain.steps=500
  medmim study mesh_mask --engine ray --address head:6379 --gpus 0.5""",
)
@click.argument("config", required=False)
@path_option(
    "--init", "template", help="Write a commented study file and its JSON schema to this path, and stop."
)
@path_option("--data", help="Dataset folder.  [default: from CONFIG]")
@click.option("--dry-run", is_flag=True, help="Print the plan, trials and predicted hours; run nothing.")
@click.option("--max-hours", type=float, help="Start only trainings that should end within this time.")
@click.option("--promote", is_flag=True, help="Make the best model champion if the test allows it.")
@cluster_options(
    "Where trainings run; ray: a cluster whose nodes see --data and MEDMIM_HOME at the same paths."
)
@click.option(
    "--gpus", type=float, help="GPUs per training on the cluster; 0.5 lets two share one.  [default: 0]"
)
@set_option
@json_option
def command(
    *,
    config: str | None,
    template: Path | None,
    data: Path | None,
    dry_run: bool,
    max_hours: float | None,
    promote: bool,
    overrides: tuple[str, ...],
    as_json: bool,
    **where: Any,
) -> None:
    """Compare masks, methods and label budgets: CONFIG is a YAML file or a preset.

    Every arm, and a control without pretraining, is trained and tested under the same conditions. The same
    command resumes an interrupted study: finished trainings are not repeated.
    """
    if template:
        _write_template(template, as_json=as_json)
        return
    if config is None:
        raise click.UsageError("expected CONFIG, a YAML file or a preset; `--init my_study.yaml` writes one")
    from medmim.config.study import StudySettings
    from medmim.config.yaml_settings import resolve

    settings = resolve(StudySettings, config=config, flags={"data": data}, overrides=overrides)
    # after the settings, whose errors need no PyTorch
    from medmim.stages.study.runner import StudyOptions, study

    note_server()
    with _engine(**where) as found:
        done = study(
            settings,
            home=home(),
            options=StudyOptions(dry_run, max_hours, promote, config),
            engine=found,
            log=log_line,
        )
    following = "medmim predict SCANS, or medmim report"
    if dry_run or done.left or done.failures:
        following = "the same command without --dry-run" if dry_run else "the same command, which continues"
    print_result(done.as_json(), as_json=as_json, lines=study_lines(done), following=following)
    if done.failures:
        click.get_current_context().exit(1)


def _write_template(path: Path, *, as_json: bool) -> None:
    from medmim.config.reference import write_template

    written, schema = write_template(path)
    lines = [f"written  {written}", f"schema   {schema}"]
    print_result(
        {"written": str(written), "schema": str(schema)},
        as_json=as_json,
        lines=lines,
        following=f"medmim study {shlex.quote(str(written))} --dry-run",
    )


@contextmanager
def _engine(*, engine: str, address: str | None, gpus: float | None) -> Iterator[StudyEngine | None]:
    """Connect to the given cluster; yield None for the local engine."""
    if engine == "local":
        if address is not None or gpus is not None:
            raise click.UsageError("--address and --gpus describe a cluster: expected --engine ray")
        yield None
        return
    if address is None:
        raise click.UsageError("--engine ray: expected --address, such as --address head:6379")
    from medmim.data.sandbox.ray_cluster import connect_ray
    from medmim.stages.study.engines import RayStudyEngine

    with connect_ray(address, gpus=gpus or 0.0) as ray:
        yield RayStudyEngine(ray)


def study_lines(done: StudyResult) -> list[str]:
    """Return the comparison (or the plan if no trial is finished), then postponed and failed trainings."""
    lines = (
        comparison_lines(done.compared) if done.compared else [one.job.title for one in done.plan.trainings]
    )
    lines += [f"postponed: {title}" for title in done.left]
    return [*lines, *(f"failed: {failure}" for failure in done.failures)]
