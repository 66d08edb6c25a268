import errno
import json

import pytest
import torch

from medmim import files
from medmim.errors import RunError
from medmim.training.weights import WEIGHTS, load_weights, reserved_room, save_weights

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(1, dtype=torch.int64)}


def test_weights_are_read_back_with_their_description(tmp_path):
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


def test_missing_weights_are_an_error(tmp_path):
    with pytest.raises(
        RunError, match=r"no weights at .*: expected weights\.safetensors and next to it weights\.json"
    ):
        load_weights(tmp_path / WEIGHTS)
    path = save_weights(tmp_path, TENSORS, {})
    path.with_suffix(".json").unlink()
    with pytest.raises(RunError, match="no weights at"):
        load_weights(path)


def test_damaged_weights_are_an_error(tmp_path):
    path = save_weights(tmp_path, TENSORS, {})
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(RunError, match=r"are damaged: the SHA-256 in weights\.json differs"):
        load_weights(path)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_damaged_description_is_an_error(tmp_path, text):
    path = save_weights(tmp_path, TENSORS, {})
    path.with_suffix(".json").write_text(text)
    with pytest.raises(RunError, match="cannot be read"):
        load_weights(path)


def test_a_file_in_another_format_is_an_error(tmp_path):
    path = tmp_path / WEIGHTS
    torch.save(TENSORS, path)
    path.with_suffix(".json").write_text(json.dumps({"sha256": files.sha256_of(path)}))
    with pytest.raises(RunError, match=r"cannot be read \(SafetensorError\)"):
        load_weights(path)


def test_non_finite_weights_are_not_saved(tmp_path):
    with pytest.raises(RunError, match="the weights are not finite, so they are not saved: lower --lr"):
        save_weights(tmp_path, {**TENSORS, "c": torch.tensor([1.0, float("nan")])}, {})
    assert not list(tmp_path.iterdir())


def test_the_room_of_the_weights_is_reserved_during_the_training(tmp_path, caplog):
    network = torch.nn.Linear(100, 100)
    with reserved_room(tmp_path, network):
        [room] = tmp_path.iterdir()
        reserved = room.stat().st_size
        saved = save_weights(tmp_path, network.state_dict(), {})
        assert not room.exists()
    assert saved.stat().st_size + saved.with_suffix(".json").stat().st_size < reserved
    with pytest.raises(ValueError, match="failed"), reserved_room(tmp_path, network):
        raise ValueError("the training failed")
    assert not room.exists()
    assert f"the weights are kept in '{saved}', for --init or --model" in caplog.text
    saved.with_suffix(".json").unlink()
    caplog.clear()
    with pytest.raises(ValueError, match="failed"), reserved_room(tmp_path, network):
        raise ValueError("the training failed before its end")
    assert not caplog.text


def test_on_a_full_disk_older_states_make_room_for_the_weights(tmp_path):
    for number in (1, 2):
        path = tmp_path / f"state-{number:06d}.safetensors"
        path.write_bytes(b"state")
        path.with_name(f"{path.name}.sha256").write_text(files.sha256_of(path))

    def write(path, content):
        if (tmp_path / "state-000001.safetensors").exists():
            raise files.WriteError(errno.ENOSPC, "No space left on device")
        files.write_bytes(path, content)

    saved = save_weights(tmp_path, {"weight": torch.ones(2)}, {}, write=write)
    assert saved.is_file()
    assert [path.name for path in tmp_path.glob("state-*.safetensors")] == ["state-000002.safetensors"]
