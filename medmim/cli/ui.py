"""`medmim ui`."""

from __future__ import annotations

import click

from medmim.cli.options import home


@click.command("ui", epilog="\b\nExample:\n  medmim ui --port 5001")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port on 127.0.0.1."
)
def command(*, port: int) -> None:
    """Start the MLflow UI for the local runs, on this machine only; stop it with Ctrl-C.

    On a shared machine, other users can open the port and change runs while the server is running.
    """
    from medmim.stages.ui import pages, serve

    found = pages(home(), port=port)
    click.echo(f"http://127.0.0.1:{port}  (stop with Ctrl-C; open to all users of this machine)", err=True)
    for name, address in found:
        click.echo(f"  {name}: {address}", err=True)
    serve(home(), port=port)
