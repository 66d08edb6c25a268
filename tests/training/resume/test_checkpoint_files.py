import io
import json
import os
import pickle
import random
import signal
import struct
import sys
import tempfile
import zipfile

import lightning
import pytest
import safetensors.torch
import torch
from forks import fork
from torch import nn

from medmim import files
from medmim.errors import RunError
from medmim.training.resume.checkpoint_files import (
    KEPT,
    StateIO,
    encode_state,
    read_state,
    refuse_foreign,
    remove_states,
    save_state,
    verified_state,
)


class Module(lightning.LightningModule):
    """A layer trained with Adam."""

    def __init__(self, width=3):
        super().__init__()
        self.layer = nn.Linear(2, width)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def content(step, *, width=3):
    """Return the checkpoint that Lightning passes on after one step of Adam."""
    torch.manual_seed(step)
    module = Module(width)
    optimizer = module.configure_optimizers()
    module.layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return {
        "global_step": step,
        "state_dict": dict(module.state_dict()),
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {"best": -float("inf"), "rng": torch.arange(4, dtype=torch.uint8), "seen": (1, None)},
    }


class Saver(lightning.Trainer):
    """Saves a given state like a trainer with our plugin."""

    is_global_zero = True

    def __init__(self, content):
        self.content = content

    def save_checkpoint(self, path):
        StateIO().save_checkpoint(self.content, path)


def save(folder, *steps):
    for step in steps:
        save_state(Saver(content(step)), folder)


def same(first, second):
    """Return whether nested values are equal, including types and bits."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return type(first) is type(second) and all(map(same, first, second))
    return first == second and type(first) is type(second)


def test_a_saved_state_is_read_back_unchanged(tmp_path):
    state = content(3)
    StateIO().save_checkpoint(state, tmp_path / "state-000001.safetensors")
    assert same(read_state(tmp_path / "state-000001.safetensors"), state)


def test_only_tensors_and_plain_values_can_be_saved():
    with pytest.raises(TypeError, match="expected tensors and plain values in a state, got Module"):
        encode_state({"a": [Module()]})


def test_the_last_two_states_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3, 4)
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == [f"state-00000{n}.safetensors{end}" for n in (3, 4) for end in ("", ".sha256")]
    assert read_state(verified_state(tmp_path))["global_step"] == 4
    remove_states(tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_of_an_interrupted_save_are_removed(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".state-000002.safetensors.0123.tmp").write_bytes(b"half")
    (tmp_path / "state-000007.safetensors.sha256").write_text("0" * 64)
    save(tmp_path, 2)
    assert len(list(tmp_path.iterdir())) == 2 * KEPT


def test_a_non_finite_state_is_not_saved(tmp_path):
    save(tmp_path, 1)
    bad = content(2)
    bad["optimizer_states"][0]["state"][0]["exp_avg"][0] = float("inf")
    with pytest.raises(RunError, match="not finite, so this state is not saved"):
        save_state(Saver(bad), tmp_path)
    assert read_state(verified_state(tmp_path))["global_step"] == 1


def test_a_missing_state_is_an_error(tmp_path):
    with pytest.raises(RunError, match="no saved state to resume: start the run again without --resume"):
        verified_state(tmp_path)


def damaged(tmp_path, change):
    """Save two states, damage the newest, and return the step of the one that is found."""
    save(tmp_path, 1, 2)
    path = tmp_path / "state-000002.safetensors"
    path.write_bytes(change(path.read_bytes()))
    return path


def test_200_flipped_bits_are_detected_and_the_previous_state_is_used(tmp_path, caplog):
    chance = random.Random(0)
    path = damaged(tmp_path, lambda whole: whole)
    whole = path.read_bytes()
    for _ in range(200):
        place, bit = chance.randrange(len(whole)), chance.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        assert read_state(verified_state(tmp_path))["global_step"] == 1
    assert "saved state 2 of this run is damaged (SHA-256 differs): continuing from state 1" in caplog.text


def test_60_truncations_are_detected_and_the_previous_state_is_used(tmp_path):
    chance = random.Random(1)
    path = damaged(tmp_path, lambda whole: whole)
    whole = path.read_bytes()
    for length in [0, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(58))]:
        path.write_bytes(whole[:length])
        assert read_state(verified_state(tmp_path))["global_step"] == 1


def test_a_damaged_state_is_removed_by_the_next_save(tmp_path):
    damaged(tmp_path, lambda whole: whole[:-1])
    save(tmp_path, 3)
    assert {path.name[6:12] for path in tmp_path.iterdir()} == {"000001", "000003"}


def test_only_damaged_states_are_an_error(tmp_path, caplog):
    save(tmp_path, 1, 2)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(RunError, match="all saved states of this run are damaged"):
        verified_state(tmp_path)
    assert "continuing" not in caplog.text
    assert "saved state 1 of this run is damaged (SHA-256 differs): there is no intact one" in caplog.text


@pytest.mark.parametrize("operation", range(8))
def test_a_stop_at_any_write_leaves_a_state_to_resume(tmp_path, monkeypatch, operation):
    """At any moment, the old or the new state is complete."""
    save(tmp_path, 1, 2)
    done, stopped = 0, False
    for name in ("replace", "fsync"):
        real = getattr(os, name)

        def stopping(*words, real=real, **more):
            nonlocal done
            done += 1
            if done > operation:
                raise KeyboardInterrupt
            return real(*words, **more)

        monkeypatch.setattr(os, name, stopping)
    try:
        save(tmp_path, 3)
    except KeyboardInterrupt:
        stopped = True
    monkeypatch.undo()
    assert stopped == (operation < done)
    assert read_state(verified_state(tmp_path))["global_step"] in (2, 3)
    save(tmp_path, 4)
    assert len(list(tmp_path.iterdir())) == 2 * KEPT


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def header(entries, data=b"", *, length=None, tree='{"dict": []}'):
    """Return a safetensors file with a given header."""
    text = json.dumps({"__metadata__": {"tree": tree}, **entries}).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape, start, end):
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def bomb():
    """Return a zip file of a few kilobytes that unpacks to a hundred megabytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100_000_000))
    return stream.getvalue()


def escaping():
    """Return a zip file with a member outside its folder."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("../../escaped", b"x")
    return stream.getvalue()


def torch_saved(value):
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def valid_with_tree(tree):
    return safetensors.torch.save({"0": torch.ones(2)}, metadata={"tree": tree})


PAYLOADS = {
    "a pickle that runs": pickle.dumps,
    "a pickle in PyTorch's format": lambda canary: torch_saved({"global_step": 1, "x": canary}),
    "a harmless PyTorch file": lambda canary: torch_saved({"global_step": 1}),
    "an old protocol": lambda canary: pickle.dumps(canary, protocol=0),
    "a zip bomb": lambda canary: bomb(),
    "a zip that leaves its folder": lambda canary: escaping(),
    "a tensor larger than the file": lambda canary: header({"0": tensor([2**40], 0, 2**42)}),
    "sizes that overflow": lambda canary: header({"0": tensor([2**62, 2**62], 0, 4)}, bytes(4)),
    "tensors that overlap": lambda canary: header(
        {"0": tensor([2], 0, 8), "1": tensor([2], 4, 12)}, bytes(12)
    ),
    "a shape that is not the bytes": lambda canary: header({"0": tensor([3], 0, 8)}, bytes(8)),
    "a header larger than the file": lambda canary: header({}, length=2**40),
    "a name that is a path": lambda canary: header(
        {"../../escaped": tensor([1], 0, 4)}, bytes(4), tree='{"tensor": "../../other"}'
    ),
    "JSON a hundred thousand deep": lambda canary: valid_with_tree("[" * 100_000 + "]" * 100_000),
    "a kind that is not known": lambda canary: valid_with_tree('{"call": "os.system"}'),
    "a tensor that is not there": lambda canary: valid_with_tree('{"dict": [["x", {"tensor": "9"}]]}'),
    "no state at all": lambda canary: valid_with_tree('{"tensor": "0"}'),
    "no tree": lambda canary: safetensors.torch.save({"0": torch.ones(2)}),
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_a_malicious_file_with_the_right_hash_is_rejected(tmp_path, payload):
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "state-000001.safetensors"
    path.write_bytes(payload(Canary(tmp_path / "ran")))
    files.write_text(folder / f"{path.name}.sha256", files.sha256_of(path))
    with pytest.raises(RunError, match="the saved state of this run") as caught:
        read_state(verified_state(folder))
    assert "start the run again without --resume" in str(caught.value)
    assert {one.name for one in tmp_path.iterdir()} == {"run"}


def change(path, value):
    """Change the value of a state at a given key path."""

    def changed(state):
        *way, last = path
        place = state
        for key in way:
            place = place[key]
        if value is None:
            del place[last]
        else:
            place[last] = value
        return state

    return changed


@pytest.mark.parametrize(
    "changed",
    [
        change(["state_dict", "layer.weight"], torch.ones(7, 7)),
        change(["state_dict", "layer.weight"], None),
        change(["state_dict", "../../x"], torch.ones(1)),
        change(["state_dict", "layer.weight"], "os.system"),
        change(["optimizer_states", 0, "state", 0, "exp_avg"], torch.ones(5)),
        change(["optimizer_states", 0, "param_groups"], []),
        change(["optimizer_states", 0], "x"),
        change(["optimizer_states"], None),
    ],
)
def test_a_state_of_another_network_or_optimizer_is_rejected(changed):
    with pytest.raises(RunError, match="belongs to another network or optimizer"):
        refuse_foreign(changed(content(1)), Module())


def test_a_state_of_the_same_network_is_accepted():
    refuse_foreign(content(1), Module())


def die_at(operation):
    """Kill this process with SIGKILL before it opens, renames or removes a file for the nth time."""
    count = 0

    def look(event, words):
        nonlocal count
        if event in ("open", "os.rename", "os.remove"):
            count += 1
            if count > operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a second filesystem")  # noqa: PTH112
def test_25_kills_while_saving_with_tmpdir_on_another_filesystem_lose_no_good_state(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    monkeypatch.setattr(tempfile, "tempdir", None)
    folder = tmp_path / "run"
    save(folder, 1, 2)
    for number in range(25):
        child = fork()
        if not child:
            die_at(number)
            try:
                save(folder, *[10 + number] * 5)
            finally:
                os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        found = sorted(folder.glob("state-*.safetensors"))
        assert len(found) >= KEPT
        steps = {read_state(path)["global_step"] for path in found}  # every one of them can be read
        assert read_state(verified_state(folder))["global_step"] == max(steps) <= 10 + number
