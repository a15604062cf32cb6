"""The truth for a module of a user's own: itself, unpatched, its layers handed the artifact's rotations.

Everything that a pass changes is put back after it: hooks, the global random state, and the bucket count
that a layer of transformers without one sets when it first runs.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from reformer_export.checkpoints.quiet import silence_transformers
from reformer_export.custom_spec import CustomSpec
from reformer_export.errors import InputError, one_line
from reformer_export.reference.eager import recorded_rotations
from reformer_export.reference.eager_values import Values
from reformer_export.reference.module_layers import HashingUse, LayerWatch, find_hashing_layers, use_name
from reformer_export.reference.rotations import GivenRotations
from reformer_export.reference.runs import EagerRun
from reformer_export.spec import LSHAttentionSpec

BUCKETS: Final = ".buckets"
QUERY_KEY: Final = ".query_key"
"""Behind a layer's name, among the values: what it chooses, and the vectors that it hashes."""

INPUT: Final = ".input"
"""Behind the path of a linear module that ends reformer-pytorch's attention: what is attended to."""


Arguments = Callable[[Sequence[torch.Tensor]], tuple[tuple[Any, ...], dict[str, Any]]]
"""The tensors of a call, in the order of the artifact's inputs -> its arguments, by place and by name."""


class EagerModule:
    """A user's module, in eval mode, on the CPU, in float32.

    Attributes:
        model: the module.
        notes: what a reader of a comparison should know of it, a sentence each.
    """

    def __init__(self, module: torch.nn.Module, spec: CustomSpec, arguments: Arguments | None = None) -> None:
        """`spec`: of the artifact that was made of it; `arguments`: of a call with other tensors, None to
        give them by name.

        Raises:
            InputError: the module is not what an artifact is compared with.
        """
        check_module(module)
        self.model: Any = module
        self.notes: tuple[str, ...] = ()
        self.spec = spec
        self._arguments = arguments
        known = {id(module.get_submodule(path)): path for path in find_hashing_layers(module)}
        self._uses: dict[tuple[int, int], HashingUse] = {}
        self._runs: Counter[int] = Counter()
        for index, (use, layer) in enumerate(zip(spec.uses, spec.layers, strict=True)):
            found = _find_layer(module, use.path)
            self._runs[id(found)] += id(found) in known
            if not isinstance(layer, LSHAttentionSpec):
                continue
            if id(found) not in known:
                raise _another_module(f"{use.path}, which does not hash", ", ".join(known.values()) or "none")
            rotations = torch.from_numpy(recorded_rotations(spec, index))
            self._uses[id(found), use.call] = HashingUse(index, rotations, layer.num_buckets)
        self._paths = known

    def run(self, inputs: Mapping[str, NDArray[Any]], points: Collection[str] | None = ()) -> EagerRun:
        """One forward pass on `inputs` by name. `buckets` of the run are by the index of the use, and values
        by the name of a module's run (`use_name`), those in `points`; None for all.

        InputError where the module does not run on them, or runs other layers than those of the artifact.
        """
        draws = GivenRotations({use.index: use.rotations for use in self._uses.values()})
        watch, values = LayerWatch(self._uses, draws.enter, points != ()), Values()
        with contextlib.ExitStack() as stack:
            for handle in (*watch.attach(self.model), *_keep_values(self.model, watch, points, values)):
                stack.callback(handle.remove)
            stack.enter_context(_bucket_counts(self.model, self._uses))
            stack.enter_context(silence_transformers())
            stack.enter_context(torch.random.fork_rng(devices=[]))
            stack.enter_context(torch.no_grad())
            stack.enter_context(draws)
            result = self._call([torch.from_numpy(inputs[name]) for name in self.spec.input_names])
        self._check_runs(watch.runs)
        for index, buckets in watch.buckets.items():
            values[layer_name(self.spec, index) + BUCKETS] = buckets
        for index, vectors in watch.vectors.items():
            values[layer_name(self.spec, index) + QUERY_KEY] = vectors
        return EagerRun(self._name_outputs(result), watch.buckets, values)

    def _call(self, tensors: Sequence[torch.Tensor]) -> Any:
        """The module on its inputs, in their order."""
        if self._arguments is not None:
            args, keywords = self._arguments(tensors)
        else:
            args, keywords = (), dict(zip(self.spec.input_names, tensors, strict=True))
        try:
            return self.model(*args, **keywords)
        except Exception as error:  # a user's code raises what it likes
            sizes = (
                f"{name} {list(x.shape)}" for name, x in zip(self.spec.input_names, tensors, strict=True)
            )
            got = f"{type(error).__name__}: {one_line(error)}, on {', '.join(sizes)}"
            raise InputError("module", got, "a result", "give `inputs` that it takes, or mend it") from error

    def _check_runs(self, runs: Counter[int]) -> None:
        for layer, path in self._paths.items():
            if runs[layer] != self._runs[layer]:
                got, expected = f"{path or 'it'} run {runs[layer]} times", f"{self._runs[layer]} times"
                raise _another_module(got, expected)

    def _name_outputs(self, result: Any) -> dict[str, NDArray[np.float32]]:
        tensors = [x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]
        if len(tensors) != len(self.spec.output_names):
            expected = f"{len(self.spec.output_names)} ({', '.join(self.spec.output_names)})"
            raise _another_module(f"{len(tensors)} tensors as its result", expected)
        found = (x.float() if x.dtype == torch.bfloat16 else x for x in tensors)
        return {name: x.detach().numpy() for name, x in zip(self.spec.output_names, found, strict=True)}


def layer_name(spec: CustomSpec, index: int) -> str:
    """Of one run of a layer, in the user's own words."""
    return use_name(spec.uses[index].path, spec.uses[index].call)


def _find_layer(module: torch.nn.Module, path: str) -> torch.nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise _another_module(f"no layer {path}", "it, as it was exported") from error


def check_module(module: object) -> None:
    """InputError unless it can be compared with: a module in eval mode, of float32 on the CPU."""
    if not isinstance(module, torch.nn.Module):
        got, fix = type(module).__name__, "give the one that was exported"
        raise InputError("module", got, "a torch.nn.Module", fix)
    training = next((name or "it" for name, part in module.named_modules() if part.training), None)
    if training is not None:
        raise InputError("module", f"{training} in training mode", "eval mode", "call module.eval()")
    for name, weight in (*module.named_parameters(), *module.named_buffers()):
        if weight.device.type != "cpu" or weight.dtype in (torch.float16, torch.bfloat16):
            got = f"{name} in {str(weight.dtype).removeprefix('torch.')} on {weight.device}"
            raise InputError("module", got, "float32 weights on the CPU", "call module.float().cpu()")


def _another_module(got: str, expected: str) -> InputError:
    return InputError("module", got, expected, "give the module that was exported")


@contextlib.contextmanager
def _bucket_counts(module: torch.nn.Module, uses: Mapping[tuple[int, int], HashingUse]) -> Iterator[None]:
    """While the block runs, transformers' layers have the bucket counts of the artifact, where they had none
    and would choose by the first length that they see."""
    counts = {layer: use.num_buckets for (layer, _), use in uses.items()}
    parts: list[Any] = [part for part in module.modules() if counts.get(id(part))]
    before = [(layer, layer.num_buckets) for layer in parts]
    try:
        for layer, known in before:
            if known is None:
                factors = counts[id(layer)]
                layer.num_buckets = factors[0] if len(factors) == 1 else list(factors)
        yield
    finally:
        for layer, known in before:
            layer.num_buckets = known


def _keep_values(
    module: torch.nn.Module, watch: LayerWatch, points: Collection[str] | None, values: Values
) -> Iterator[Any]:
    """Hooks that fill `values`: of each module's run the first tensor of its result."""
    if points == ():
        return
    runs: Counter[str] = Counter()

    def put(name: str, value: Any) -> None:
        tensor = next((x for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor)), None)
        if tensor is not None and (points is None or name in points) and not watch.pads_less:
            cut = watch.cut(tensor, 1) if tensor.ndim > 1 else tensor
            values[name] = cut.detach().numpy().copy()

    def keep(path: str) -> Callable[..., None]:
        def hook(_module: Any, inputs: Any, output: Any) -> None:
            if path.rpartition(".")[2] == "to_out":
                put(use_name(path + INPUT, runs[path]), inputs)
            put(use_name(path, runs[path]), output)
            runs[path] += 1

        return hook

    for path, part in module.named_modules():
        if path:
            yield part.register_forward_hook(keep(path))
