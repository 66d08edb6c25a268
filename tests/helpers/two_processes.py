"""Train in two processes, the second of which meets a NaN: `two_processes.py DATASET FOLDER`.

Each writes its weights to FOLDER/<rank>.safetensors. Lightning starts this file a second time by itself.
"""

import os
import sys
from pathlib import Path

from planted_faults import planted
from safetensors.torch import save_file
from small_training import SmallTraining

rank = os.environ.get("LOCAL_RANK", "0")
dataset, folder = map(Path, sys.argv[1:])
words = {"on_nonfinite": "rollback", "checkpoint_every_steps": 2, "devices": 2}
study = SmallTraining(dataset, folder / f"run{rank}", **words)
module = planted(study.module(), "voxel", {3} if rank == "1" else set())
try:
    study.run(module=module)
finally:  # all but the first leave through SystemExit
    save_file(module.state_dict(), folder / f"{rank}.safetensors")
