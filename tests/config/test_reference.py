"""The reference of settings is generated from the code and complete."""

from dataclasses import fields
from pathlib import Path

import pytest

from medmim.config.reference import reference_page, settings_of, study_schema, task_options, write_template
from medmim.config.runs import PretrainSettings
from medmim.config.study import StudySettings, trials_of
from medmim.config.yaml_settings import resolve
from medmim.errors import SettingsError, UsageError
from medmim.training.tasks.registry import TASKS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("task", ["pretrain", "segment", "classify", "detect", "study"])
def test_every_setting_has_a_type_and_a_meaning(task):
    assert [one.name for one in settings_of(task) if not one.type or not one.meaning] == []


@pytest.mark.parametrize("task", TASKS)
def test_every_option_of_a_task_is_described(task):
    described = {one.name.removeprefix("task_options.") for one in task_options(task)}
    refused = {"exclusive"} if task in ("multilabel", "ordinal") else set()
    assert {one.name for one in fields(TASKS[task])} - described == refused


def test_the_page_of_settings_is_current():
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    remake = (
        "python -c 'from medmim.config.reference import reference_page; print(reference_page(), end=\"\")'"
    )
    assert page == reference_page(), f"run {remake} > docs/settings.md"


def test_defaults_of_a_task_are_those_of_its_preset():
    defaults = {one.name: one.default for one in settings_of("detect")}
    assert defaults["foreground_fraction"] == "0.8"


def test_the_template_is_a_valid_study(tmp_path):
    path, schema = write_template(tmp_path / "my.yaml")
    assert schema.name in path.read_text(encoding="utf-8").splitlines()[0]
    study = resolve(StudySettings, config=str(path))
    assert study.name == "my"
    assert len(trials_of(study)) == 6


def test_existing_files_and_other_endings_are_refused(tmp_path):
    write_template(tmp_path / "my.yaml")
    with pytest.raises(UsageError, match="exists"):
        write_template(tmp_path / "my.yaml")
    with pytest.raises(UsageError, match=r"ends in \.yaml"):
        write_template(tmp_path / "my.txt")


def test_the_schema_describes_the_settings_of_both_stages():
    schema = study_schema()["properties"]
    assert schema["pretrain"]["properties"].keys() == PretrainSettings.model_fields.keys()
    assert schema["finetune"]["properties"]["num_labelled"]["description"].startswith("number of labelled")
    assert {"type": ["string", "number", "boolean"]} in schema["pretrain"]["properties"]["size"]["anyOf"]


@pytest.mark.parametrize(
    ("kind", "key", "place"),
    [
        (StudySettings, "steps", "'steps' belongs under `pretrain:` or `finetune:`"),
        (StudySettings, "num_labelled", "'num_labelled' belongs under `finetune:`"),
        (StudySettings, "mask", r"'mask' is a list in a study: masks: \[…\]"),
    ],
)
def test_errors_name_the_place_of_a_misplaced_setting(kind, key, place):
    with pytest.raises(SettingsError, match=place):
        resolve(kind, flags={key: 3})
