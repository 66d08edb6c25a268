import json

import pytest
from pydantic import ValidationError

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.config.study import StudySettings, settings_of_result
from medmim.config.value_types import read_init_map
from medmim.config.yaml_settings import resolve
from medmim.errors import SettingsError

RULES = "encoder: resnet18\nencoder_options: {max_pool: true}\nkeys:\n  'a\\.(.+)': 'stem.\\1'\n"


def test_an_init_map_is_read_from_its_file_and_stored_by_value(tmp_path):
    (tmp_path / "rules.yaml").write_text(RULES)
    settings = resolve(FinetuneSettings, flags={"init_map": str(tmp_path / "rules.yaml")})
    assert settings.init_map.keys == {r"a\.(.+)": r"stem.\1"}
    stored = settings.model_dump(mode="json")
    assert FinetuneSettings.model_validate(stored) == settings
    assert str(tmp_path) not in str(stored["init_map"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encoder: resnet18\nkeys: {'a(': b}\n", r"expected patterns, got 'a\('"),
        (
            "encoder: resnet18\nkeys: {a: '\\2'}\n",
            r"expected patterns, got 'a' → '\\2': invalid group reference",
        ),
        ("encoder: resnet18\nkeys: {}\n", "at least 1 item"),
        ("keys: {a: b}\n", "encoder"),
    ],
)
def test_an_init_map_that_cannot_work_is_refused(tmp_path, text, message):
    (tmp_path / "rules.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        resolve(FinetuneSettings, flags={"init_map": str(tmp_path / "rules.yaml")})
    with pytest.raises(SettingsError, match=message):
        read_init_map(tmp_path / "rules.yaml")


def test_regions_keep_their_order_when_settings_are_stored_sorted():
    given = FinetuneSettings(regions={"whole": [1, "core"], "core": "core", "rest": 3})
    assert given.regions == (("whole", (1, "core")), ("core", ("core",)), ("rest", (3,)))
    stored = json.loads(json.dumps(given.model_dump(mode="json"), sort_keys=True))
    assert FinetuneSettings(**stored).regions == given.regions
    with pytest.raises(SettingsError, match="'a' is given twice"):
        resolve(FinetuneSettings, overrides=["regions={a: [1], a: [2]}"])
    with pytest.raises(SettingsError, match="expected regions such as"):
        resolve(FinetuneSettings, overrides=["regions=whole"])


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "x" * 201])
def test_names_that_are_no_folder_are_rejected(name):
    with pytest.raises(ValidationError, match="should"):
        PretrainSettings(experiment=name)
    with pytest.raises(ValidationError, match="should"):
        StudySettings(name=name[:61])


def test_an_augmentation_file_is_recorded_with_its_content(tmp_path):
    """Runs with two contents of one file are neither equal nor repetitions of each other."""
    file, found = tmp_path / "strong.yaml", []
    for gamma in (0.1, 0.9):
        file.write_text(f"preset: light\ngamma: {gamma}\n")
        found.append(resolve(FinetuneSettings, overrides=[f"augment={file}"]))
    assert [one.augment for one in found] == [{"preset": "light", "gamma": gamma} for gamma in (0.1, 0.9)]
    assert settings_of_result(found[0]) != settings_of_result(found[1])
    assert FinetuneSettings.model_validate(found[0].model_dump(mode="json")) == found[0]
    with pytest.raises(SettingsError, match=r"none\.yaml: expected a YAML text file"):
        resolve(FinetuneSettings, overrides=[f"augment={tmp_path / 'none.yaml'}"])
