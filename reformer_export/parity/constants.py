"""The constants of an artifact's graphs beside what the exporter makes of the checkpoint, bit by bit.

An output's tolerance is wide enough in float16 and bfloat16 to hide a weight that is off by a step; what is
stored has none. A constant is found by the module whose node reads it, whatever its name: the exporter names
transposed weights as it likes, and stores equal ones once.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import onnx
import torch

from reformer_export.artifact.decoding import DECODE_NAME
from reformer_export.artifact.manifest import MODEL_NAME, Manifest
from reformer_export.checkpoints.lucidrains import TIED_HEAD
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.modeling import TORCH_DTYPES, build_model
from reformer_export.modeling.low_precision import stored_tensors
from reformer_export.parity.points import PointFinder
from reformer_export.reference.runs import Eager
from reformer_export.runtimes.onnx_file import read_onnx, read_weight

_TYPES: Final = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT4: torch.int8,
}
"""Int4 is int8 in torch, which has no such type."""

_BITS: Final = {1: torch.int8, 2: torch.int16, 4: torch.int32}
"""By the bytes of a number."""

_LAST_PLACES: Final = 4
"""By so many a weight may differ that another processor computed."""


@dataclass(frozen=True)
class WrongConstant:
    """A constant of the graph in `file` that is another than the checkpoint's tensor `name` is there."""

    file: str
    name: str
    got: str
    expected: str

    def describe(self) -> str:
        """For people."""
        return f"{self.name} in {self.file}: got {self.got}, expected {self.expected}"


@dataclass(frozen=True)
class ConstantsResult:
    """How many constants were compared, those that are `wrong`, and the names of `computed` ones: they differ
    in the last place alone, which is that of the processor that the artifact was made on."""

    compared: int
    wrong: tuple[WrongConstant, ...] = ()
    computed: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.wrong

    def verdict(self) -> str:
        """One line."""
        if self.wrong:
            return (
                f"FAILED: {len(self.wrong)} of {self.compared} constants are not what the checkpoint gives; "
                f"{self.wrong[0].describe()}; export the checkpoint again"
            )
        but = f", but for the last place of {', '.join(self.computed)}" if self.computed else ""
        return f"Passed: {self.compared} constants are bit for bit what the checkpoint gives{but}"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        wrong = [asdict(each) for each in self.wrong]
        return {
            "passed": self.passed,
            "compared": self.compared,
            "wrong": wrong,
            "computed": list(self.computed),
        }


def check_constants(folder: Path, manifest: Manifest, eager: Eager) -> ConstantsResult:
    """Compare the constants of the artifact in `folder` with what the exporter stores of eager's checkpoint;
    of both one tensor at a time is in memory, beside eager's own."""
    names = (MODEL_NAME,) if manifest.decode is None else (MODEL_NAME, DECODE_NAME)
    graphs = [_Constants(folder / name) for name in names]
    compared, wrong, computed = 0, list[WrongConstant](), list[str]()
    for path, expected in _expected_constants(manifest, eager):
        for graph in graphs:
            compared += len(expected)
            for own, got in graph.find_others(path, expected).items():
                name = f"{path}.{own}"
                if got is None and (_changes_nothing(expected[own]) or graph.reads(expected[own])):
                    continue
                if got is not None and _is_computed(path, manifest) and _is_near(got, expected[own]):
                    computed.append(name)
                else:
                    wrong.append(_describe(graph.path.name, name, got, expected[own]))
    return ConstantsResult(compared, tuple(wrong), tuple(dict.fromkeys(computed)))


def _expected_constants(manifest: Manifest, eager: Eager) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The tensors of each module by their own names. Random rotations are only those that the artifact's
    machine drew as well."""
    model = build_model(manifest.spec, eager.canonical_weights())
    stored = stored_tensors(model, manifest.low_precision, TORCH_DTYPES[manifest.dtype])
    for path, group in itertools.groupby(stored, lambda each: each[0]):
        tensors = {own: tensor for _, own, tensor in group}
        if "rotations" in tensors and _digest(tensors["rotations"]) not in manifest.rotations_sha256.values():
            del tensors["rotations"]
        if tensors:
            yield path, tensors


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


class _Constants:
    """The constants of the graph in the file `path`, by the modules whose nodes read them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        model = read_onnx(path, external_data=False)
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._direct: dict[str, dict[str, Any]] = {}
        self._within: dict[str, dict[str, Any]] = {}
        readers: dict[str, list[str]] = {}
        for node, modules in reversed(list(PointFinder(model).scoped_nodes())):
            # What cuts rotations to a run's rounds is no module's, but that of what reads it.
            scopes = modules or readers.get(node.output[0], [""])
            readers.update(dict.fromkeys(node.input, scopes))
            read = {name: tensors[name] for name in node.input if name in tensors}
            self._direct.setdefault(scopes[-1], {}).update(read)
            for scope in scopes:
                self._within.setdefault(scope, {}).update(read)

    def find_others(self, module: str, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
        """Of those `expected` of a module that no constant of it equals, the one that stands in its place,
        None where there is none."""
        constants = self._constants_of(module)
        others: dict[str, torch.Tensor | None] = {}
        left = dict(constants)
        for own, tensor in expected.items():
            found = (name for name, each in constants.items() if self._equals(each, tensor))
            name = next(found, None)
            if name is None:
                others[own] = None
            left.pop(name or "", None)
        for own in others:
            candidates = [got for each in left.values() for got in self._read(each, expected[own])]
            count = functools.partial(_count_other_bits, expected=expected[own])
            others[own] = min(candidates, key=count, default=None)
        return others

    def reads(self, expected: torch.Tensor) -> bool:
        """Whether any node reads it: of modules with the same weights the exporter lets one compute what
        several read."""
        return any(self._equals(each, expected) for own in self._direct.values() for each in own.values())

    def _equals(self, constant: Any, expected: torch.Tensor) -> bool:
        return any(torch.equal(_bits(got), _bits(expected)) for got in self._read(constant, expected))

    def _constants_of(self, module: str) -> dict[str, Any]:
        """Those that its own nodes read; of a list of parameters, which runs nothing, those of its owner."""
        if module in self._within:
            return self._direct.get(module) or self._within[module]
        return self._constants_of(module.rpartition(".")[0]) if module else {}

    def _read(self, constant: Any, like: torch.Tensor) -> Iterator[torch.Tensor]:
        """The numbers of a constant in the layout of `like`, and those of its transpose: none where it has
        another type or size."""
        if _TYPES.get(constant.data_type) != like.dtype or math.prod(constant.dims) != like.numel():
            return
        data = bytearray(read_weight(constant, self.path.parent))
        numbers = torch.frombuffer(data, dtype=like.dtype)
        if constant.data_type == onnx.TensorProto.INT4:
            numbers = torch.stack([numbers << 4 >> 4, numbers >> 4], dim=1).flatten()[: like.numel()]
        yield numbers.reshape(like.shape)
        if like.ndim == 2:
            yield numbers.reshape(like.shape[1], like.shape[0]).T


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(_BITS[tensor.element_size()])


def _count_other_bits(got: torch.Tensor, expected: torch.Tensor) -> int:
    return int((_bits(got) != _bits(expected)).sum())


def _changes_nothing(expected: torch.Tensor) -> bool:
    """Whether it is a bias of zeros, or a scale of ones, which the exporter leaves out."""
    return bool((expected == 0).all()) or bool((expected == 1).all())


def _is_computed(module: str, manifest: Manifest) -> bool:
    """Whether its weight is no tensor of the checkpoint, but the result of a sum."""
    spec = manifest.spec
    return isinstance(spec, LucidrainsSpec) and spec.ties_embedding and TIED_HEAD.startswith(f"{module}.")


def _is_near(got: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether they differ as if by another order of a sum."""
    is_float = expected.is_floating_point()
    step = _LAST_PLACES * torch.finfo(expected.dtype).eps * float(expected.abs().max()) if is_float else 1
    return bool((got.double() - expected.double()).abs().max() <= step)


def _describe(file: str, name: str, got: torch.Tensor | None, expected: torch.Tensor) -> WrongConstant:
    kind = f"{str(expected.dtype).removeprefix('torch.')} {list(expected.shape)}"
    if got is None:
        return WrongConstant(file, name, "none of its type and size", kind)
    others = _bits(got) != _bits(expected)
    difference = (got.double() - expected.double()).abs().nan_to_num(torch.inf)
    where = torch.unravel_index(torch.where(others, difference, -1).argmax(), expected.shape)
    index = tuple(int(each) for each in where)
    values = f"{got[index].item():.9g} at {list(index)}"
    count = f"{int(others.sum()):,} of {expected.numel():,} numbers differ, most {values}"
    return WrongConstant(file, name, count, f"{expected[index].item():.9g} there, as the exporter stores it")
