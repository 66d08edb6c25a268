"""One training of a study in a process of its own, and the resources that it uses."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medmim import files
from medmim.config.own_code import explain_own_code, trust_settings
from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.config.study import DIGEST
from medmim.errors import MedmimError, RunError, UnregisteredError, message_of, raised_in
from medmim.operating_system import peak_memory_mb

if TYPE_CHECKING:  # the child starts watching its parent before any slow import
    from medmim.stages.run_lifecycle import RunResult
    from medmim.tracking.mlflow_store import Store


_COUNTERS = Path("/sys/class/powercap")


class Meter:
    """Measures this process, starting when the meter is created.

    Args:
        counters: folder of the Linux energy counters of CPU packages, in microjoules.
    """

    def __init__(self, counters: Path = _COUNTERS) -> None:
        self._begun = time.monotonic()
        self._counters = [place for place in counters.glob("intel-rapl:[0-9]") if _read(place) is not None]
        self._energy = [_read(place) or 0 for place in self._counters]

    def costs(self) -> dict[str, float]:
        """Return minutes, GB and Wh under stable keys; energy is left out if it cannot be read."""
        import torch

        found = {
            "cost/minutes": (time.monotonic() - self._begun) / 60,
        }
        if not math.isnan(memory := peak_memory_mb()):
            found["cost/peak_memory_gb"] = memory * 2**20 / 1e9
        if torch.cuda.is_available():
            found["cost/peak_gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        if self._counters:
            found["cost/energy_wh"] = self._microjoule() / 3.6e9
        return found

    def _microjoule(self) -> float:
        spent = 0
        for place, begun in zip(self._counters, self._energy, strict=True):
            now = _read(place) or begun
            wrapped = _read(place, "max_energy_range_uj") or 0
            spent += now - begun if now >= begun else now - begun + wrapped
        return float(spent)


def _read(place: Path, name: str = "energy_uj") -> int | None:
    try:
        return int((place / name).read_text())
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class Job:
    """A training to be run in one process.

    Attributes:
        digest: identifies the training; equal digests give equal results.
    """

    stage: Literal["pretrain", "finetune"]
    title: str
    digest: str
    settings: Mapping[str, Any]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """Outcome of a job: id of the finished run or an error message, and the duration in minutes."""

    run_id: str | None
    error: str = ""
    minutes: float = 0.0


def run_here(job: Job, home: Path) -> Outcome:
    """Run a job in this process; an interrupted run of it is resumed, or discarded if it has no state."""
    from medmim.tracking.mlflow_store import Store

    store, meter = Store(home), Meter()
    resume = _resumable_run(store, job.digest)
    tags = {**job.tags, DIGEST: job.digest}
    try:
        result = _stage(job, home, resume, tags)
    except UnregisteredError as error:
        if store.find_run(error.result.run_id) is None:
            raise
        _log_line(f"warning: {error}")
        result = error.result
    costs = meter.costs()
    earlier = result.metrics["last/minutes"] if resume else 0.0  # includes the time before an interruption
    costs["cost/minutes"] = max(costs["cost/minutes"], earlier)
    store.recorder(result.run_id).metrics(costs, step=0)
    return Outcome(result.run_id, minutes=costs["cost/minutes"])


def run_apart(job: Job, home: Path, *, limit_s: float | None = None) -> Outcome:
    """Run a job in a child process and wait for it; return a crash of the child as an error."""
    folder = home / "jobs"
    spec, answer, log = (folder / f"{job.digest}.{end}" for end in ("json", "result.json", "log"))
    answer.unlink(missing_ok=True)
    files.write_json(spec, {**asdict(job), "home": str(home.resolve())})
    begun = time.monotonic()
    words = [sys.executable, "-m", "medmim.stages.study.training_process", str(spec), str(answer)]
    with log.open("w", encoding="utf-8") as stream:
        child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=stream, stderr=stream)
        try:
            code = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            child.kill()
            code = child.wait()
        except BaseException:
            child.terminate()
            child.wait()
            raise
        finally:
            if child.stdin:
                child.stdin.close()
    spec.unlink()
    if not answer.is_file():
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return Outcome(None, f"its process ended with {how}", (time.monotonic() - begun) / 60)
    outcome = Outcome(**json.loads(answer.read_text(encoding="utf-8")))
    answer.unlink()
    log.unlink()
    return outcome


def _stage(job: Job, home: Path, resume: str | None, tags: Mapping[str, str]) -> RunResult:
    trust_settings(job.settings)  # the user started the study; Ray does not pass on the environment
    if job.stage == "pretrain":
        from medmim.stages.pretrain.run import pretrain

        return pretrain(PretrainSettings.model_validate(job.settings), home=home, resume=resume, tags=tags)
    from medmim.stages.finetune.run import finetune

    settings = FinetuneSettings.model_validate(job.settings)
    return finetune(settings, home=home, resume=resume, tags=tags, log=_log_line)


def _log_line(line: str) -> None:
    sys.stderr.write(line + "\n")


def _resumable_run(store: Store, digest: str) -> str | None:
    from medmim.training.resume.checkpoint_files import verified_state

    for run in store.tagged(DIGEST, (digest,)):
        if run.info.status == "FINISHED":
            continue
        try:
            verified_state(store.checkpoints(run.info.run_id))
        except RunError:
            store.discard(run.info.run_id)
        else:
            return str(run.info.run_id)
    return None


def _end_with_parent() -> None:
    """Exit when the parent process ends, which closes the standard input of this process."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _main(spec: Path, answer: Path) -> None:
    _end_with_parent()
    words = json.loads(spec.read_text(encoding="utf-8"))
    home = Path(words.pop("home"))
    try:
        outcome = run_here(Job(**words), home)
    except MedmimError as error:
        outcome = Outcome(None, message_of(error))
    except Exception as error:  # the message may contain data of a scan
        internal = f"internal error, {type(error).__name__} in {raised_in(error)}"
        outcome = Outcome(None, explain_own_code(error) or internal)
    files.write_json(answer, asdict(outcome))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
