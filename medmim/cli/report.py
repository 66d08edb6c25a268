"""`medmim report`."""

from __future__ import annotations

import click

from medmim.cli.models import MODEL_HEAD, model_cells
from medmim.cli.options import home, json_option, print_result
from medmim.cli.runs import RUN_HEAD, run_cells
from medmim.errors import counted

_SHOWN = 60


@click.command("report", epilog="\b\nExample:\n  medmim report")
@json_option
def command(*, as_json: bool) -> None:
    """Write one page that links all reports and shows models, runs and training curves.

    The page is reports/index.html in the folder of runs; it needs no network and no server.
    """
    from medmim.stages.report_index import write_index
    from medmim.stages.store_filters import ModelFilter, RunFilter
    from medmim.stages.store_listing import count_models, count_runs, list_models, list_runs

    models = list_models(home(), ModelFilter(newest=True, limit=_SHOWN))
    runs = list_runs(home(), RunFilter(limit=_SHOWN))
    cells = ([model_cells(one) for one in models], [run_cells(one) for one in runs])
    page = write_index(home(), heads=(MODEL_HEAD, RUN_HEAD), cells=cells, newest=runs)
    counts = {"runs": count_runs(home()), "models": count_models(home())}
    shown = f", the newest {_SHOWN} of each are shown" if max(counts.values()) > _SHOWN else ""
    content = f"{counted(counts['runs'], 'run')}, {counted(counts['models'], 'registered model')}{shown}"
    lines = [f"page     {page}", f"content  {content}"]
    following = "medmim ui" if counts["runs"] else "medmim pretrain"
    print_result({"page": str(page), **counts}, as_json=as_json, lines=lines, following=following)
