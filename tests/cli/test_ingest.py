"""`medmim ingest`: options for unevenly spaced slices, and the summary."""

import numpy as np
import pytest
from click.testing import CliRunner
from dicom_maker import write_series
from ingest_source import read_ledger
from PIL import Image

from medmim.cli import main
from medmim.data.dataset.manifest import read_dataset


@pytest.mark.parametrize(
    ("options", "repairs", "shape"),
    [
        ([], None, None),
        (["--regrid"], ("regridded",), (10, 8, 6)),
        (["--keep-spacing"], ("uneven_spacing_kept",), (10, 8, 5)),
    ],
)
def test_a_stack_with_a_missing_slice_is_refused_unless_the_user_decides(
    tmp_path, monkeypatch, options, repairs, shape
):
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    write_series(tmp_path / "in", count=6)[3].unlink()
    words = ["ingest", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "1", *options]
    ran = CliRunner().invoke(main, words)
    if repairs is None:
        assert ran.exit_code == 1
        assert {row.reason for row in read_ledger(tmp_path)} == {"missing_slice"}
        assert "--regrid or --keep-spacing" in ran.output
        return
    assert ran.exit_code == 0
    (volume,) = read_dataset(tmp_path / "out").volumes
    assert (volume.repairs, volume.shape) == (repairs, shape)


def test_the_summary_counts_the_classes_of_images_and_boxes(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    rows = ["image,class,xmin,ymin,xmax,ymax"]
    for number, name in enumerate(("cyst", "cyst", "stone")):
        (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / name / f"i{number}.png")
        rows.append(f"i{number}.png,lump,2,2,8,8")
    words = ["ingest", str(tmp_path / "in"), "--workers", "1", "--class-folders", "--out"]
    ran = CliRunner().invoke(main, [*words, str(tmp_path / "classes")])
    assert "classes      cyst 2, stone 1" in ran.stdout
    (tmp_path / "in" / "boxes.csv").write_text("\n".join(rows))
    ran = CliRunner().invoke(main, [*words, str(tmp_path / "boxes")])
    assert "boxes        lump 3" in ran.stdout
