"""A copy of a user's own module with this project's layers in place of the libraries'."""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import nn

from reformer_export.checkpoints.checkpoint import LoadOptions
from reformer_export.checkpoints.live import (
    LiveLayer,
    autopadder_class,
    describe_module,
    find_layers,
    refuse_overrides,
)
from reformer_export.checkpoints.live_lucidrains import read_live_lucidrains
from reformer_export.checkpoints.live_transformers import read_live_transformers
from reformer_export.checkpoints.quiet import silence_transformers
from reformer_export.custom_spec import AttentionUse
from reformer_export.errors import CheckpointError, InputError, one_line
from reformer_export.export.module_values import ModuleInputs
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.modeling.called import CalledModule
from reformer_export.modeling.called_lucidrains import (
    CalledAutopadder,
    CalledLayers,
    CalledLSHAttention,
)
from reformer_export.modeling.called_transformers import (
    CalledAttention,
    CalledReformerEncoder,
    CalledReformerModel,
)
from reformer_export.spec import AttentionSpec, LSHAttentionSpec

_CALLED: Final[dict[str, Any]] = {
    "ReformerModel": CalledReformerModel,
    "ReformerEncoder": CalledReformerEncoder,
    "LSHSelfAttention": CalledAttention,
    "LocalSelfAttention": CalledAttention,
}


@dataclass
class Observed:
    """What the calls of a layer asked for: numbers of hashing rounds, and of an LSHAttention the size of a
    head."""

    num_hashes: set[int] = field(default_factory=set)
    head_size: int = 0
    longest: int = 0


@dataclass(frozen=True)
class ReplacedLayer:
    """Attention that stands in the copy, `attention`, with its description, and where it was in the user's
    module."""

    path: str
    attention: nn.Module
    spec: AttentionSpec
    use: AttentionUse


class ModuleCopy:
    """The user's module with its layers replaced.

    Attributes:
        module: the copy, on the CPU; it shares the parameters of the original.
        layers: what was replaced, in the order of their names.
    """

    def __init__(self, root: nn.Module, inputs: ModuleInputs) -> None:
        """Find the layers, run `root` once on `inputs` to see how they are called; nothing of `root`
        changes."""
        find_layers(root)
        self._plain = copy_module(root)
        self.layers = find_layers(self._plain)
        self._found = {layer.path: self._plain.get_submodule(layer.path) for layer in self.layers}
        self.observed = observe_calls(self._plain, self.layers, inputs)
        self.module: nn.Module = self._plain
        self.replaced: list[ReplacedLayer] = []

    def replace(self, longest: int, options: LoadOptions, base_seed: int) -> None:
        """Make the copy anew, for layers that are given at most `longest` tokens."""
        seeds = itertools.count(base_seed)
        module = copy_module(self._plain)
        replacements: dict[int, nn.Module] = {}
        self.replaced = []
        for layer in self.layers:
            called, paths = self._make(layer, seeds, longest, options)
            replacements[id(module.get_submodule(layer.path))] = called.eval()
            self.replaced += _describe(layer, called, paths)
        self.module = _put(module, replacements)

    def _make(
        self, layer: LiveLayer, seeds: Iterator[int], longest: int, options: LoadOptions
    ) -> tuple[CalledModule, list[str]]:
        seen, kept = self.observed[layer.path], self._found[layer.path]
        where = layer.describe()
        if layer.is_lucidrains:
            found = read_live_lucidrains(layer, seeds, longest, seen.head_size)
            kind: Any = CalledLSHAttention if layer.kind == "LSHAttention" else CalledLayers
            called = kind(where, kept, found.spec, found.weights, layer.dtype)
            return called, list(found.attention.values())
        if len(seen.num_hashes) > 1:
            got, expected = f"calls with {sorted(seen.num_hashes)} hashes", "one number"
            raise layer.error(got, expected, "call it with one num_hashes, or none")
        num_hashes = next(iter(seen.num_hashes), None)
        live = read_live_transformers(layer, seeds, options, num_hashes)
        called = _CALLED[layer.kind](where, kept, live.spec, live.weights, layer.dtype)
        return called, list(live.attention.values())


def copy_module(root: nn.Module) -> nn.Module:
    """A copy on the CPU with the same parameters; buffers, which a run may change, are its own."""
    shared = {id(tensor): tensor for tensor in root.parameters() if tensor.device.type == "cpu"}
    try:
        return copy.deepcopy(root, shared).cpu()
    except Exception as error:  # whatever an attribute of the user's raises
        got, fix = f"'{one_line(error)}' from copy.deepcopy", "let its attributes be copied"
        raise CheckpointError(describe_module("", root), got, "a module to copy", fix) from error


def observe_calls(root: nn.Module, layers: list[LiveLayer], inputs: ModuleInputs) -> dict[str, Observed]:
    """Run `root` once, with hooks on the layers that see their arguments; CheckpointError for a layer that is
    not called, InputError where the run fails."""
    observed = {layer.path: Observed() for layer in layers}
    handles = []
    for layer in layers:
        module: Any = root.get_submodule(layer.path)
        handles.append(
            module.register_forward_pre_hook(_observe(layer, observed[layer.path]), with_kwargs=True)
        )
    args, kwargs = inputs.arguments(inputs.tensors)
    try:
        with _without_advice(layers), undisturbed():
            root(*args, **kwargs)
    except Exception as error:  # whatever the user's code raises
        got = f"'{type(error).__name__}: {one_line(error)}' from {find_module(root, error)}"
        fix = "give inputs that it takes"
        raise InputError("example_inputs", got, "a run of the module", fix) from error
    finally:
        for handle in handles:
            handle.remove()
    for layer in layers:
        if not observed[layer.path].longest:
            fix = "give example inputs that reach it, or delete it"
            raise layer.error("no call of it in a run on `example_inputs`", "one or more", fix)
    return observed


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Without gradients, and with torch's global random state as it was before the block."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        yield


def _without_advice(layers: list[LiveLayer]) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if all(x.is_lucidrains for x in layers) else silence_transformers()


def _observe(layer: LiveLayer, observed: Observed) -> Any:
    signature = inspect.signature(type(layer.module).forward)

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = signature.bind(module, *args, **kwargs).arguments
        asked = arguments.get("num_hashes")
        observed.num_hashes.add(int(getattr(module, "num_hashes", 0) if asked is None else asked))
        tokens = next(each for each in arguments.values() if isinstance(each, torch.Tensor))
        observed.longest = max(observed.longest, tokens.shape[1])
        if layer.kind == "LSHAttention":
            observed.head_size = tokens.shape[2]

    return hook


def find_module(root: nn.Module, error: BaseException) -> str:
    """The innermost of the user's modules whose code an error went through, in words."""
    names = {id(module): (name, module) for name, module in root.named_modules()}
    found = describe_module("", root)
    seen: BaseException | None = error
    while seen is not None:
        trace = seen.__traceback__
        while trace is not None:
            owner = trace.tb_frame.f_locals.get("self")
            if id(owner) in names:
                found = describe_module(*names[id(owner)])
            trace = trace.tb_next
        seen = seen.__cause__ or seen.__context__
    return found


def _put(root: nn.Module, replacements: dict[int, nn.Module]) -> nn.Module:
    """`root` with its modules replaced, wherever they stand, and Autopadders around them."""
    if id(root) in replacements:
        return replacements[id(root)]
    padders: dict[int, nn.Module] = {}
    for module in list(root.modules()):
        for name, child in list(module._modules.items()):
            if id(child) in replacements:
                module._modules[name] = replacements[id(child)]
    for path, module in list(root.named_modules()):
        known = autopadder_class(module)
        if known is not None:
            refuse_overrides(path, known, module)
            padders[id(module)] = CalledAutopadder(module.get_submodule("net"), module)
    if id(root) in padders:
        return padders[id(root)]
    for module in list(root.modules()):
        for name, child in list(module._modules.items()):
            if id(child) in padders:
                module._modules[name] = padders[id(child)]
    return root


def _describe(layer: LiveLayer, called: CalledModule, paths: list[str]) -> list[ReplacedLayer]:
    spec = called.spec
    found = []
    first: dict[int, str] = {}  # of modules that are several layers
    for index, (path, attention) in enumerate(zip(paths, called.attention(), strict=True)):
        path = first.setdefault(id(layer.module.get_submodule(path)), path)
        each = spec.layers[index]
        hashes = isinstance(each, LSHAttentionSpec)
        shape = spec.rotations_shape(index) if hashes else (0, 0, 0, 0)
        is_lucidrains = isinstance(spec, LucidrainsSpec)
        dense = spec.dense_threshold if isinstance(spec, LucidrainsSpec) else each.chunk_length
        use = AttentionUse(
            path=layer.join(path),
            call=0,
            family="lucidrains" if is_lucidrains else "transformers",
            num_heads=spec.num_hash_heads if hashes else spec.num_heads,
            head_size=spec.head_size,
            is_causal=spec.is_causal,
            rotation_heads=shape[0],
            rotation_columns=shape[3],
            dense_threshold=dense if hashes else 0,
        )
        found.append(ReplacedLayer(use.path, attention, each, use))
    return found
