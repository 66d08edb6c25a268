"""Processor time of packed and masked encoders in two versions of medmim, in alternating processes.

    python -m tests.benchmarks.packed_speed --before FOLDER --out FILE.json

FOLDER contains the `medmim` package of the earlier version (`git archive COMMIT medmim | tar -x -C FOLDER`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from medmim.stages.bench.packed_vs_masked import machine

CASES: dict[str, dict[str, Any]] = {
    "resenc S": {"dims": 3, "encoder": "resenc", "encoder_options": {"size": "S"}, "size": (48, 48, 48)},
    "ResNet-50": {"dims": 2, "encoder": "resnet50", "encoder_options": {"max_pool": True}},
}
CASES["ResNet-50"] |= {"channels": 3, "size": (224, 224), "batch": 2}
VARIANTS = ("packed", "masked")
PROGRAM = """
import json, sys, time
import torch
from medmim.stages.bench.workload import Setup, workload
torch.set_num_threads(1)
given = json.loads(sys.argv[1])
given["size"] = tuple(given["size"])
work = {variant: workload(Setup(**given), variant) for variant in ("packed", "masked")}
times = {}
for repeat in range(3):
    for variant, run in work.items():
        start = time.process_time()
        run()
        times[variant] = min(times.get(variant, 1e9), 1000 * (time.process_time() - start))
print(json.dumps(times))
"""


def milliseconds(source: Path, case: dict[str, Any]) -> dict[str, float]:
    """Return the processor time of one forward and backward pass of each variant, the least of three."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", PROGRAM, json.dumps(case)]
    ran = subprocess.run(words, env=environment, cwd=source, capture_output=True, text=True, check=True)
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def main() -> None:
    """Measure every encoder in both versions and write medians, ratios and each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    sources = {"before": asked.before.resolve(), "after": Path(__file__).resolve().parents[2]}
    rows = []
    for title, case in CASES.items():
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in sources}
        for number in range(asked.rounds):
            for name in sorted(sources, reverse=number % 2 == 0):  # neither is always the first
                runs[name].append(milliseconds(sources[name], {**case, "ratio": 0.7}))
        for variant in VARIANTS:
            taken = {name: statistics.median(one[variant] for one in runs[name]) for name in sources}
            ratio = taken["after"] / taken["before"]
            each = {f"{name}_runs": [round(one[variant]) for one in runs[name]] for name in sources}
            rows.append({"encoder": title, "variant": variant, **taken, "after_to_before": ratio, **each})
        print(json.dumps(rows[-2:]), flush=True)  # noqa: T201
    result = {"time": "processor milliseconds", "rounds": asked.rounds, "machine": machine(), "rows": rows}
    asked.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
