"""Checks of arguments against the annotations of a function, for callers of the Python interface.

The command line and settings files have their own checks. A Python caller may pass strings for numbers, NumPy
scalars, arrays for sequences, strings for paths and paths for strings. A value with one possible meaning is
converted; any other is rejected with a one-line error before any work starts.
"""

from __future__ import annotations

import collections.abc
import functools
import os
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, is_dataclass
from inspect import Parameter, get_annotations, getmro, isclass, signature
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from jaxtyping import jaxtyped

from medmim import files
from medmim.errors import WrongTypeError, refuse_unknown_options

Function = TypeVar("Function", bound=Callable[..., Any])
_MISFIT = object()
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
    Path: "a path",
    type(None): "None",
}
_NUMBERS = {int: Integral, float: Real}
_LONGEST = 60  # characters of a value in a message


def checked(function: Function) -> Function:
    """Check the arguments of a function before each call."""
    name = function.__qualname__

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature(function).bind(*args, **kwargs)
        except TypeError as error:
            raise WrongTypeError(f"{name}: {error}; expected {name}({_parameters(function)})") from None
        kinds = {one.name: one.kind for one in signature(function).parameters.values()}
        for key, value in bound.arguments.items():
            if kinds[key] is Parameter.VAR_POSITIONAL:
                bound.arguments[key] = tuple(
                    fit(one, _hints(function)[key], of=f"{name}: {key}") for one in value
                )
            elif kinds[key] is not Parameter.VAR_KEYWORD and key in _hints(function):
                bound.arguments[key] = fit(value, _hints(function)[key], of=f"{name}: {key}")
        return function(*bound.args, **bound.kwargs)

    return run  # type: ignore[return-value]  # the signature is unchanged


def as_command(function: Function) -> Function:
    """Check the arguments, and create files for the user alone, or for the group if MEDMIM_SHARED is set."""
    checking = checked(function)

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        umask = os.umask(0o007 if os.environ.get(files.SHARED) else 0o077)
        try:
            return checking(*args, **kwargs)
        finally:
            os.umask(umask)

    return run  # type: ignore[return-value]  # the signature is unchanged


def fitting_options(
    what: str, owner: Callable[..., Any], options: Mapping[str, Any], *, known: Collection[str] | None = None
) -> dict[str, Any]:
    """Return options as the annotations of a function or a class require; unknown names are refused.

    Args:
        what: owner of the options for messages, such as `encoder 'dynunet'`.
        owner: the function or class that takes them.
        known: names that may be given; None: all.
    """
    hints = _hints(owner.func if isinstance(owner, functools.partial) else owner)
    refuse_unknown_options(what, options, hints if known is None else known)
    return {key: fit(value, hints[key], of=f"{what}, option {key}") for key, value in options.items()}


def check_fields(instance: Any) -> None:
    """Check the fields of a frozen dataclass, and convert those that have another form."""
    kind: Any = type(instance)
    hints = _hints(kind)
    for field in fields(instance):
        value = getattr(instance, field.name)
        fitted = fit(value, hints[field.name], of=f"{type(instance).__name__}: {field.name}")
        if fitted is not value:
            object.__setattr__(instance, field.name, fitted)


def fit(value: Any, hint: Any, *, of: str) -> Any:
    """Return a value as an annotation requires.

    Raises:
        WrongTypeError: if it cannot have that meaning; `of` says where it was given.
    """
    fitted = _fitted(value, hint)
    if fitted is _MISFIT:
        raise WrongTypeError(f"{of}: expected {_described(hint)}, got {_shown(value)}")
    return fitted


def run_id(run: Any) -> str:
    """Return the id of a run that is given as its result, its id, or the path of a file."""
    word = getattr(run, "run_id", run)
    if not isinstance(word, str | Path):
        raise WrongTypeError(f"expected the result or the id of a run, or a file, got {_shown(run)}")
    return str(word)


def _fitted(value: Any, hint: Any) -> Any:
    """Return the value, or its converted form, or `_MISFIT`."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a number of NumPy or PyTorch
        plain = value.item()
        return plain if _fits(plain, hint) else (value if _fits(value, hint) else _MISFIT)
    if _fits(value, hint):
        return value
    arms = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if Path in arms and isinstance(value, str | os.PathLike):
        return Path(value)
    if str in arms and isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # an array
        plain = _as_tuple(value.tolist())
        return plain if _fits(plain, hint) else _MISFIT
    return _MISFIT


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if hint is None:
        return value is None
    if hint in _NUMBERS:
        return isinstance(value, _NUMBERS[hint]) and not isinstance(value, bool)
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, arm) for arm in get_args(hint))
    if origin is Literal:
        return any(value is arm or (type(value) is type(arm) and value == arm) for arm in get_args(hint))
    with jaxtyped("context"):  # else sizes of named axes in a caller that uses jaxtyping count here too
        return isinstance(value, hint) if origin is None else _fits_inside(value, origin, get_args(hint))


def _fits_inside(value: Any, origin: Any, args: tuple[Any, ...]) -> bool:
    """Return whether a value fits a type with parameters: a tuple, a mapping, a sequence or a function."""
    if origin is collections.abc.Callable:
        return callable(value)
    if issubclass(origin, Mapping):
        both = isinstance(value, Mapping) and len(args) == 2
        return both and all(_fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items())
    if isinstance(value, str | bytes) or not isinstance(value, Collection):
        return False
    if origin is tuple and args[-1:] != (Ellipsis,):
        return len(value) == len(args) and all(map(_fits, value, args))
    return isinstance(value, origin | list) and all(_fits(one, args[0]) for one in value)


@functools.cache
def _hints(owner: Any) -> dict[str, Any]:
    """Return the annotations of the arguments of a function, or of the fields or arguments of a class.

    A name that only type checkers import is not resolved: its argument is not checked.
    """
    parts: list[tuple[Any, Mapping[str, Any]]]
    if isclass(owner) and is_dataclass(owner):
        wanted = {field.name for field in fields(owner)}
        parts = [(base, get_annotations(base)) for base in reversed(getmro(owner))]
    else:
        function = owner.__init__ if isclass(owner) else owner
        wanted = set(signature(function).parameters)
        parts = [(function, get_annotations(function))]
    return {
        name: _resolved(one.__module__, name, hint)
        for one, annotations in parts
        for name, hint in annotations.items()
        if name in wanted
    }


def _resolved(module: str, name: str, annotation: Any) -> Any:
    alone = type("Alone", (), {"__annotations__": {name: annotation}, "__module__": module})
    try:
        return get_type_hints(alone)[name]
    except NameError:
        return Any


def _described(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint]
    if origin is None:
        return str(hint.__name__)
    if origin in (Union, types.UnionType, Literal):
        return " or ".join(dict.fromkeys(map(repr if origin is Literal else _described, args)))
    if origin is collections.abc.Callable or issubclass(origin, Mapping):
        return "a mapping" if origin is not collections.abc.Callable else "a function"
    each = [_described(arg) for arg in args if arg is not Ellipsis]
    return f"a sequence ({', '.join(each)}{'' if len(each) > 1 else ' each'})"


def _shown(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} of {value.dtype} with the shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= _LONGEST else f'{text[:_LONGEST]}…'} ({type(value).__name__})"


def _parameters(function: Callable[..., Any]) -> str:
    return ", ".join(str(one).split(":")[0].split("=")[0] for one in signature(function).parameters.values())


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value
