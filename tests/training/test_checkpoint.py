import json

import lightning
import pytest
import torch

from medmim import files
from medmim.errors import RunError
from medmim.training.checkpoint import STATE, WEIGHTS, load_weights, save_state, save_weights, verified_state

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(1, dtype=torch.int64)}


class Saver(lightning.Trainer):
    """Saves what it is told to."""

    def __init__(self, content):
        self.content = content

    def save_checkpoint(self, path):
        torch.save(self.content, path)


def test_weights_come_back_with_their_description(tmp_path):
    path = save_weights(tmp_path, TENSORS, {"kind": "test"})
    assert path == tmp_path / WEIGHTS
    weights, description = load_weights(path)
    assert description == {"kind": "test", "sha256": files.sha256_of(path)}
    assert all(torch.equal(weights[name], value) for name, value in TENSORS.items())


def test_equal_weights_give_equal_bytes(tmp_path):
    first = save_weights(tmp_path / "a", TENSORS, {})
    other = {"a": TENSORS["a"].clone(), "b": TENSORS["b"].t().contiguous().t()}
    assert first.read_bytes() == save_weights(tmp_path / "b", other, {}).read_bytes()


def test_tied_weights_can_be_saved(tmp_path):
    shared = torch.ones(3)
    weights, _ = load_weights(save_weights(tmp_path, {"a": shared, "b": shared, "c": shared[:2]}, {}))
    assert weights["c"].shape == (2,)


def test_missing_weights_are_told(tmp_path):
    with pytest.raises(
        RunError, match=r"no weights at .*: expected weights\.safetensors with weights\.json beside"
    ):
        load_weights(tmp_path / WEIGHTS)
    path = save_weights(tmp_path, TENSORS, {})
    path.with_suffix(".json").unlink()
    with pytest.raises(RunError, match="no weights at"):
        load_weights(path)


def test_damaged_weights_are_told(tmp_path):
    path = save_weights(tmp_path, TENSORS, {})
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(RunError, match=r"are damaged: their SHA-256 is not the one in weights\.json"):
        load_weights(path)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_damaged_description_is_told(tmp_path, text):
    path = save_weights(tmp_path, TENSORS, {})
    path.with_suffix(".json").write_text(text)
    with pytest.raises(RunError, match="cannot be read"):
        load_weights(path)


def test_what_is_no_safetensors_file_is_told(tmp_path):
    path = tmp_path / WEIGHTS
    torch.save(TENSORS, path)
    path.with_suffix(".json").write_text(json.dumps({"sha256": files.sha256_of(path)}))
    with pytest.raises(RunError, match=r"cannot be read \(SafetensorError\)"):
        load_weights(path)


def test_a_state_is_saved_and_verified(tmp_path):
    save_state(Saver({"global_step": 3}), tmp_path / "run")
    assert torch.load(verified_state(tmp_path / "run"), weights_only=True) == {"global_step": 3}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {STATE, f"{STATE}.sha256"}


def test_a_missing_state_is_told(tmp_path):
    with pytest.raises(RunError, match="no saved state to resume: start it again without --resume"):
        verified_state(tmp_path)


def test_a_damaged_state_is_told(tmp_path):
    save_state(Saver({"global_step": 3}), tmp_path)
    content = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunError, match="damaged"):
        verified_state(tmp_path)


@pytest.mark.parametrize("write", range(4))
def test_a_stop_while_saving_leaves_a_state_to_resume(tmp_path, monkeypatch, write):
    """Whatever the moment, the old state or the new one is there and valid."""
    save_state(Saver({"global_step": 3}), tmp_path)
    done = 0
    real = files.write_bytes

    def stopping(path, content, **words):
        nonlocal done
        if done == write:
            raise KeyboardInterrupt
        done += 1
        real(path, content, **words)

    monkeypatch.setattr(files, "write_bytes", stopping)
    try:
        save_state(Saver({"global_step": 6}), tmp_path)
    except KeyboardInterrupt:
        assert write < 3
    assert torch.load(verified_state(tmp_path), weights_only=True)["global_step"] in (3, 6)
