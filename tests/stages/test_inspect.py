"""`medmim inspect` writes one page that needs nothing beside it and stays small."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from click.testing import CliRunner
from PIL import Image as Picture

from medmim.cli import main
from medmim.data.dataset.manifest import DatasetInfo, LedgerRow, read_dataset, write_dataset
from medmim.data.formats.nifti import Image, encode_image
from medmim.data.formats.thumbnails import BINS, thumbnail
from medmim.data.sandbox.sandbox import Answer
from medmim.stages.inspect import inspect, page_of


def data_of(page: Path) -> dict:
    """Return what the page's script is given."""
    line = next(line for line in page.read_text("utf-8").splitlines() if line.startswith("const data = "))
    return json.loads(line.removeprefix("const data = ").removesuffix(";"))


def picture_of(strip: str) -> np.ndarray:
    return np.asarray(Picture.open(io.BytesIO(base64.b64decode(strip))), int)


def test_every_volume_has_a_row_with_pictures(varied_dataset, tmp_path):
    told = []
    result = inspect(
        varied_dataset, page=tmp_path / "page.html", workers=1, progress=lambda *w: told.append(w)
    )
    content = data_of(result.page)
    volumes = read_dataset(varied_dataset).volumes
    assert [one["id"] for one in content["volumes"]] == [volume.id for volume in volumes]
    assert all(one["jpeg"] and len(one["bins"]) == BINS for one in content["volumes"])
    assert content["fates"] == [{"fate": "accepted", "reason": "ok", "files": len(volumes)}]
    assert told[-1] == ("draw", len(volumes), len(volumes))
    assert result.page_bytes == result.page.stat().st_size


def test_the_page_needs_nothing_else(tiny_dataset, tmp_path):
    text = inspect(tiny_dataset, page=tmp_path / "page.html", workers=1).page.read_text("utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}


def test_words_cannot_end_the_script(tmp_path):
    root = tmp_path / "data"
    info = DatasetInfo(name="</script><script>alert(1)</script>", label_names={1: "<b>"})
    write_dataset(root, info, [tiny.row()], [LedgerRow(number=0, file="f", fate="skipped", reason="<i>&")])
    page = page_of(read_dataset(root), [Answer(reason="<u>")], edge=8)
    assert page.count("</script>") == 1
    assert "<i>" not in page
    assert "<u>" not in page


def test_a_damaged_volume_costs_its_own_picture(tmp_path):
    root = tiny.make_dataset(tmp_path / "data", patients=3)
    bad = read_dataset(root).volumes[1]
    (root / bad.image).write_bytes(b"no volume")
    result = inspect(root, workers=1)
    assert (result.volumes, result.pictures) == (3, 2)
    rows = {one["id"]: one for one in data_of(result.page)["volumes"]}
    assert rows[bad.id]["failed"]


def test_planes_are_upright_and_in_millimetres(tmp_path):
    array = np.zeros((10, 20, 30), np.int16)
    array[:, :, 20:] = 1000  # the head's end is bright
    array[:, 15:, :] += 500  # and so is the front
    path = tmp_path / "scan.nii.gz"
    edge = 60
    for flip in (False, True):
        affine = np.diag([3.0, 1.0, 1.0, 1.0])
        turned = array[:, ::-1, ::-1] if flip else array
        if flip:
            affine = affine @ np.array([[1, 0, 0, 0], [0, -1, 0, 19], [0, 0, -1, 29], [0, 0, 0, 1.0]])
        path.write_bytes(encode_image(Image(np.ascontiguousarray(turned), affine)))
        strip = picture_of(thumbnail(str(path), None, edge, 95)["jpeg"])
        assert strip.shape == (edge, 3 * edge, 3)
        sagittal, coronal, axial = (strip[:, edge * k : edge * (k + 1), 0] for k in range(3))
        assert sagittal[:15, 12:40].mean() > sagittal[45:, 12:40].mean() + 50  # head above
        assert sagittal[30, 11:14].mean() > sagittal[30, 30:46].mean() + 30  # front at the left
        assert axial[12:18, 5:55].mean() > axial[30:48, 5:55].mean() + 30  # front above
        assert (coronal[30, :] > -1).all()
        assert sagittal[:, :8].max() < 20  # 20 mm wide beside 30 mm high: black at the sides


def test_the_label_is_outlined_where_it_is(tmp_path):
    array = np.random.default_rng(0).integers(0, 90, (16, 16, 16)).astype(np.int16)
    label = np.zeros((16, 16, 16), np.uint8)
    label[3:9, 4:10, 12] = 1
    for name, content in {"image": array, "label": label}.items():
        (tmp_path / f"{name}.nii.gz").write_bytes(encode_image(Image(content, np.eye(4))))
    found = thumbnail(str(tmp_path / "image.nii.gz"), str(tmp_path / "label.nii.gz"), 64, 95)
    strip = picture_of(found["jpeg"])
    red = (strip[..., 0] > 180) & (strip[..., 1] < 120)
    assert red[:, 128:].sum() > 50


def test_pictures_of_one_slice(tmp_path):
    path = tmp_path / "picture.nii.gz"
    path.write_bytes(encode_image(Image(np.arange(600, dtype=np.int16).reshape(20, 30, 1), np.eye(4))))
    strip = picture_of(thumbnail(str(path), None, 32, 90)["jpeg"])
    assert strip[:, :64].max() < 10
    assert strip[:, 64:].max() > 200


def test_the_command(tiny_dataset, tmp_path):
    page = tmp_path / "page.html"
    ran = CliRunner().invoke(
        main, ["inspect", str(tiny_dataset), "--page", str(page), "--json", "--workers", "1"]
    )
    assert ran.exit_code == 0
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said == {"page": str(page), "volumes": 10, "pictures": 10, "bytes": page.stat().st_size}


@pytest.mark.slow
def test_five_thousand_volumes(tmp_path, capsys):
    root = tiny.make_dataset(tmp_path / "data", patients=5000, labels=False)
    result = inspect(root)
    with capsys.disabled():
        sys.stderr.write(f"\n5000 volumes: {result.page_bytes / 1e6:.1f} MB, {result.pictures} pictures\n")
    assert result.pictures == 5000
    assert result.page_bytes < 25e6
