"""Violations of the habits that `tests/test_architecture.py` holds, and the list of those that are accepted.

The list may only shrink: `python tests/helpers/habits.py` removes what has been mended and adds nothing.
"""

import ast
import json
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent
PACKAGE = ROOT / "medmim"
ALLOWED = TESTS / "accepted_violations.json"
MIN_MODULE_LINES = 50
TABLE_ROOMS = ("masks", "encoders", "methods", "heads", "cli")  # one entry of a table, or command, per module
_IRREGULAR = "Told|Made|Fed|Sent|Found|Chosen|Known|Held|Kept|Given|Taken|Drawn|Shown|Seen|Done|Built|Written"
_PARTICIPLE = re.compile(rf"([a-z]ed|{_IRREGULAR})$")
_NOUNS = ("Masked", "Packed")  # terms of the field: a masked or packed tensor


@cache
def trees(folder):
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))}


def imported(node):
    """The dotted names that an import statement brings in."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []


def imports_of_tests():
    return [
        (path, node)
        for path, tree in trees(TESTS).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    ]


def classes():
    return [
        node.name
        for tree in trees(PACKAGE).values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]


def repeated_class_names():
    return sorted(name for name, count in Counter(classes()).items() if count > 1)


def class_names_that_are_participles():
    return sorted(name for name in classes() if _PARTICIPLE.search(name) and name not in _NOUNS)


def modules_without_a_test():
    missing = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        test = TESTS / place.parent / f"test_{place.name}"
        if not place.name.startswith("__") and not test.is_file():
            missing.append(str(place))
    return missing


def short_modules():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if not place.name.startswith("__") and place.parts[0] not in TABLE_ROOMS and lines < MIN_MODULE_LINES:
            found.append(str(place))
    return found


def tests_that_import_tests():
    found = []
    for path, tree in trees(TESTS).items():
        names = [name for node in ast.walk(tree) for name in imported(node)]
        if any(re.match(r"(tests\.|test_|conftest\b)", name) for name in names):
            found.append(str(path.relative_to(TESTS)))
    return found


def _called(node, owner, name):
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == name
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in owner
    )


def raises_without_match():
    """Test file → number of `pytest.raises` without `match`."""
    found = {}
    for path, tree in trees(TESTS).items():
        calls = [node for node in ast.walk(tree) if _called(node, ("pytest",), "raises")]
        if count := sum(all(word.arg != "match" for word in call.keywords) for call in calls):
            found[str(path.relative_to(TESTS))] = count
    return found


def patches_of_own_names():
    """Test file → number of `monkeypatch.setattr` on names of medmim."""
    found = {}
    for path, tree in trees(TESTS).items():
        own = {
            (alias.asname or alias.name).split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
            if (getattr(node, "module", None) or alias.name).split(".")[0] == "medmim"
        }
        calls = [
            node
            for node in ast.walk(tree)
            if _called(node, ("monkeypatch", "patch"), "setattr") and node.args
        ]
        if count := sum(_is_own(call.args[0], own) for call in calls):
            found[str(path.relative_to(TESTS))] = count
    return found


def _is_own(target, own):
    if isinstance(target, ast.Constant):
        return str(target.value).startswith("medmim")
    while isinstance(target, ast.Attribute):
        target = target.value
    return isinstance(target, ast.Name) and target.id in own


def graph_of(room):
    """Imports between the parts (sub-folders and modules) of a room: part → parts that it imports."""
    graph = defaultdict(set)
    inside = {path: tree for path, tree in trees(PACKAGE).items() if (PACKAGE / room) in path.parents}
    for path, tree in inside.items():
        own = path.relative_to(PACKAGE / room).parts[0].removesuffix(".py")
        for name in (name for node in ast.walk(tree) for name in imported(node)):
            parts = name.split(".")
            if parts[:2] == ["medmim", room] and len(parts) > 2 and parts[2] != own and own != "__init__":
                graph[own].add(parts[2])
    return graph


CHECKS = {
    check.__name__: check
    for check in (
        repeated_class_names,
        class_names_that_are_participles,
        modules_without_a_test,
        short_modules,
        tests_that_import_tests,
        raises_without_match,
        patches_of_own_names,
    )
}


def accepted():
    return json.loads(ALLOWED.read_text(encoding="utf-8"))


def new_violations(name):
    """Violations of one habit that are not on the list, or more of them in a file than listed."""
    found, known = CHECKS[name](), accepted()[name]
    if isinstance(found, dict):
        return {file: count for file, count in found.items() if count > known.get(file, 0)}
    return [one for one in found if one not in known]


def prune():
    """Remove mended violations from the list."""
    kept = {}
    for name, known in accepted().items():
        found = CHECKS[name]()
        if isinstance(found, dict):
            kept[name] = {file: min(count, found[file]) for file, count in known.items() if found.get(file)}
        else:
            kept[name] = [one for one in known if one in found]
    ALLOWED.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    prune()
