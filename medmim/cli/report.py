"""`medmim report`."""

from __future__ import annotations

import click

from medmim.cli.models import MODEL_HEAD, model_cells
from medmim.cli.options import home, json_option, print_result
from medmim.cli.runs import RUN_HEAD, run_cells


@click.command("report", epilog="\b\nExample:\n  medmim report")
@json_option
def command(*, as_json: bool) -> None:
    """Write one page that links all reports and shows models, runs and training curves.

    The page is reports/index.html in the folder of runs; it needs no network and no server.
    """
    from medmim.stages.report_index import write_index
    from medmim.stages.store_listing import list_models, list_runs

    models, runs = list_models(home()), list_runs(home())
    cells = ([model_cells(one) for one in models], [run_cells(one) for one in runs])
    page = write_index(home(), heads=(MODEL_HEAD, RUN_HEAD), cells=cells)
    lines = [f"page     {page}", f"content  {len(runs)} runs, {len(models)} registered models"]
    print_result({"page": str(page), "runs": len(runs), "models": len(models)}, as_json=as_json, lines=lines)
