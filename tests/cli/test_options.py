"""Results of commands are printed to pipes that may close early."""

import subprocess
import sys

PROGRAM = """from medmim.cli.options import print_result
print_result({}, as_json=False, lines=["x" * 99] * 9999, following="medmim ui")"""


def test_a_reader_that_has_gone_ends_the_output_quietly():
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
