"""The Python interface: names, signatures, results, and the examples of README and docs."""

import re
from pathlib import Path

import pytest
import tiny

import medmim
from medmim.errors import RunError, SettingsError

ROOT = Path(__file__).parents[1]
PUBLIC = """build_encoder build_mask build_method compare evaluate export finetune ingest load_encoder
load_model masks methods open_dataset packed predict pretrain study"""


def examples(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def in_study(study, tmp_path, monkeypatch):
    """A working folder whose home is that of a finished study, with its dataset at medmim-data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "medmim-data").symlink_to(study.data)
    monkeypatch.setenv("MEDMIM_HOME", str(study.home))
    return study


def test_public_names_are_those_of_all():
    assert set(medmim.__all__) == {"__version__", *PUBLIC.split()}
    assert all(getattr(medmim, name) for name in medmim.__all__)
    assert (ROOT / "medmim/py.typed").is_file()


def test_unknown_names_raise_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        _ = medmim.pretrian


def test_help_of_a_function_lists_its_settings():
    assert "ratio (number > 0 and < 1): share of mask cells to hide." in medmim.pretrain.__doc__
    assert "num_labelled" in str(medmim.finetune.__signature__)


def test_wrong_settings_are_rejected_with_a_suggestion():
    with pytest.raises(SettingsError, match="did you mean 'minutes'"):
        medmim.pretrain(minuts=3)


def test_the_readme_example_runs(tmp_path, tiny_dataset, monkeypatch):
    [example] = examples("README.md")
    short = ", ".join(
        f"{key}={value!r}" for key, value in {**tiny.TINY, "steps": 2, "num_evaluations": 1}.items()
    )
    example = re.sub(r"minutes=\d+", short, example).replace('"/dicom"', repr(str(tmp_path / "source")))
    scan = next((tiny_dataset / "volumes").rglob("*.nii.gz"))
    (tmp_path / "scan.nii.gz").write_bytes(scan.read_bytes())
    (tmp_path / "medmim-data").symlink_to(tiny_dataset)
    example = re.sub(r"^medmim\.ingest.*\n", "", example, flags=re.M)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "runs"))
    exec(compile(example, "README.md", "exec"), {})


def test_examples_of_the_documentation_run(in_study):
    names = {"pretrained": in_study.pretrained}
    first, *rest = examples("docs/python.md")
    assert "medmim.compare" in first  # the README's example, which has its own test
    for example in rest:
        exec(compile(example, "docs/python.md", "exec"), names)
    assert names["found"].labels.shape == (20, 16, 16)
    assert names["encoder"].channels == (4, 8, 8)


def test_models_are_found_by_alias(in_study):
    assert "tiny-segment" in repr(medmim.load_model("tiny-segment@challenger"))
    with pytest.raises(RunError, match="no-such"):
        medmim.load_model("no-such@champion")


def test_results_show_tables(in_study):
    assert "95 % interval" in in_study.tuned._repr_html_()
    assert "train  7        7       7\n" in str(medmim.open_dataset())
    assert "arm" in str(medmim.compare(in_study.tuned, in_study.scratch))
