"""`medmim ui`."""

from __future__ import annotations

import secrets

import click

from medmim.cli.options import home


@click.command("ui", epilog="\b\nExample:\n  medmim ui --port 5001")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port on 127.0.0.1."
)
def command(*, port: int) -> None:
    """Start the MLflow UI for the local runs, on this machine only; stop it with Ctrl-C.

    Open one of the printed addresses: they contain a token, without which other users of this machine can
    neither read nor change runs.
    """
    from medmim.stages.ui import address_of, pages, require_server, serve

    require_server()
    token = secrets.token_urlsafe(24)
    found = pages(home(), port=port, token=token)
    click.echo(f"{address_of(port, token)}  (stop with Ctrl-C; the token keeps other users out)", err=True)
    for name, address in found:
        click.echo(f"  {name}: {address}", err=True)
    serve(home(), port=port, token=token)
