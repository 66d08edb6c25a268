"""Whether a tracking server can be trusted with runs: its version, who may reach it, and under which name."""

from __future__ import annotations

import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from packaging.version import InvalidVersion, Version

FLOOR = Version("3.17.2")
_WAIT_S = 3.0
_REFUSED = (401, 403)
_CREDENTIALS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME")
Verdict = tuple[str, Literal["ok", "note", "bad"], str, str]


class Client:
    """Asks a server, without proxies or redirects to elsewhere."""

    def get(self, url: str, *, host: str = "", authorization: str = "") -> tuple[int, str] | None:
        """Return status and the first kilobyte of the answer, or None without one."""
        headers = {"Host": host, "Authorization": authorization}
        request = urllib.request.Request(url, headers={key: value for key, value in headers.items() if value})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay())
        try:
            with opener.open(request, timeout=_WAIT_S) as answer:
                return int(answer.status), answer.read(1024).decode("utf-8", "replace")
        except urllib.error.HTTPError as refusal:
            return refusal.code, ""
        except OSError:
            return None


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
    name, address = "tracking server", environment.get("MLFLOW_TRACKING_URI", "")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https"):
        return name, "ok", "none: runs are kept here", ""
    question, alone = f"{address.rstrip('/')}/version", _is_loopback(parts.hostname or "")
    answer = client.get(question)
    if answer and answer[0] in _REFUSED and (alone or parts.scheme == "https"):
        answer = client.get(question, authorization=_authorization(environment)) or answer
    if answer is None:
        return name, "note", "does not answer", "runs are kept here; `medmim doctor` again when it is up"
    hidden = answer[0] in _REFUSED
    problems = [
        *([] if hidden else _version_problem(answer[1])),
        *([] if alone or parts.scheme == "https" else ["it is reached without TLS: put it behind https"]),
        *_credentials_problem(environment, alone=alone, inside="@" in parts.netloc),
        *_open_problem(client, address.rstrip("/"), alone=alone),
    ]
    if problems:
        return name, "bad", f"{len(problems)} problems", "; ".join(problems)
    if hidden:
        return (
            name,
            "note",
            "tells its version to nobody without a password",
            f"expected MLflow {FLOOR} or newer",
        )
    return name, "ok", f"MLflow {answer[1].strip()}", ""


def _authorization(environment: Mapping[str, str]) -> str:
    """Return what MLflow's client would send, or nothing."""
    token = environment.get("MLFLOW_TRACKING_TOKEN")
    if token:
        return f"Bearer {token}"
    user, password = (environment.get(f"MLFLOW_TRACKING_{word}", "") for word in ("USERNAME", "PASSWORD"))
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}" if user else ""


def _version_problem(text: str) -> list[str]:
    """Below the floor, a server can be taken over without a password (CVE-2026-116690 and others)."""
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
