"""The layers with a Reformer's attention in a module of a user's own: found, and refused where they are not
what their class says.

Classes are known by their names, so that neither library is imported for a module that has nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from reformer_export.errors import CheckpointError
from reformer_export.spec import DType

TRANSFORMERS: Final = "transformers.models.reformer.modeling_reformer"
LUCIDRAINS: Final = "reformer_pytorch.reformer_pytorch"
AUTOPADDER: Final = "reformer_pytorch.autopadder"

KINDS: Final = {
    **{(TRANSFORMERS, name): name for name in ("ReformerModel", "ReformerEncoder")},
    **{(TRANSFORMERS, name): name for name in ("LSHSelfAttention", "LocalSelfAttention")},
    **{(LUCIDRAINS, name): name for name in ("Reformer", "LSHSelfAttention", "LSHAttention")},
}
"""The classes that are replaced, by where they are defined."""

_OWN: Final = (
    *(TRANSFORMERS, "transformers.activations", "torch.nn.modules.", "reformer_pytorch."),
    *("local_attention.", "product_key_memory."),
)
"""Where the classes are defined that such a layer is made of."""

DTYPES: Final[dict[torch.dtype, DType]] = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}


@dataclass(frozen=True)
class LiveLayer:
    """A module that is replaced: `path` in the user's, "" for that itself, the module `defined` it in, its
    class's name, and the type of its parameters (float32 where it has none)."""

    path: str
    defined: str
    kind: str
    module: nn.Module
    dtype: DType

    @property
    def is_lucidrains(self) -> bool:
        return self.defined == LUCIDRAINS

    def describe(self) -> str:
        """For people."""
        return describe_module(self.path, self.module)

    def join(self, path: str) -> str:
        """The path of a module inside, in the user's."""
        return ".".join(part for part in (self.path, path) if part)

    def error(self, got: str, expected: str, fix: str, inside: str = "") -> CheckpointError:
        """That it, or the module `inside`, is not as it should be."""
        module = self.module.get_submodule(inside)
        return CheckpointError(describe_module(self.join(inside), module), got, expected, fix)


def describe_module(path: str, module: nn.Module) -> str:
    """A module in the user's words."""
    return f"module {path or 'itself'} ({type(module).__name__})"


def find_layers(root: nn.Module) -> list[LiveLayer]:
    """All that are replaced, each once, in the order of the modules' names.

    CheckpointError for a module or a layer that cannot be exported.
    """
    _refuse_meta(root)
    found = [_make_layer(*each) for each in _walk(root, "", set())]
    if not found:
        raise CheckpointError(
            describe_module("", root),
            "no layer with a Reformer's attention",
            f"one of {', '.join(dict.fromkeys(KINDS.values()))} of transformers or reformer-pytorch",
            "export it with torch.onnx, which needs no help with other layers",
        )
    return found


def _refuse_meta(root: nn.Module) -> None:
    for name, tensor in (*root.named_parameters(), *root.named_buffers()):
        if tensor.is_meta:
            got = f"{name} on the device meta, without numbers"
            raise CheckpointError(describe_module("", root), got, "weights", "load them before the export")


def _walk(module: nn.Module, path: str, seen: set[int]) -> Iterator[tuple[str, type, nn.Module]]:
    if id(module) in seen:
        return
    seen.add(id(module))
    known = known_class(module)
    if known is not None:
        yield path, known, module
        return
    for name, child in module.named_children():
        yield from _walk(child, f"{path}.{name}" if path else name, seen)


def known_class(module: nn.Module) -> type | None:
    """The class that is replaced among those that `module` is an instance of."""
    return next((each for each in type(module).__mro__ if (each.__module__, each.__name__) in KINDS), None)


def autopadder_class(module: nn.Module) -> type | None:
    """reformer-pytorch's class of a padding around another module, where `module` is an instance of it."""
    names = (AUTOPADDER, "Autopadder")
    return next((each for each in type(module).__mro__ if (each.__module__, each.__name__) == names), None)


def _make_layer(path: str, known: type, module: nn.Module) -> LiveLayer:
    layer = LiveLayer(path, known.__module__, known.__name__, module, "float32")
    refuse_overrides(path, known, module)
    for name, inside in module.named_modules():
        _refuse_changes(layer, name, inside)
    types = {parameter.dtype for parameter in module.parameters()} or {torch.float32}
    if len(types) > 1 or not types <= DTYPES.keys():
        got = f"parameters of {', '.join(sorted(str(each).removeprefix('torch.') for each in types))}"
        raise layer.error(got, f"one of {', '.join(DTYPES.values())}", "convert them, e.g. with .float()")
    return LiveLayer(path, known.__module__, known.__name__, module, DTYPES[types.pop()])


def refuse_overrides(path: str, known: type, module: nn.Module) -> None:
    """CheckpointError where a subclass, or the instance, has methods of its own in place of the class's."""
    methods = {name for name, value in vars(known).items() if callable(value)} - {"__init__"}
    methods |= {"__call__", "_call_impl"}
    classes = type(module).__mro__[: type(module).__mro__.index(known)]
    for owner, names in (
        (f"the subclass {type(module).__qualname__}", {name for each in classes for name in vars(each)}),
        ("an instance", set(vars(module))),
    ):
        overridden = sorted(names & methods, key=lambda name: (name != "forward", name))
        if overridden:
            raise CheckpointError(
                describe_module(path, module),
                f"{owner} that overrides {overridden[0]}",
                f"what {known.__name__} of {known.__module__.partition('.')[0]} computes",
                "put the change into a module around the layer",
            )


def _refuse_changes(layer: LiveLayer, name: str, module: nn.Module) -> None:
    """CheckpointError where a part of a layer does more than its class."""
    if module._forward_hooks or module._forward_pre_hooks:
        fix = "remove it, or register it on a module around the layer"
        raise layer.error("a forward hook", "none, as the layer is replaced", fix, name)
    where = f"{type(module).__module__}."
    if name and not where.startswith(_OWN):
        got = f"a {type(module).__qualname__} of {type(module).__module__} inside"
        raise layer.error(got, "the layer's own parts", "merge it into the weights that it changes", name)
    if name and vars(module).keys() & {"forward"}:
        raise layer.error("an instance that overrides forward", "its class's", "remove it", name)
    rate = dropout_rate(module)
    if module.training and rate > 0:
        fix = "call .eval() on the module before the export"
        raise layer.error(f"training mode with dropout {rate:g}", "evaluation mode", fix, name)


_RATES: Final = ("p", "dropout", "layer_dropout")


def dropout_rate(module: Any) -> float:
    """The greatest rate at which a module drops out, by its own attributes."""
    rates = [vars(module).get(name, 0.0) for name in _RATES]
    return max(float(rate) for rate in rates if isinstance(rate, int | float))
