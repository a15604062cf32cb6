"""What goes into a user's own module and comes out of it, flattened into named tensors, and put together
again."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from reformer_export.errors import InputError, one_line, one_line_repr
from reformer_export.modeling.called import Unavailable


@dataclass(frozen=True)
class ModuleInputs:
    """The tensors among a call's arguments, by name.

    Attributes:
        values: the arguments by parameter, those of `*args` as a tuple.
        names: of the tensors, in order.
        tensors: as the caller gave them, on the CPU, so that sizes differ from 1 where they can.
    """

    values: dict[str, Any]
    names: tuple[str, ...]
    tensors: tuple[torch.Tensor, ...]
    signature: inspect.Signature

    def arguments(self, tensors: Iterable[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call's arguments with other `tensors`."""
        waiting = iter(tensors)
        bound = inspect.BoundArguments(
            self.signature,
            {name: _replace_tensors(value, waiting) for name, value in self.values.items()},
        )
        return bound.args, bound.kwargs


def name_inputs(module: nn.Module, example_inputs: Any) -> ModuleInputs:
    """The inputs of `module.forward` as `example_inputs` has them: a tensor, a tuple of arguments, or a
    mapping of arguments by name."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, Mapping):
        kwargs = dict(example_inputs)
    elif isinstance(example_inputs, tuple | list):
        args = tuple(example_inputs)
    else:
        args = (example_inputs,)
    signature = inspect.signature(module.forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        fix = "give a tuple of arguments, or a mapping by name"
        raise InputError("example_inputs", one_line(error), f"those of forward{signature}", fix) from error
    found = [each for name, value in bound.arguments.items() for each in _tensors_in(value, (name,))]
    if not found:
        raise InputError("example_inputs", "no tensor", "one or more", "give an example of each input")
    tensors = [tensor.detach().cpu() for _, tensor in found]
    return ModuleInputs(
        dict(bound.arguments), _choose_names([path for path, _ in found]), _enlarge(tensors), signature
    )


def _tensors_in(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _tensors_in(each, (*path, str(key)))
    elif isinstance(value, tuple | list):
        for index, each in enumerate(value):
            yield from _tensors_in(each, (*path, str(index)))


def _replace_tensors(value: Any, tensors: Iterator[torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return next(tensors)
    if isinstance(value, Mapping):
        return {key: _replace_tensors(each, tensors) for key, each in value.items()}
    if isinstance(value, tuple | list):
        parts = [_replace_tensors(each, tensors) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _choose_names(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The last key of each path where it is a name of its own, else all of it."""
    short = [path[-1] if not path[-1].isdigit() else "_".join(path) for path in paths]
    return tuple(
        name if short.count(name) == 1 else "_".join(path) for name, path in zip(short, paths, strict=True)
    )


def _enlarge(tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Batches of one twice, as torch.export takes a size of 1 for a constant."""
    if all(tensor.dim() > 0 and tensor.shape[0] == 1 for tensor in tensors):
        tensors = [torch.cat([tensor, tensor]) for tensor in tensors]
    return tuple(tensors)


def name_outputs(result: Any, given: Sequence[str] | None = None) -> list[tuple[str, torch.Tensor]]:
    """The tensors of a module's result, by name: `given` ones, or those that the result has.

    InputError for a result with anything else, but for None.
    """
    found = list(_named_tensors(result, ()))
    if not found:
        raise InputError("module", "a result without a tensor", "one or more", "return tensors")
    names = _choose_names([path or ("output",) for path, _ in found])
    names = tuple(f"output_{name}" if name[0].isdigit() else name for name in names)
    if given is not None:
        if len(given) != len(found) or len(set(given)) < len(given):
            got, expected = f"{list(given)}", f"{len(found)} names that differ, for {', '.join(names)}"
            raise InputError("output_names", got, expected, "give one for each tensor of the result")
        names = tuple(given)
    return [(name, tensor) for name, (_, tensor) in zip(names, found, strict=True)]


def _named_tensors(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif value is None or isinstance(value, Unavailable):
        return
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _named_tensors(each, (*path, str(key)))
    elif isinstance(value, tuple | list):
        fields = getattr(value, "_fields", range(len(value)))
        for key, each in zip(fields, value, strict=True):
            yield from _named_tensors(each, (*path, str(key)))
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _named_tensors(getattr(value, field.name), (*path, field.name))
    else:
        where = f"output {'.'.join(path) or 'of the module'}"
        raise InputError(where, one_line_repr(value), "tensors", "return tensors, or none of this")
