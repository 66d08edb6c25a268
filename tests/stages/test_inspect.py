"""`medmim inspect` writes one self-contained page of bounded size."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import tiny

from medmim.data.dataset.manifest import DatasetInfo, LedgerRow, read_dataset, write_dataset
from medmim.data.formats.thumbnails import BINS
from medmim.data.sandbox.sandbox import Answer
from medmim.stages.inspect import inspect, inspection_page


def data_of(page: Path) -> dict:
    """Return the data of the page's script."""
    line = next(line for line in page.read_text("utf-8").splitlines() if line.startswith("const data = "))
    return json.loads(line.removeprefix("const data = ").removesuffix(";"))


def test_every_volume_has_a_row_with_pictures(varied_dataset, tmp_path):
    told = []
    result = inspect(
        varied_dataset, page=tmp_path / "page.html", workers=1, progress=lambda *w: told.append(w)
    )
    content, page = data_of(result.page), result.page.read_text("utf-8")
    volumes = read_dataset(varied_dataset).volumes
    assert [one["id"] for one in content["volumes"]] == [volume.id for volume in volumes]
    assert all(one["jpeg"] and len(one["bins"]) == BINS for one in content["volumes"])
    assert f'<td>accepted</td><td class="mono">ok</td><td class="number">{len(volumes)}</td>' in page
    assert told[-1] == ("draw", len(volumes), len(volumes))
    assert result.page_bytes == result.page.stat().st_size


def test_the_page_is_self_contained(tiny_dataset, tmp_path):
    text = inspect(tiny_dataset, page=tmp_path / "page.html", workers=1).page.read_text("utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}


def test_text_in_the_dataset_is_escaped(tmp_path):
    root = tmp_path / "data"
    info = DatasetInfo(name="</script><script>alert(1)</script>", label_names={1: "<b>"})
    write_dataset(root, info, [tiny.row()], [LedgerRow(number=0, file="f", fate="skipped", reason="<i>&")])
    page = inspection_page(read_dataset(root), [Answer(reason="<u>")], edge=8)
    assert page.count("</script>") == 1
    assert "<i>" not in page
    assert "<u>" not in page


def test_a_damaged_volume_loses_only_its_own_picture(tmp_path):
    root = tiny.make_dataset(tmp_path / "data", patients=3)
    bad = read_dataset(root).volumes[1]
    (root / bad.image).write_bytes(b"no volume")
    result = inspect(root, workers=1)
    assert (result.volumes, result.pictures) == (3, 2)
    rows = {one["id"]: one for one in data_of(result.page)["volumes"]}
    assert rows[bad.id]["failed"]


@pytest.mark.slow
def test_five_thousand_volumes(tmp_path, capsys):
    root = tiny.make_dataset(tmp_path / "data", patients=5000, labels=False)
    result = inspect(root)
    with capsys.disabled():
        sys.stderr.write(f"\n5000 volumes: {result.page_bytes / 1e6:.1f} MB, {result.pictures} pictures\n")
    assert result.pictures == 5000
    assert result.page_bytes < 25e6
