"""The house rules that a machine can check: arrows one way, small parts, nothing hidden.

Everything is read from the source with `ast`; only `test_help_does_not_load_what_it_does_not_need` runs the
command line. A new package finds its place in `ORDER`.
"""

import ast
import graphlib
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import habits
import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "medmim"

# left to right: who may import whom; those before "config" are the shared ground
ORDER = ["errors", "files", "text_formats", "pages", "notebook", "shapes", "randomness", "distributed"]
ORDER += ["operating_system", "config"]
ORDER += ["data", "masks", "encoders", "heads", "methods", "training", "tracking", "stages", "api", "cli"]
ROOM_ORDER = {"data": ("dataset", "sandbox", "formats", "dicom", "loading", "synthetic", "ingest")}
LATE_IMPORTS = ("stages", "api", "cli")  # so that `--help` stays fast and a stage loads only what it runs
HEAVY = ("torch", "monai", "lightning", "mlflow")

MODULE_LINES = 300
FUNCTION_LINES = 40

MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)

every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))


def part_of(path):
    """The name in `ORDER` that a module belongs to; None for medmim/__init__.py and __main__.py."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return None if first in ("__init__", "__main__") else first


def imported(node):
    """The dotted names that an import statement brings in."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, FUNCTION)]


def body_lines(function):
    """Lines of a function from `def` to its end, without its docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - documented * (first.end_lineno - first.lineno + 1)


def where(path, node):
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_part_has_its_place_in_the_order():
    assert {part_of(path) for path in MODULES} - {None} <= set(ORDER)


@every_module
def test_imports_only_from_the_left(path):
    own = part_of(path)
    if own is None:
        public = {"api", "encoders", "masks", "methods"}  # names for type checkers, imported when used
        allowed = public if path.name == "__init__.py" else {"cli"}
    else:
        allowed = set(ORDER[: ORDER.index(own) + 1]) | {"__version__"}
    for node in ast.walk(TREES[path]):
        for name in imported(node):
            if name.split(".")[0] == "medmim":
                assert f"{name}.".split(".")[1] in allowed, f"{where(path, node)} imports {name}"


@every_module
def test_has_no_relative_imports(path):
    for node in ast.walk(TREES[path]):
        assert not (isinstance(node, ast.ImportFrom) and node.level), where(path, node)


@every_module
def test_imports_stand_at_the_top(path):
    if part_of(path) in LATE_IMPORTS:
        return
    inside = chain.from_iterable(ast.walk(function) for function in functions(TREES[path]))
    for node in inside:
        assert not isinstance(node, (ast.Import, ast.ImportFrom)), (
            f"{where(path, node)}: import in a function"
        )


@every_module
def test_stars_are_not_imported(path):
    for node in ast.walk(TREES[path]):
        assert not any(name.endswith(".*") for name in imported(node)), where(path, node)


@every_module
def test_is_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MODULE_LINES, f"{path.relative_to(ROOT)}: {lines} lines"


@every_module
def test_functions_are_short(path):
    for function in functions(TREES[path]):
        lines = body_lines(function)
        assert lines <= FUNCTION_LINES, f"{where(path, function)} {function.name}: {lines} lines"


@every_module
def test_first_line_says_what_is_inside(path):
    first = TREES[path].body[0]
    assert ast.get_docstring(TREES[path]), "a module opens with its docstring"
    assert first.lineno == 1, "the docstring is the first line"
    assert len(ast.get_docstring(TREES[path]).splitlines()[0]) > 10, "the first line is a sentence"


@every_module
def test_prints_only_in_the_command_line(path):
    if part_of(path) == "cli":
        return
    for node in ast.walk(TREES[path]):
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id
        assert called != "print", where(path, node)


@every_module
def test_keeps_no_state_in_globals(path):
    for node in ast.walk(TREES[path]):
        assert not isinstance(node, ast.Global), where(path, node)


@every_module
def test_swallows_no_errors(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where(path, node)}: bare except"
            assert not all(isinstance(line, ast.Pass) for line in node.body), (
                f"{where(path, node)}: swallowed"
            )


@every_module
def test_leaves_nothing_for_later(path):
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError")
    found = [line for line in path.read_text(encoding="utf-8").splitlines() if words.search(line)]
    assert not found


def own_files():
    """Files that git tracks or would; without git, everything beside the package that is text."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        folders = [PACKAGE, ROOT / "tests", ROOT / "configs", ROOT / "data_manifests"]
        return [path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def test_no_file_names_a_place_on_somebodys_machine():
    places = re.compile(rb"(?<![\w.~$}>])/(?:work|root|tmp)(?![\w-])")
    for path in own_files():
        content = path.read_bytes() if path.is_file() else b""
        found = None if b"\0" in content else places.search(content)
        assert not found, f"{path.relative_to(ROOT)} names {found.group().decode()}"


@pytest.mark.parametrize(
    "command",
    ["import medmim; dir(medmim)", "import medmim.cli", "from medmim.cli import main; main(['--help'])"],
    ids=["package", "import", "help"],
)
def test_help_does_not_load_what_it_does_not_need(command):
    program = (
        f"import sys\ntry:\n    {command.replace('; ', chr(10) + '    ')}\nexcept SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"print('loaded:', *[name for name in {HEAVY} if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1].strip() == "loaded:"


@pytest.mark.parametrize("habit", habits.CHECKS)
def test_habits_get_no_new_violations(habit):
    found = habits.new_violations(habit)
    assert not found, f"{habit}: mend them; tests/accepted_violations.json only shrinks (or follows a rename)"


@pytest.mark.parametrize("room", ORDER[ORDER.index("config") :])
def test_parts_of_a_room_import_one_way(room):
    """Sub-folders and modules of a room form no cycle; where an order is given, they keep it."""
    graph, order = habits.graph_of(room), ROOM_ORDER.get(room, ())
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    for part in order:
        later = graph[part] & set(order[order.index(part) :])
        assert not later, f"{room}/{part} imports {room}/{', '.join(sorted(later))}"
