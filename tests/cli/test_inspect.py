from __future__ import annotations

import json

from click.testing import CliRunner

from medmim.cli import main


def test_the_command(tiny_dataset, tmp_path):
    page = tmp_path / "page.html"
    ran = CliRunner().invoke(
        main, ["inspect", str(tiny_dataset), "--page", str(page), "--json", "--workers", "1"]
    )
    assert ran.exit_code == 0
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said == {"page": str(page), "volumes": 10, "pictures": 10, "bytes": page.stat().st_size}
