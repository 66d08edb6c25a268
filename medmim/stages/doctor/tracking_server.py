"""Whether a tracking server can be trusted with runs: its version, who may reach it, and under which name."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPException
from ipaddress import ip_address
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from packaging.version import InvalidVersion, Version

FLOOR = Version("3.17.2")
_WAIT_S = 3.0
_REFUSED = (401, 403)
_NO_HTTP = 0
_NAME = "tracking server"
_SCHEMES = ("http", "https")
_EXPECTED = "set MLFLOW_TRACKING_URI to https://HOST[:PORT] of an MLflow server, or unset it"
_CREDENTIALS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME")
Verdict = tuple[str, Literal["ok", "note", "bad"], str, str]


class Client:
    """Asks a server, without proxies or redirects to elsewhere."""

    def get(self, url: str, *, host: str = "", authorization: str = "") -> tuple[int, str] | None:
        """Return status and first kilobyte of the answer, or None without one; status 0: it is no HTTP."""
        headers = {"Host": host, "Authorization": authorization}
        request = urllib.request.Request(url, headers={key: value for key, value in headers.items() if value})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay())
        try:
            with opener.open(request, timeout=_WAIT_S) as answer:
                return int(answer.status), answer.read(1024).decode("utf-8", "replace")
        except urllib.error.HTTPError as refusal:
            return refusal.code, ""
        except (OSError, ValueError):  # a host name may be none that can be looked up
            return None
        except HTTPException:
            return _NO_HTTP, ""


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect."""

    def redirect_request(self, *words: object, **more: object) -> None:
        """Refuse."""


def judge_server(environment: Mapping[str, str], client: Client) -> Verdict:
    """Return name, status, finding and advice on the server of `MLFLOW_TRACKING_URI`; the URI is not quoted.

    Args:
        environment: of the process.
        client: asks the server.
    """
    parts = _address(environment.get("MLFLOW_TRACKING_URI", ""))
    if parts is None:
        return _NAME, "bad", "MLFLOW_TRACKING_URI cannot be read", _EXPECTED
    if parts.scheme not in _SCHEMES:
        return _NAME, "ok", "none: runs are kept here", ""
    return _judge(parts, environment, client)


def _judge(parts: SplitResult, environment: Mapping[str, str], client: Client) -> Verdict:
    """Judge a server by its address, which also one that is down has, and then by its answers."""
    alone, secure = _is_loopback(parts.hostname or ""), parts.scheme == "https"
    problems = [
        *([] if alone or secure else ["it is reached without TLS: put it behind https"]),
        *_credentials_problem(environment, alone=alone, inside="@" in parts.netloc),
    ]
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    answer = _version(client, address, _authorization(environment) if alone or secure else "")
    if answer is None and problems:
        return _NAME, "bad", f"does not answer; {len(problems)} problems", "; ".join(problems)
    if answer is None:
        return _NAME, "note", "does not answer", "runs are kept here; `medmim doctor` again when it is up"
    hidden = answer[0] in _REFUSED
    problems = [
        *([] if hidden else _version_problem(*answer)),
        *problems,
        *_open_problem(client, address, alone=alone),
    ]
    if problems:
        return _NAME, "bad", f"{len(problems)} problems", "; ".join(problems)
    if hidden:
        return (
            _NAME,
            "note",
            "tells its version to nobody without a password",
            f"expected MLflow {FLOOR} or newer",
        )
    return _NAME, "ok", f"MLflow {answer[1].strip()}", ""


def _address(text: str) -> SplitResult | None:
    """Return the parts of an address, or None for one of a server that nobody could ask."""
    try:
        parts = urlsplit(text)
        if parts.scheme not in _SCHEMES:
            return parts
        usable = parts.hostname and parts.port != 0 and not re.search(r"[\s\x00-\x1f\x7f]", text)
    except ValueError:  # half a bracket, a port that is no number
        return None
    return parts if usable else None


def _version(client: Client, address: str, authorization: str) -> tuple[int, str] | None:
    """Ask for the version, with credentials only where it is not told without."""
    answer = client.get(f"{address}/version")
    if answer and answer[0] in _REFUSED and authorization:
        return client.get(f"{address}/version", authorization=authorization) or answer
    return answer


def _authorization(environment: Mapping[str, str]) -> str:
    """Return what MLflow's client would send, or nothing."""
    token = environment.get("MLFLOW_TRACKING_TOKEN")
    if token:
        return f"Bearer {token}"
    user, password = (environment.get(f"MLFLOW_TRACKING_{word}", "") for word in ("USERNAME", "PASSWORD"))
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}" if user else ""


def _version_problem(status: int, text: str) -> list[str]:
    """Below the floor, a server can be taken over without a password (CVE-2026-116690 and others)."""
    if status == _NO_HTTP:
        return [f"what answers does not speak HTTP: {_EXPECTED}"]
    try:
        old = Version(text.strip()) < FLOOR
    except InvalidVersion:
        return ["it does not tell its version: expected an MLflow server"]
    return [f"it is older than {FLOOR}: pip install 'mlflow>={FLOOR}' there"] if old else []


def _credentials_problem(environment: Mapping[str, str], *, alone: bool, inside: bool) -> list[str]:
    if inside:
        return ["its address holds a password: use MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"]
    if alone or any(environment.get(word) for word in _CREDENTIALS):
        return []
    return ["no credentials are set: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or a token"]


def _open_problem(client: Client, address: str, *, alone: bool) -> list[str]:
    """Ask for experiments without credentials, and under a name that is not the server's."""
    question = f"{address}/api/2.0/mlflow/experiments/search?max_results=1"
    problems = []
    if not alone and _answers(client.get(question)):
        problems.append("it answers anybody: start it with --app-name basic-auth")
    if _answers(client.get(question, host="medmim-doctor.invalid")):
        problems.append("it answers under any host name: start it with --allowed-hosts")
    return problems


def _answers(answer: tuple[int, str] | None) -> bool:
    return answer is not None and answer[0] == 200


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
