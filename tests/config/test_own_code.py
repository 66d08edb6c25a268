import hashlib
import sys
import traceback

import pytest

from medmim.config.own_code import (
    CODE_TAG,
    TRUSTED,
    code_tags,
    explain_own_code,
    import_callable,
    refuse_foreign_code,
    trust,
    trust_settings,
)
from medmim.config.runs import PretrainSettings
from medmim.config.yaml_settings import resolve
from medmim.errors import RunError, UsageError


@pytest.fixture(autouse=True)
def nothing_trusted(monkeypatch):
    monkeypatch.setenv(TRUSTED, "")


NAMED = [
    {"encoder": "nets:build"},
    {"mask": "nets:build"},
    {"mask_options": {"rule": "nets:build"}},
    {"mask_options": {"masks": {"mesh": 1, "nets:build": 2}}},
    {"arms": [{"encoder": "nets:build"}]},
]


@pytest.mark.parametrize("values", NAMED)
def test_code_named_by_a_file_is_refused_until_the_user_names_it(values):
    message = "pack: needs the code 'nets:build', .* add --trust-code nets:build"
    with pytest.raises(RunError, match=message):
        refuse_foreign_code(values, source="pack")
    trust(["other:build"])
    with pytest.raises(RunError, match=message):
        refuse_foreign_code(values, source="pack")
    trust(["nets:build"])
    refuse_foreign_code(values, source="pack")


def test_paths_are_imported_at_the_users_word_only(monkeypatch):
    """The last barrier: a loader that forgot to check a description cannot import what it names."""
    words = {"word": "--mask", "expected": "a function"}
    with pytest.raises(RunError, match="--mask: needs the code 'json:loads'"):
        import_callable("json:loads", **words)
    trust(["json:loads"])
    assert import_callable("json:loads", **words)("7") == 7
    monkeypatch.delenv(TRUSTED)  # no command and no function of the API: the user's own Python call
    assert import_callable("json:dumps", **words)(7) == "7"


@pytest.mark.parametrize("values", NAMED)
def test_settings_of_the_user_are_trusted(values):
    trust_settings(values)
    refuse_foreign_code(values, source="run")


def test_other_texts_with_colons_are_no_code():
    refuse_foreign_code({"label_names": {"1": "tumour:core"}, "encoder": "vit"}, source="weights")


def test_flags_files_and_overrides_are_trusted(tmp_path):
    config = tmp_path / "own.yaml"
    config.write_text("mask: masks_in_file:rank\n", encoding="utf-8")
    resolve(PretrainSettings, config=str(config), flags={"encoder": "nets:flag"})
    resolve(PretrainSettings, overrides=["encoder=nets:override"])
    for path in ("masks_in_file:rank", "nets:flag", "nets:override"):
        refuse_foreign_code({"encoder": path}, source="weights")


def test_the_current_folder_is_searched_after_installed_packages(tmp_path, monkeypatch):
    (tmp_path / "own_nets_here.py").write_text("def build():\n    return 7\n", encoding="utf-8")
    (tmp_path / "json.py").write_text("raise AssertionError\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    trust(["own_nets_here:build", "json:loads"])
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert import_callable("own_nets_here:build", word="--encoder", expected="a network")() == 7
    assert import_callable("json:loads", word="--encoder", expected="a network")("7") == 7


@pytest.mark.parametrize("path", ["no_such_module_here:build", "json:no_such", ":build", "json:"])
def test_what_cannot_be_imported_is_one_usage_error(path):
    trust([path])
    with pytest.raises(UsageError, match=r"--mask .*: cannot import it \(.*'module:callable', a function"):
        import_callable(path, word="--mask", expected="a function")


def test_an_error_in_own_code_is_explained_by_its_last_calls(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_nets_that_fail.py").write_text(
        "def inner():\n    import no_such_package\n\ndef build():\n    inner()\n"
    )
    monkeypatch.delenv(TRUSTED)
    build = import_callable("own_nets_that_fail:build", word="--encoder", expected="a network")
    with pytest.raises(ModuleNotFoundError, match="no_such_package") as raised:
        build()
    assert explain_own_code(raised.value) is None
    trust(["own_nets_that_fail:build"])
    wrapped = RuntimeError("applying transform <f>")
    wrapped.__cause__ = raised.value
    copied = RuntimeError(f"Caught RuntimeError in worker.\n{''.join(traceback.format_exception(wrapped))}")
    assert explain_own_code(wrapped) == explain_own_code(copied) == explain_own_code(raised.value)
    line = explain_own_code(raised.value)
    assert line.startswith("your own code failed at own_nets_that_fail:2 in inner (ModuleNotFound")
    assert "own_nets_that_fail:5 in build → own_nets_that_fail:2 in inner" in line


def test_the_tag_of_own_code_changes_with_its_file(tmp_path, monkeypatch):
    """Without importing it; of a module that is imported, the file at that time counts."""
    monkeypatch.chdir(tmp_path)
    settings = {"mask": "nets_of_tag:build", "mask_options": {"rule": "json:loads"}, "augment": "no_such:one"}
    (tmp_path / "nets_of_tag.py").write_text("build = 1\n")
    assert code_tags(settings) == {}  # not trusted
    trust(["nets_of_tag:build", "no_such:one"])
    first = code_tags(settings)
    digest = hashlib.sha256(b"build = 1\n").hexdigest()[:16]
    assert first == {CODE_TAG: f"nets_of_tag {digest}"}
    (tmp_path / "nets_of_tag.py").write_text("build = 2\n")
    assert code_tags(settings) != first
    assert "nets_of_tag" not in sys.modules
    second = code_tags(settings)
    assert import_callable("nets_of_tag:build", word="mask", expected="a function") == 2
    (tmp_path / "nets_of_tag.py").write_text("build = 3\n")
    assert code_tags(settings) == second
    assert code_tags({"mask": "mesh", "encoder": "timm:resnet18"}) == {}
