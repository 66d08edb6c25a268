"""README, docs and tutorials: links lead somewhere, generated parts are complete, and tutorials run."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner

from medmim.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
SHORT = {**tiny.TINY, "steps": 2, "num_evaluations": 1}


def built():
    spec = importlib.util.spec_from_file_location("build_pages", DOCS / "build_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 700


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


def test_questions_of_contributors_lead_to_modules():
    places = re.findall(r"\? \| `(\S+)` \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(places) == 10
    assert [place for place in places if not (ROOT / place).is_file()] == []


def test_every_page_is_in_the_navigation():
    known = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(known) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_search_on_the_disk_loads_nothing_from_the_internet():
    """Without a script of this name, the theme's plugin `offline` adds one from a server."""
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    [script] = re.findall(r"polyfills: \[(\S*iframe-worker\S*)\]", settings)
    assert "  - offline" in settings
    assert "https:" not in (DOCS / script).read_text(encoding="utf-8")


def test_generated_parts_are_complete():
    pages = built()
    page = pages.on_page_markdown((DOCS / "commands.md").read_text(encoding="utf-8"))
    assert all(f"\n## {name}\n" in page for name in COMMANDS)
    page = pages.on_page_markdown((DOCS / "errors.md").read_text(encoding="utf-8"))
    assert "| `truncated` |" in page
    assert "copy it again" in page
    page = pages.on_page_markdown((DOCS / "masks.md").read_text(encoding="utf-8"))
    assert "## mesh" in page
    assert all((DOCS / link).is_file() for link in re.findall(r"\]\((pictures/\S+)\)", page))
    page = pages.on_page_markdown((DOCS / "methods.md").read_text(encoding="utf-8"))
    assert "## spark" in page
    assert "| compile with packed cells |" in page


def blocks(page):
    """Yield language, file name and text of the code blocks of a page."""
    yield from re.findall(r"```(\w+)(?: file=(\S+))?\n(.*?)```", page, flags=re.DOTALL)


def shortened(text, *, own_encoder):
    """Return code or commands with trainings of two steps; the encoder of a page stays."""
    as_keywords = ", ".join(f"{key}={value!r}" for key, value in SHORT.items())
    as_items = ", ".join(f'"{key}": {value!r}' for key, value in SHORT.items())
    tiny_words = tiny.TINY_WORDS
    if own_encoder:
        tiny_words = ["--size", "32", "--batch-size", "2", "--workers", "0", "--precision", "fp32"]
    words = shlex.join([*tiny_words, "--steps", "2", "--set", "num_evaluations=1"])
    text = re.sub(r"\bminutes=\d+", as_keywords, text)
    text = re.sub(r'"minutes": \d+', as_items, text).replace("seeds=[0, 1]", "seeds=[0]")
    return re.sub(r"--minutes \d+", words, text)


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorials_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "runs"))
    if page.stem != "own_dicom":
        tiny.make_dataset(tmp_path / "medmim-data")
    names, run, content = {}, "", page.read_text(encoding="utf-8")
    own = "--encoder" in content
    for language, name, text in blocks(content):
        if name:
            (tmp_path / name).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(shortened(text, own_encoder=own), page.name, "exec"), names)
        elif language == "sh":
            for line in text.splitlines():
                words = shlex.split(shortened(line, own_encoder=own).replace("RUN", run))
                result = CliRunner().invoke(main, words[1:])
                assert result.exit_code == 0, (line, result.output, result.exception)
                found = re.search(r"^run +(\w+)", result.stdout, flags=re.M)
                run = found[1] if found else run
