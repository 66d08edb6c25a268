"""Run one study three times and compare its tables: whole, killed and continued, and on a Ray cluster.

    python -m tests.benchmarks.study_interruption configs/studies/hippocampus_six.yaml --data DATASET \
        --set pretrain.steps=40 …

The second run is killed (SIGKILL to the whole process group) after random times and started again with the
same command until it ends. The third runs on a head and two Ray nodes of this machine. Lengths must be given
in steps: a budget of minutes ends after another number of steps in each run. Results go to
docs/results/study_interruption.json. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from medmim.cli import main as main_command
from medmim.tracking.mlflow_store import Store

OUT = Path("docs/results/study_interruption.json")


class TimedStudy:
    """Starts one study with its own home folder."""

    def __init__(self, words: list[str], home: Path) -> None:
        self.words = [sys.executable, "-m", "medmim", "study", *words, "--json"]
        self.home = home

    def start(self) -> subprocess.Popen[str]:
        """Start the command in a process group of its own."""
        environment = {**os.environ, "MEDMIM_HOME": str(self.home), "RAY_USAGE_STATS_ENABLED": "0"}
        return subprocess.Popen(
            self.words, env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def table(self) -> dict[str, Any]:
        """Run the study to its end; return what it prints but run identifiers and measured times."""
        process = self.start()
        return table_in(process.communicate()[0], process.returncode)

    def table_on_cluster(self, address: str) -> dict[str, Any]:
        """Run the study from this process, for which Ray takes the loopback interface as its own."""
        os.environ["MEDMIM_HOME"] = str(self.home)
        words = [*self.words[3:], "--engine", "ray", "--address", address]
        ran = CliRunner().invoke(main_command, words)
        return table_in(ran.stdout, ran.exit_code, ran.stderr)

    def killed_after(self, seconds: float) -> tuple[bool, str]:
        """Kill the study after some time; return whether it was still running, and its last output."""
        process = self.start()
        try:
            return False, process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True, ""

    def trainings(self) -> dict[str, int]:
        """Return the number of runs of each status."""
        counts: dict[str, int] = {}
        for run in Store(self.home).runs():
            counts[run.info.status] = counts.get(run.info.status, 0) + 1
        return counts


def table_in(printed: str, code: int, errors: str = "") -> dict[str, Any]:
    """Return the table that a study printed as its last line."""
    if code:
        raise SystemExit(f"the study ended with {code}: {printed[-500:]} {errors[-500:]}")
    return without_runs(json.loads(printed.splitlines()[-1]))


def without_runs(found: Any) -> Any:
    """Leave out identifiers of runs, times and costs, which differ between equal studies."""
    if isinstance(found, list):
        return [without_runs(one) for one in found]
    if not isinstance(found, dict):
        return found
    left_out = ("run", "report", "experiment", "home", "path", "cost", "plan", "minutes", "seconds", "hours")
    kept = {key: one for key, one in found.items() if not any(word in key for word in left_out)}
    if "scores" in kept:  # of each training, by its run
        kept["scores"] = sorted(kept["scores"].values(), key=str)
    return {key: without_runs(one) for key, one in kept.items()}


@contextmanager
def two_nodes() -> Iterator[str]:
    """Start a head without CPUs and two nodes with one each on the loopback interface; yield the address."""
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    ray_constants.ENABLE_RAY_CLUSTER = False  # no other machines: takes loopback for its own
    options = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 << 20}
    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **options}
    )
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, **options)
        yield made.address
    finally:
        made.shutdown()


def differing(first: Any, second: Any, where: str = "") -> list[str]:
    """Return the places at which two tables differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = sorted({*first, *second})
        return [one for key in keys for one in differing(first.get(key), second.get(key), f"{where}.{key}")]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [one for place, (a, b) in pairs for one in differing(a, b, f"{where}[{place}]")]
    return [] if first == second else [f"{where.lstrip('.')}: {first} and {second}"]


def main() -> None:
    """Run the study three times and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--homes", type=Path, help="folder of an earlier call, whose trainings are kept")
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seconds", type=float, nargs=2, default=(20.0, 60.0), help="between two kills")
    parser.add_argument("--data", type=Path, required=True, help="dataset folder of `medmim ingest`")
    given, words = parser.parse_known_args()
    words += ["--data", str(given.data)]
    homes = given.homes or Path(tempfile.mkdtemp(prefix="study-"))
    whole = TimedStudy(words, homes / "whole")
    wanted = whole.table()
    result: dict[str, Any] = {
        "command": "medmim study " + " ".join(words).replace(str(given.data), "DATASET"),
        "whole": {"runs": whole.trainings()},
        "verdicts": wanted["verdicts"],
        "dice of trainings": [one[0]["value"] for one in wanted["scores"]],
    }
    killed = TimedStudy(words, homes / "killed")
    draw, kills = random.Random(0), 0
    while kills < given.kills and killed.killed_after(draw.uniform(*given.seconds))[0]:
        kills += 1
    continued = killed.table()
    result["killed"] = {
        "kills": kills, "runs": killed.trainings(), "differences": differing(wanted, continued)
    }  # fmt: skip
    spread = TimedStudy(words, homes / "ray")
    with two_nodes() as address:
        found = spread.table_on_cluster(address)
    result["ray of two nodes"] = {"runs": spread.trainings(), "differences": differing(wanted, found)}
    OUT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
