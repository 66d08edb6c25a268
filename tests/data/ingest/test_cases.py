"""Cases list all their files."""

from pathlib import Path

from medmim.data.ingest.cases import LayoutCase


def test_files_of_a_case():
    case = LayoutCase(
        image=Path("a.mhd"),
        labels=((Path("x.mhd"), 1), (Path("y.mhd"), 2)),
        subject="a",
        study="a",
        group=None,
        modality="CT",
        tokens=(),
        parts=(Path("a.raw"),),
    )
    assert [path.name for path in case.files] == ["a.mhd", "a.raw", "x.mhd", "y.mhd"]
