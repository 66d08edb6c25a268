"""Packs are complete or rejected, write nothing outside their folder, and are merged only once."""

import hashlib
import json
import os
import zipfile

import pytest

from medmim.data.dataset.contamination_certificate import NONE_FOUND, UNKNOWN
from medmim.errors import RunError
from medmim.tracking.comparison.champion import champion_of, force_promotion
from medmim.tracking.comparison.runs import CASES, read_run
from medmim.tracking.mlflow_store import Store
from medmim.tracking.study_archive import MANIFEST, pack, unpack
from medmim.tracking.study_runs import PARENT


@pytest.fixture
def store(new_home):
    return Store(new_home())


@pytest.fixture
def packed(store, tmp_path):
    """A pack with the run of a study and one training."""
    root = store.begin(experiment="s", name="s", tags={"study": "s", "role": "study"})
    root.text("report/report.html", "<p>é</p>")
    tags = {"study": "s", "role": "cell", "arm": "scratch", "seed": "0", PARENT: root.run_id}
    cell = store.begin(experiment="s", name="cell", tags=tags)
    cell.text(CASES, "")
    cell.settings({"lr": 0.1})
    cell.metrics({"test/dice": 0.5, "odd": float("nan")}, step=0)
    (tmp_path / "weights.safetensors").write_bytes(bytes(1000))
    cell.file(tmp_path / "weights.safetensors", folder="model")
    store.register(model="d-segment", run_id=cell.run_id, tags={"sha256": "ab"}, alias="challenger")
    cell.finish("FINISHED")
    root.finish("FINISHED")
    assert pack(store, store.runs(study="s"), tmp_path / "s.zip") == 2
    return tmp_path / "s.zip"


def rewritten(path, change):
    """Return a copy of a pack whose entries (name → bytes) were changed by a function."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    other = path.with_name("other.zip")
    with zipfile.ZipFile(other, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return other


def test_unpacking_twice_at_another_site_merges_the_study_once(packed, new_home):
    there = Store(new_home())
    merged = unpack(there, packed)
    assert (merged.runs, merged.new_runs, merged.versions) == (2, 2, 1)
    again = unpack(there, packed)
    assert (again.runs, again.new_runs, again.points, again.artifacts, again.versions) == (2, 0, 0, 0, 0)
    (root,) = there.runs(role="study")
    (cell,) = there.runs(role="cell")
    assert cell.data.tags[PARENT] == root.info.run_id
    assert cell.info.status == "FINISHED"
    assert cell.data.params == {"lr": "0.1"}
    assert there.read_text(root, "report/report.html") == "<p>é</p>"
    (version,) = there.client.search_model_versions("name = 'd-segment'")
    assert version.run_id == cell.info.run_id
    assert version.tags["imported_aliases"] == "challenger"
    assert str(there.home) in cell.info.artifact_uri


def test_champions_and_certificates_of_a_pack_have_no_effect_in_another_store(store, packed, new_home):
    lineage = {
        "status": "champion",
        "contamination": NONE_FOUND,
        "promoted_by": "a test elsewhere",
        "sha256": "ab",
    }
    for key, value in lineage.items():
        store.client.set_model_version_tag("d-segment", "1", key, value)
    store.client.set_registered_model_alias("d-segment", "champion", "1")
    pack(store, store.runs(study="s"), packed)
    there = Store(new_home())
    unpack(there, packed)
    (version,) = there.client.search_model_versions()
    assert there.client.get_registered_model("d-segment").aliases == {}
    assert "contamination" not in version.tags
    assert version.tags["imported_aliases"] == "challenger,champion"
    assert version.tags["imported_contamination"] == NONE_FOUND
    assert version.tags["imported_promoted_by"] == "a test elsewhere"
    assert "status" not in version.tags
    assert version.tags["sha256"] == "ab"
    assert read_run(there, there.run(version.run_id)).contamination == UNKNOWN
    force_promotion(there, "d-segment:1", "tested on our own scans")
    assert champion_of(there, "d-segment").version == 1


def test_unpacking_in_the_original_store_changes_nothing(packed, store):
    before = {run.info.run_id for run in store.runs()}
    assert unpack(store, packed).new_runs == 0
    assert {run.info.run_id for run in store.runs()} == before


def test_a_pack_of_unpacked_runs_adds_no_runs_to_the_original_store(packed, store, new_home, tmp_path):
    there = Store(new_home())
    unpack(there, packed)
    pack(there, there.runs(study="s"), tmp_path / "again.zip")
    assert unpack(store, tmp_path / "again.zip").new_runs == 0


def test_packs_of_equal_runs_are_identical_files(packed, store, tmp_path):
    pack(store, store.runs(study="s"), tmp_path / "twin.zip")
    assert (tmp_path / "twin.zip").read_bytes() == packed.read_bytes()


def test_packing_a_study_without_runs_is_an_error(store, tmp_path):
    with pytest.raises(RunError, match="nothing to pack"):
        pack(store, [], tmp_path / "s.zip")
    assert not (tmp_path / "s.zip").exists()


def flip(entries):
    name = next(name for name in entries if name.endswith("weights.safetensors"))
    entries[name] = b"\1" + entries[name][1:]


def longer(entries):
    name = next(name for name in entries if name.endswith("weights.safetensors"))
    entries[name] += b"more"


def add(name):
    def change(entries):
        entries[name] = b"{}"

    return change


def listed(name):
    """Add a file that is listed in the manifest with its correct hash."""

    def change(entries):
        entries[name] = b"{}"
        manifest = json.loads(entries[MANIFEST])
        manifest["files"][name] = {"sha256": hashlib.sha256(b"{}").hexdigest(), "size": 2}
        entries[MANIFEST] = json.dumps(manifest).encode()

    return change


def changed_run(key, value):
    """Change a value in run.json and update its hash in the manifest."""

    def change(entries):
        name = "runs/0/run.json"
        content = json.loads(entries[name]) | {key: value}
        del entries[name]
        entries[name] = json.dumps(content).encode()
        manifest = json.loads(entries[MANIFEST])
        digest = hashlib.sha256(entries[name]).hexdigest()
        manifest["files"][name] = {"sha256": digest, "size": len(entries[name])}
        entries[MANIFEST] = json.dumps(manifest).encode()

    return change


def manifest_of(content):
    def change(entries):
        entries[MANIFEST] = json.dumps(content).encode()

    return change


def sized(size):
    """Change the size of a file in the manifest."""

    def change(entries):
        manifest = json.loads(entries[MANIFEST])
        manifest["files"]["runs/0/run.json"]["size"] = size
        entries[MANIFEST] = json.dumps(manifest).encode()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip, "is damaged: the SHA-256 of a file differs from the manifest"),
        (longer, "is damaged: the SHA-256 of a file differs from the manifest"),
        (add("runs/0/artifacts/new.txt"), "the files of this pack do not match its manifest"),
        (listed("../../evil.txt"), "contains a path outside its own folder"),
        (listed("/etc/evil.txt"), "contains a path outside its own folder"),
        (listed("runs/0/artifacts/../../../evil.txt"), "contains a path outside its own folder"),
        (listed("runs/0/artifacts//evil.txt"), "contains a path outside its own folder"),
        (listed("runs/0/artifacts/C:\\evil.txt"), "contains a path outside its own folder"),
        (listed("runs/0/artifacts/extra.txt"), "unexpected files, or unsafe names"),
        (changed_run("experiment", "../../evil"), "unexpected files, or unsafe names"),
        (changed_run("artifacts", {"../../../evil.txt": "0" * 64}), "unexpected files, or unsafe names"),
        (changed_run("metrics", 7), r"cannot be unpacked \(ValidationError\)"),
        (changed_run("of_another_version", 7), r"cannot be unpacked \(ValidationError\)"),
        (changed_run("status", "PROMOTED"), r"cannot be unpacked \(ValidationError\)"),
        (changed_run("tags", {"a": {"b": 1}}), r"cannot be unpacked \(ValidationError\)"),
        (changed_run("start_time", "yesterday"), r"cannot be unpacked \(ValidationError\)"),
        (changed_run("origin", "../../../evil"), "unsafe names"),
        (changed_run("origin", "x' or '1' = '1"), "unsafe names"),
        (changed_run("parent", "../evil"), "unsafe names"),
        (changed_run("tags", {"medmim.run": ""}), "unsafe names"),
        (changed_run("tags", {PARENT: "0" * 32}), "unsafe names"),
        (changed_run("tags", {"a\nb": "c"}), "unsafe names"),
        (changed_run("params", {"x" * 300: "1"}), "unsafe names"),
        (manifest_of({"format": 1, "files": []}), "the files of this pack do not match its manifest"),
        (manifest_of([]), r"cannot be unpacked \(TypeError\)"),
        (sized(-2), "do not trust it"),
        (sized(1 << 30), r"claims to contain 10\d\d MiB: do not trust it"),
        (lambda entries: entries.pop(MANIFEST), r"cannot be unpacked \(KeyError\)"),
    ],
)
def test_untrustworthy_packs_are_rejected_without_changes(change, message, packed, new_home):
    there = Store(new_home())
    with pytest.raises(RunError, match=message):
        unpack(there, rewritten(packed, change))
    assert there.runs() == []
    assert not list(there.home.parent.rglob("evil*"))


def test_a_pack_cannot_claim_to_be_larger_than_its_file(packed, new_home):
    """The limit of the ratio counts the bytes of the file, not the packed sizes that the pack declares."""
    bomb, place = packed.with_name("bomb.zip"), "runs/0/artifacts/zeros"
    content = bytes(200 << 20)

    def declare(entries):
        manifest = json.loads(entries[MANIFEST])
        manifest["files"][place] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        entries[MANIFEST] = json.dumps(manifest).encode()

    with zipfile.ZipFile(rewritten(packed, declare)) as whole, zipfile.ZipFile(bomb, "w") as archive:
        for name in whole.namelist():
            archive.writestr(name, whole.read(name))
        archive.writestr(place, content, zipfile.ZIP_DEFLATED, compresslevel=1)
        archive.getinfo(place).compress_size = 100 << 20  # as the directory at the end declares it
    with pytest.raises(RunError, match="claims to contain 200 MiB: do not trust it"):
        unpack(Store(new_home()), bomb)


def test_links_among_the_artifacts_are_not_packed(packed, store, tmp_path):
    """A home folder of others may contain links to private files."""
    (tmp_path / "private.txt").write_text("secret")
    (cell,) = store.runs(role="cell")
    for name in ("link.txt", "model/link.txt"):
        (store.artifact(cell) / name).symlink_to(tmp_path / "private.txt")
    pack(store, store.runs(study="s"), tmp_path / "linked.zip")
    assert (tmp_path / "linked.zip").read_bytes() == packed.read_bytes()


@pytest.mark.parametrize("name", ["O'Brien 50% “é”", "both ' and \"", "-x", "_"])
def test_odd_names_of_studies_and_arms_are_carried(name, store, new_home, tmp_path):
    run = store.begin(experiment=name, name=name, tags={"study": name, "arm": name})
    run.text("note.txt", name)
    store.register(model="d-segment", run_id=run.run_id, tags={"note": name}, alias="challenger")
    run.finish("FINISHED")
    pack(store, store.runs(study=name), tmp_path / "odd.zip")
    there = Store(new_home())
    assert [unpack(there, tmp_path / "odd.zip").versions for _ in range(2)] == [1, 0]
    (copy,) = there.runs(study=name, arm=name)
    assert there.read_text(copy, "note.txt") == name
    assert [one.tags["note"] for one in there.client.search_model_versions()] == [name]


def test_runs_of_a_pack_are_not_newer_than_those_that_follow(packed, new_home):
    """Commands take the newest run by default; the clock of the other site may be wrong."""
    there = Store(new_home())
    unpack(there, rewritten(packed, changed_run("start_time", 4_000_000_000_000)))
    run = there.begin(experiment="e", name="own", tags={"stage": "pretrain"})
    assert there.runs(limit=1)[0].info.run_id == run.run_id
    assert there.runs(limit=1)[0].info.start_time < 3_000_000_000_000


def test_files_that_a_killed_unpack_left_are_removed(packed, new_home):
    there = Store(new_home())
    left = there.home / ".unpacking" / "runs" / "7"
    left.mkdir(parents=True)
    (left / "scan.bin").write_bytes(b"left")
    unpack(there, packed)
    assert not left.parent.exists()


def test_a_pack_with_a_changed_byte_is_rejected_or_complete(packed, new_home):
    whole, there = packed.read_bytes(), Store(new_home())
    broken = packed.with_name("broken.zip")
    for place in range(0, len(whole), max(1, len(whole) // 25)):
        broken.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        try:
            unpack(there, broken)
        except RunError:
            assert there.runs() == []
        else:  # an unused byte, such as one of a timestamp: the study must be complete
            assert len(there.runs()) == 2
            there = Store(new_home())


def test_a_pipe_is_not_waited_for(tmp_path, new_home):
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(RunError, match="expected a regular file, got a folder, device or pipe"):
        unpack(Store(new_home()), tmp_path / "pipe.zip")


@pytest.mark.parametrize("length", [0, 10, 500])
def test_a_truncated_pack_is_rejected(length, packed, new_home):
    short = packed.with_name("short.zip")
    short.write_bytes(packed.read_bytes()[:length])
    with pytest.raises(RunError, match="expected a complete file written by `medmim pack`"):
        unpack(Store(new_home()), short)
