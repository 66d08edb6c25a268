"""Paths and keys of an ingestion."""

from pathlib import Path

from inline_context import make_context

from medmim.data.ingest.context import stem_of, stored_path


def test_extensions_of_volumes_count_as_one():
    assert [stem_of(Path(name)) for name in ("a.b.nii.gz", "a.nii", "a.b.png", "1.2.3.nii.gz")] == [
        "a.b", "a", "a.b", "1.2.3",
    ]  # fmt: skip
    assert stored_path("labels", "p", "s", "v") == "labels/p/s/v.nii.gz"


def test_keys_of_files_depend_on_the_source_and_keys_of_patients_do_not(tmp_path):
    first, second = make_context(tmp_path), make_context(tmp_path, source_name="b")
    assert first.file_keys.key("file", "a") != second.file_keys.key("file", "a")
    assert first.keys.key("subject", "a") == second.keys.key("subject", "a")


def test_members_of_archives_are_read_from_the_staging_folder(tmp_path):
    context = make_context(tmp_path)
    context.unpacked[Path("a.zip/b")] = context.staged("000.nii")
    assert context.file(Path("a.zip/b")) == tmp_path / "000.nii"
    assert context.file(Path("c")) == Path("c")
