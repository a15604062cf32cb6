"""The fields of an options' dataclass against their declared types: what Python lets pass is refused."""

from __future__ import annotations

import os
import types
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from reformer_export.errors import InputError, one_line_repr

_NUMBERS: dict[Any, tuple[type, ...]] = {int: (int, np.integer), float: (int, float, np.integer, np.floating)}


def check_field_types(options: object, but: Collection[str] = ()) -> None:
    """InputError for the first field of the dataclass `options` whose value is not of its declared type.

    A path may be given as text, and a sequence as a list or an array: the field then gets a Path, or a tuple.
    The fields `but` are checked elsewhere, with more to say.
    """
    for name, kind in get_type_hints(type(options)).items():
        if name in but:
            continue
        value = _convert(getattr(options, name), kind)
        if not _fits(value, kind):
            is_choice = kind is bool or get_origin(kind) is Literal
            fix = "choose one of them" if is_choice else "give one"
            raise InputError(name, one_line_repr(value), describe_type(kind), fix)
        object.__setattr__(options, name, value)


def _convert(value: Any, kind: Any) -> Any:
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if Path in kinds and isinstance(value, str | os.PathLike) and not isinstance(value, Path):
        path = os.fspath(value)
        return Path(path) if isinstance(path, str) else value
    several = next((each for each in kinds if get_origin(each) in (tuple, Sequence)), None)
    if several is not None and isinstance(value, tuple | list | range | np.ndarray):
        values = value.tolist() if isinstance(value, np.ndarray) else value
        return tuple(_convert(each, get_args(several)[0]) for each in values)
    return value


def _fits(value: Any, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is Literal:
        return any(isinstance(value, type(each)) and value == each for each in arguments)
    if origin in (tuple, Sequence):
        return isinstance(value, tuple) and all(_fits(each, arguments[0]) for each in value)
    if kind is None or kind is type(None):
        return value is None
    if kind in _NUMBERS:
        return isinstance(value, _NUMBERS[kind]) and not isinstance(value, bool)
    return isinstance(value, kind)


def describe_type(kind: Any) -> str:
    """A declared type in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        choices = [word for each in arguments if get_origin(each) is Literal for word in get_args(each)]
        others = [describe_type(each) for each in arguments if get_origin(each) is not Literal]
        return " or ".join([*([f"one of {', '.join(choices)}"] if choices else []), *dict.fromkeys(others)])
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (tuple, Sequence):
        return f"several, each {describe_type(arguments[0])}"
    words = {bool: "True or False", int: "an integer", float: "a number", str: "text", Path: "a path"}
    return "None" if kind in (None, type(None)) else words.get(kind, f"a {getattr(kind, '__name__', kind)}")
