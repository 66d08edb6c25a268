"""The MLflow server behind a token, so that other users of this machine can neither read nor change runs.

`medmim ui` starts this module as a process of its own; the token is in its environment.
"""

from __future__ import annotations

import hmac
import os
import sys
from http.cookies import SimpleCookie
from urllib.parse import parse_qs

import uvicorn
from mlflow.server.constants import (
    ARTIFACT_ROOT_ENV_VAR,
    BACKEND_STORE_URI_ENV_VAR,
    REGISTRY_STORE_URI_ENV_VAR,
)
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from medmim.stages.ui import TOKEN

_COOKIE = "medmim_token"
_OPEN = ("/health", "/version")
_REFUSAL = "open the address that `medmim ui` printed, or set MLFLOW_TRACKING_TOKEN to the token in it"


class TokenGate:
    """ASGI application that passes on requests with the token: cookie, bearer token, or in the address."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan" or scope["path"] in _OPEN or self._is_known(Headers(scope=scope)):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._first_answer(scope)(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    def _is_known(self, headers: Headers) -> bool:
        cookie = SimpleCookie(headers.get("cookie", "")).get(_COOKIE)
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        return self._fits(cookie.value if cookie else "") or self._fits(bearer)

    def _fits(self, word: str) -> bool:
        return hmac.compare_digest(word.encode(), self.token.encode())

    def _first_answer(self, scope: Scope) -> Response:
        """Turn the token of an address into a cookie, which the browser keeps until it is closed."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        if not self._fits(given[0]):
            return PlainTextResponse(_REFUSAL, status_code=403)
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(_COOKIE, self.token, httponly=True, samesite="lax")
        return response


def main(database_uri: str, artifacts_uri: str, port: str) -> None:
    """Serve a store on the loopback address until a signal ends the process."""
    os.environ[BACKEND_STORE_URI_ENV_VAR] = os.environ[REGISTRY_STORE_URI_ENV_VAR] = database_uri
    os.environ[ARTIFACT_ROOT_ENV_VAR] = artifacts_uri
    from mlflow.server.fastapi_app import app  # reads the variables above

    gate = TokenGate(app, os.environ.pop(TOKEN))
    uvicorn.run(gate, host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
