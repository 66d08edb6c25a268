"""The wheel contains what medmim needs: it works from an empty folder, without the repository."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
USE = """
import sys
from pathlib import Path
import medmim
from medmim.cli import main
from medmim.config.yaml_settings import resolve
from medmim.config.runs import PretrainSettings
from medmim.data.ingest.descriptor import load_descriptor
assert Path(medmim.__file__).is_relative_to(sys.argv[1]), medmim.__file__
assert resolve(PretrainSettings, config="spark_mesh").mask == "mesh"
assert load_descriptor("msd").name == "msd"
package = Path(medmim.__file__).parent
print(len(list(package.rglob("*.html"))), (package / "py.typed").is_file())
main(["settings", "pretrain"])
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="hatchling is not installed")
def test_the_wheel_works_from_an_empty_folder(tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path / "wheels"), str(ROOT)]
    subprocess.run([*pip, *build], check=True)
    [wheel] = (tmp_path / "wheels").glob("medmim-*.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    told = subprocess.run(
        [sys.executable, "-c", USE, str(site)],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
        capture_output=True,
        text=True,
    )
    pages = len(list((ROOT / "medmim").rglob("*.html")))
    assert told.stdout.startswith(f"{pages} True\n")
    assert "ratio   number > 0 and < 1" in told.stdout
