"""The path of `medmim pretrain --mask mesh` from the command line to the first optimizer step.

python tests/benchmarks/pretrain_path.py

Prints the files whose functions run, the calls from one file to another (each pair once), and the same for
what the command line and the stages call directly. Definitions that run at an import do not count.
"""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

from tiny import TINY_WORDS, make_dataset

from medmim.cli import main

PACKAGE = str(Path(sys.modules["medmim"].__file__).parent) + os.sep
OPTIMIZER = ("torch/optim/adam.py", "torch/optim/adamw.py")


class FirstStepReached(BaseException):
    """Ends the training; nothing catches it."""


class Route:
    """The files and calls of a run, recorded by `sys.setprofile`."""

    def __init__(self):
        self.files, self.calls = [], set()

    def __call__(self, frame, event, _argument):
        code = frame.f_code
        if event != "call":
            return
        if code.co_name == "step" and code.co_filename.endswith(OPTIMIZER):
            raise FirstStepReached
        is_function = code.co_flags & 1 and not code.co_name.startswith("<")  # no module, class or generator
        if not code.co_filename.startswith(PACKAGE) or not is_function:
            return
        callers = list(own_code(frame.f_back))
        if any(one.co_name == "<module>" for one in callers):
            return
        name = code.co_filename.removeprefix(PACKAGE)
        if name not in self.files:
            self.files.append(name)
        if callers and callers[0].co_filename != code.co_filename:
            self.calls.add((callers[0].co_filename.removeprefix(PACKAGE), name))


def own_code(frame):
    """Yield the code of medmim that is running, innermost first."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            yield frame.f_code
        frame = frame.f_back


def run():
    """Print the path of a tiny pretraining."""
    route = Route()
    with tempfile.TemporaryDirectory() as folder:
        make_dataset(Path(folder, "tiny"))
        os.environ["MEDMIM_HOME"] = str(Path(folder, "home"))
        words = ["--data", str(Path(folder, "tiny")), "--mask", "mesh", "--steps", "2", *TINY_WORDS]
        sys.setprofile(route)
        try:
            main(["pretrain", *words])
        except FirstStepReached:
            sys.setprofile(None)
    direct = {call for call in route.calls if call[0].startswith(("cli", "stages"))}
    entered = {file for call in direct for file in call}
    lines = [
        *route.files,
        f"{len(route.files)} files, {len(route.calls)} calls between files",
        f"{len(entered)} files and {len(direct)} calls from the command line and the stages",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    run()
