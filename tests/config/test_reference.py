"""The reference of settings is generated from the code and complete."""

from dataclasses import fields
from pathlib import Path

import pytest

from medmim.config.reference import reference_page, settings_of, task_options
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
