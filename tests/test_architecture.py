"""The house rules that a machine can check: arrows one way, small parts, nothing hidden.

Everything is read from the source with `ast`; only `test_help_does_not_load_what_it_does_not_need` runs the
command line. A new package finds its place in `ORDER`.
"""

import ast
import graphlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import habits
import pytest
from habits import imported

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "medmim"

# left to right: who may import whom; those before "config" are the shared ground
ORDER = ["errors", "operating_system", "files", "arguments", "text_formats", "pages", "notebook", "shapes"]
ORDER += ["randomness", "distributed", "config"]
ORDER += ["data", "masks", "encoders", "heads", "methods", "training", "tracking", "stages", "api", "cli"]
ROOM_ORDER = {"data": ("dataset", "sandbox", "formats", "dicom", "loading", "synthetic", "ingest")}
LATE_IMPORTS = ("stages", "api", "cli")  # so that `--help` stays fast and a stage loads only what it runs
HEAVY = ("torch", "monai", "lightning", "mlflow")

MODULE_LINES = 300
FUNCTION_LINES = 40

MODULES = sorted(PACKAGE.rglob("*.py"))
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def part_of(path):
    """The name in `ORDER` that a module belongs to; None for medmim/__init__.py and __main__.py."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return None if first in ("__init__", "__main__") else first


@cache
def nodes_of(path):
    """Everything in a module, read when a test asks for it: all test processes import this file."""
    return list(ast.walk(habits.trees(PACKAGE)[path]))


def every_node(*kinds):
    return [(path, node) for path in MODULES for node in nodes_of(path) if isinstance(node, kinds)]


def body_lines(function):
    """Lines of a function from `def` to its end, without its docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - documented * (first.end_lineno - first.lineno + 1)


def where(path, node):
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_part_has_its_place_in_the_order():
    assert {part_of(path) for path in MODULES} - {None} <= set(ORDER)


def test_imports_only_from_the_left():
    found = []
    for path in MODULES:
        own = part_of(path)
        if own is None:
            public = {"api", "encoders", "masks", "methods"}  # names for type checkers, imported when used
            allowed = public if path.name == "__init__.py" else {"cli"}
        else:
            allowed = set(ORDER[: ORDER.index(own) + 1]) | {"__version__"}
        for node in nodes_of(path):
            own_names = [name for name in imported(node) if name.split(".")[0] == "medmim"]
            wrong = [name for name in own_names if f"{name}.".split(".")[1] not in allowed]
            found += [f"{where(path, node)} imports {name}" for name in wrong]
    assert not found


def test_imports_are_absolute_and_name_what_they_import():
    assert not [
        where(path, node)
        for path, node in every_node(ast.Import, ast.ImportFrom)
        if getattr(node, "level", 0) or any(name.endswith(".*") for name in imported(node))
    ]


def names_of(path):
    """The names that a module or package offers: definitions, assignments, imports and submodules."""
    offered = {entry.stem for entry in path.parent.iterdir()} if path.name == "__init__.py" else set()
    for node in nodes_of(path):
        if isinstance(node, (*FUNCTION, ast.ClassDef)):
            offered.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            offered.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            offered |= {alias.asname or alias.name for alias in node.names}
    return offered


def test_imported_names_of_medmim_exist():
    """An import within a function fails only where it runs; mypy does not follow imports here."""
    missing = []
    for path, node in [*every_node(ast.ImportFrom), *habits.imports_of_tests()]:
        if (node.module or "").split(".")[0] != "medmim":
            continue
        place = ROOT.joinpath(*node.module.split("."))
        source = module if (module := place.with_suffix(".py")).is_file() else place / "__init__.py"
        offered = names_of(source) if source.is_file() else set()
        missing += [f"{where(path, node)} {alias.name}" for alias in node.names if alias.name not in offered]
    assert not missing


def test_imports_stand_at_the_top():
    assert not [
        where(path, node)
        for path, function in every_node(*FUNCTION)
        if part_of(path) not in LATE_IMPORTS
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]


def test_modules_are_short():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert not {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > MODULE_LINES}


def test_functions_are_short():
    lines = {
        f"{where(path, function)} {function.name}": body_lines(function)
        for path, function in every_node(*FUNCTION)
    }
    assert not {place: count for place, count in lines.items() if count > FUNCTION_LINES}


def test_modules_open_with_a_docstring_whose_first_line_is_a_sentence():
    assert not [
        str(path.relative_to(ROOT))
        for path, tree in habits.trees(PACKAGE).items()
        if tree.body[0].lineno != 1 or len((ast.get_docstring(tree) or "").split("\n")[0]) <= 10
    ]


def test_prints_only_in_the_command_line():
    assert not [
        where(path, node)
        for path, node in every_node(ast.Call)
        if part_of(path) != "cli" and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def test_keeps_no_state_in_globals():
    assert not [where(path, node) for path, node in every_node(ast.Global)]


def test_swallows_no_errors():
    assert not [
        where(path, node)
        for path, node in every_node(ast.ExceptHandler)
        if node.type is None or all(isinstance(line, ast.Pass) for line in node.body)
    ]


def test_leaves_nothing_for_later():
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError")
    assert not [
        f"{path.relative_to(ROOT)}: {line}"
        for path in MODULES
        for line in path.read_text(encoding="utf-8").splitlines()
        if words.search(line)
    ]


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
