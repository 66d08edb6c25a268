"""Check whether a tracking server is safe for runs: version, TLS, authentication and accepted host names."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPException
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from packaging.version import InvalidVersion, Version

from medmim.errors import counted
from medmim.stages.doctor import Check

FLOOR = Version("3.17.2")
_WAIT_S = 3.0
_REFUSED = (401, 403)
_NO_HTTP = 0
_NAME = "tracking server"
_SCHEMES = ("http", "https")
_EXPECTED = "set MLFLOW_TRACKING_URI to https://HOST[:PORT] of an MLflow server, or unset it"
_CREDENTIALS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME")


class Client:
    """HTTP client that uses no proxy and follows no redirect."""

    def get(self, url: str, *, host: str = "", authorization: str = "") -> tuple[int, str] | None:
        """Return status (0: not HTTP) and first kilobyte of the response, or None without a response."""
        headers = {"Host": host, "Authorization": authorization}
        request = urllib.request.Request(url, headers={key: value for key, value in headers.items() if value})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay())
        try:
            with opener.open(request, timeout=_WAIT_S) as answer:
                return int(answer.status), answer.read(1024).decode("utf-8", "replace")
        except urllib.error.HTTPError as refusal:
            return refusal.code, ""
        except (OSError, ValueError):  # ValueError: the host name is not valid
            return None
        except HTTPException:
            return _NO_HTTP, ""


class _Stay(urllib.request.HTTPRedirectHandler):
    """Redirect handler that follows no redirect."""

    def redirect_request(self, *words: object, **more: object) -> None:
        """Return None, so that the redirect is not followed."""


def check_server(environment: Mapping[str, str], client: Client) -> Check:
    """Check the server of `MLFLOW_TRACKING_URI`; the result does not contain the URI."""
    parts = _address(environment.get("MLFLOW_TRACKING_URI", ""))
    if parts is None:
        return Check(_NAME, "bad", "MLFLOW_TRACKING_URI cannot be read", _EXPECTED)
    if parts.scheme not in _SCHEMES:
        return Check(_NAME, "ok", "none: runs are stored locally")
    return _judge(parts, environment, client)


def _judge(parts: SplitResult, environment: Mapping[str, str], client: Client) -> Check:
    """Check the address of a server, even if the server is down, and then its responses."""
    alone, secure = _is_loopback(parts.hostname or ""), parts.scheme == "https"
    problems = [
        *([] if alone or secure else ["it is reached without TLS: use https"]),
        *_credentials_problem(environment, alone=alone, inside="@" in parts.netloc),
    ]
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    answer = _version(client, address, _authorization(environment) if alone or secure else "")
    if answer is None and problems:
        return Check(
            _NAME, "bad", f"does not answer; {counted(len(problems), 'problem')}", "; ".join(problems)
        )
    if answer is None:
        return Check(
            _NAME,
            "note",
            "does not answer",
            "runs are stored locally; run `medmim doctor` again when the server is up",
        )
    hidden = answer[0] in _REFUSED
    problems = [
        *([] if hidden else _version_problem(*answer)),
        *problems,
        *_open_problem(client, address, alone=alone),
    ]
    if problems:
        return Check(_NAME, "bad", counted(len(problems), "problem"), "; ".join(problems))
    if hidden:
        return Check(
            _NAME,
            "note",
            "does not report its version without credentials",
            f"expected MLflow {FLOOR} or newer",
        )
    return Check(_NAME, "ok", f"MLflow {answer[1].strip()}")


def _address(text: str) -> SplitResult | None:
    """Return the parts of an address, or None for an http address that is not valid."""
    try:
        parts = urlsplit(text)
        if parts.scheme not in _SCHEMES:
            return parts
        usable = parts.hostname and parts.port != 0 and not re.search(r"[\s\x00-\x1f\x7f]", text)
    except ValueError:  # an unmatched bracket, or a port that is not a number
        return None
    return parts if usable else None


def _version(client: Client, address: str, authorization: str) -> tuple[int, str] | None:
    """Request the version, with credentials only if it is refused without them."""
    answer = client.get(f"{address}/version")
    if answer and answer[0] in _REFUSED and authorization:
        return client.get(f"{address}/version", authorization=authorization) or answer
    return answer


def _authorization(environment: Mapping[str, str]) -> str:
    """Return the authorization header that MLflow's client would send, or an empty text."""
    token = environment.get("MLFLOW_TRACKING_TOKEN")
    if token:
        return f"Bearer {token}"
    user, password = (environment.get(f"MLFLOW_TRACKING_{word}", "") for word in ("USERNAME", "PASSWORD"))
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}" if user else ""


def _version_problem(status: int, text: str) -> list[str]:
    """Report versions below the floor, which are open to attacks (CVE-2026-116690 and others)."""
    if status == _NO_HTTP:
        return [f"it does not speak HTTP: {_EXPECTED}"]
    try:
        old = Version(text.strip()) < FLOOR
    except InvalidVersion:
        return ["it does not report a version: expected an MLflow server"]
    return [f"it is older than {FLOOR}: run pip install 'mlflow>={FLOOR}' on the server"] if old else []


def _credentials_problem(environment: Mapping[str, str], *, alone: bool, inside: bool) -> list[str]:
    if inside:
        return ["its address contains a password: use MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"]
    if alone or any(environment.get(word) for word in _CREDENTIALS):
        return []
    return ["no credentials are set: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or a token"]


def _open_problem(client: Client, address: str, *, alone: bool) -> list[str]:
    """Request experiments without credentials, and with a host name that is not the server's."""
    endpoint = f"{address}/api/2.0/mlflow/experiments/search?max_results=1"
    problems = []
    if not alone and _answers(client.get(endpoint)):
        problems.append("it accepts requests without credentials: start it with --app-name basic-auth")
    if _answers(client.get(endpoint, host="medmim-doctor.invalid")):
        problems.append("it accepts any host name: start it with --allowed-hosts")
    return problems


def _answers(answer: tuple[int, str] | None) -> bool:
    return answer is not None and answer[0] == 200


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
