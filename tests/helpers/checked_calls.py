"""Checks every call of a package against the annotations of the function, shapes of arrays included.

jaxtyping's own import hook does the same at three times the price: it binds the arguments of every call to
a signature, also where no array is annotated, which took half of the processor time of the tests. And for
as long as it imports a module, it ignores the bytecode of every library that this module imports.
"""

import ast
import dataclasses
import functools
import hashlib
import inspect
import io
import sys
from contextlib import redirect_stdout
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import FunctionType
from typing import Any, get_args, get_type_hints

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, TypeCheckError, jaxtyped, print_bindings

_NAME = "_checked_calls"
_TAG = f".checked-{hashlib.md5(Path(__file__).read_bytes()).hexdigest()[:12]}.pyc"
_beartype = beartype(conf=BeartypeConf(violation_type=TypeCheckError))


def install(package):
    """Check the calls of every function and data class of a package that is imported from now on."""
    if package in sys.modules:
        raise RuntimeError(f"{package} is imported already: its calls would go unchecked")
    sys.meta_path.insert(0, _Finder(package))


def checked(target):
    """Return a function that checks its calls from the first one on, or the data class with such a start."""
    if isinstance(target, type):
        start = vars(target).get("__init__")
        if dataclasses.is_dataclass(target) and start is not None and not hasattr(start, "__wrapped__"):
            target.__init__ = checked(start)
        return target
    made = None

    @functools.wraps(target)
    def call(*args, **kwargs):
        __tracebackhide__ = True
        nonlocal made
        if made is None:  # most functions of a test process are never called
            made = _with_checks(target)
        return made(*args, **kwargs)

    return call


def _with_checks(function):
    hints = {name: _resolved(function, hint) for name, hint in function.__annotations__.items()}
    arrays = [found for hint in hints.values() for found in _arrays(hint)]
    if any("{" in array.dim_str for array in arrays):  # a size that is computed from other arguments
        return jaxtyped(function, typechecker=_beartype)
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__dict__.update(vars(function))
    copy.__kwdefaults__, copy.__module__ = function.__kwdefaults__, function.__module__
    copy.__qualname__, copy.__annotations__ = function.__qualname__, hints
    return _in_own_scope(_beartype(copy)) if arrays else _beartype(copy)


def _in_own_scope(function):
    """Give every call its own sizes of named axes."""

    def call(*args, **kwargs):
        __tracebackhide__ = True
        with jaxtyped("context"):
            try:
                return function(*args, **kwargs)
            except TypeCheckError as error:
                with redirect_stdout(io.StringIO()) as sizes:
                    print_bindings()
                error.add_note(sizes.getvalue())
                raise

    return call


def _resolved(function, hint):
    """Names that only type checkers import cannot be checked: they stand for anything."""

    def holder():
        pass

    holder.__annotations__ = {"hint": hint}
    try:
        return get_type_hints(holder, function.__globals__, include_extras=True)["hint"]
    except NameError:
        return Any


def _arrays(hint):
    if isinstance(hint, list):  # arguments of a `Callable`
        return [found for part in hint for found in _arrays(part)]
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return [hint]
    return [found for part in get_args(hint) for found in _arrays(part)]


class _Finder:
    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name != self.package and not name.startswith(f"{self.package}."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Compiles a module with checks, and keeps the bytecode beside that of the plain module."""

    def source_to_code(self, data, path, *, _optimize=-1):
        tree = _Decorator().visit(ast.parse(data, path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True, optimize=_optimize)

    def get_data(self, path):
        return super().get_data(_own_bytecode(path))

    def set_data(self, path, data, **options):
        super().set_data(_own_bytecode(path), data, **options)


def _own_bytecode(path):
    return path.removesuffix(".pyc") + _TAG if path.endswith(".pyc") else path


class _Decorator(ast.NodeTransformer):
    def visit_Module(self, node):
        self.generic_visit(node)
        first = next((i for i, child in enumerate(node.body) if not _leads(child)), len(node.body))
        imported = ast.ImportFrom(__name__, [ast.alias("checked", _NAME)], 0)
        node.body.insert(first, ast.copy_location(imported, node.body[0]) if node.body else imported)
        return node

    def visit_ClassDef(self, node):
        self.generic_visit(node)
        node.decorator_list.insert(0, _decorator(node))  # outside `@dataclass`, which makes the start
        return node

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        node.decorator_list.append(_decorator(node))  # inside the others, which see a plain function
        return node


def _decorator(node):
    return ast.copy_location(ast.Name(_NAME, ast.Load()), node)


def _leads(node):
    """Whether a statement has to stay first: the docstring and imports from the future."""
    if isinstance(node, ast.ImportFrom):
        return node.module == "__future__"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
