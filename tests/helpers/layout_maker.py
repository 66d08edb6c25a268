"""Layouts as lists of path templates, inferred without any file: the facts of volumes are given.

`{n}` is the number of a case. `L:` marks files with few small whole numbers, `B:` files with one class, `N:`
files with few whole numbers, none of them 0.
"""

from pathlib import Path

import pytest

from medmim.data.ingest.infer_layout import CaseInference, infer_cases
from medmim.data.ingest.infer_roles import AmbiguousLayoutError, Candidate
from medmim.data.ingest.layout_rules import InferenceRules
from medmim.data.ingest.path_words import PathWords
from medmim.data.ingest.volume_facts import VolumeFacts

ROOT = Path("source")
NUMBERS = (1, 2, 3, 12)


def make_facts(kind: str = "") -> VolumeFacts:
    """Return the facts of a scan, a label (`L`, `N` without background) or a mask with one class (`B`)."""
    classes = {"": None, "L": (1, 2, 3), "B": (1,), "N": (1, 2)}[kind]
    affine = (1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0, 0)
    return VolumeFacts(shape=(8, 7, 6), affine=affine, classes=classes, background=kind != "N")


def expand(templates: list[str]) -> dict[str, VolumeFacts]:
    """Return the paths of a layout with their facts."""
    found = {}
    for template in templates:
        kind, path = (template[0], template[2:]) if template[1] == ":" else ("", template)
        found |= {path.format(n=number): make_facts(kind) for number in NUMBERS}
    return found


def make_candidates(templates: list[str]) -> list[Candidate]:
    """Return examined candidates with the roles that their names give."""
    known = expand(templates)
    words = {relative: PathWords(relative) for relative in known}
    return [Candidate(ROOT / name, words[name], words[name].role, facts) for name, facts in known.items()]


def infer(templates: list[str], rules: InferenceRules | None = None) -> CaseInference:
    """Return the cases of a layout."""
    return infer_known(expand(templates), rules)


def infer_known(known: dict[str, VolumeFacts], rules: InferenceRules | None = None) -> CaseInference:
    """Return the cases of files with these facts."""
    paths = {relative: ROOT / relative for relative in known}

    def examine(wanted):
        return {path: known[path.relative_to(ROOT).as_posix()] for path in wanted}

    return infer_cases(paths, examine=examine, declared={}, rules=rules or InferenceRules())


def count(found: CaseInference) -> tuple[int, int, int, int]:
    """Return the numbers of images, labelled images, visits and patients."""
    visits = {(case.subject, case.study) for case in found.cases}
    labelled = sum(bool(case.labels) for case in found.cases)
    return len(found.cases), labelled, len(visits), len({case.subject for case in found.cases})


def assert_stops_with_both_readings(templates, match):
    """Assert that a layout is refused, with both readings and the options that decide between them."""
    with pytest.raises(AmbiguousLayoutError, match=match) as caught:
        infer(templates)
    assert caught.value.reason == "ambiguous_layout"
    assert "(1)" in str(caught.value)
    assert "(2)" in str(caught.value)
    assert "--" in str(caught.value)
