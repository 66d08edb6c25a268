"""Requests need the token of the address that `medmim ui` prints."""

import asyncio

import pytest
from starlette.responses import PlainTextResponse

from medmim.stages.ui_server import TokenGate


def ask(address, **headers):
    """Send a request through the gate; return status, headers and text of the answer."""
    path, _, query = address.partition("?")
    named = [(key.encode(), value.encode()) for key, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": named}
    sent = []

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        sent.append(message)

    asyncio.run(TokenGate(PlainTextResponse("runs"), "secret")(scope, receive, send))
    told = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], told, sent[1]["body"].decode()


@pytest.mark.parametrize("address", ["/", "/api", "/?token=wrong", "/?token=", "/api?token"])
@pytest.mark.parametrize("headers", [{}, {"cookie": "medmim_token="}, {"authorization": "Bearer wrong"}])
def test_a_request_without_the_token_is_refused(address, headers):
    status, _, text = ask(address, **headers)
    assert status == 403
    assert "open the address that `medmim ui` printed" in text


def test_the_printed_address_opens_the_ui_and_sets_a_cookie_that_scripts_cannot_read():
    status, told, _ = ask("/?token=secret")
    assert (status, told["location"]) == (303, "/")
    assert told["set-cookie"] == "medmim_token=secret; HttpOnly; Path=/; SameSite=lax"
    assert ask("/api", cookie="other=1; medmim_token=secret")[2] == "runs"


def test_clients_of_mlflow_send_it_as_a_bearer_token():
    assert ask("/api", authorization="Bearer secret")[2] == "runs"


def test_the_health_of_the_server_is_open():
    assert ask("/health")[2] == "runs"
