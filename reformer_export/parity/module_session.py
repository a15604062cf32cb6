"""A comparison of an artifact with the module of a user's own that it was made of."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from numpy.typing import NDArray

from reformer_export.artifact.manifest import MODEL_NAME, Manifest
from reformer_export.custom_spec import BATCH, CustomSpec
from reformer_export.errors import InputError
from reformer_export.modeling import TORCH_DTYPES
from reformer_export.parity.cases import Case
from reformer_export.parity.expose import open_graph
from reformer_export.parity.module_cases import (
    ModuleCase,
    choose_module_cases,
    draw_arrays,
    find_bounds,
    make_case,
)
from reformer_export.parity.module_points import ModuleHashing, find_module_hashing, find_module_points
from reformer_export.parity.module_trial import ModuleTrial
from reformer_export.parity.points import Point
from reformer_export.parity.session import ON_CPU, ParitySession, place_graph
from reformer_export.parity.trial import Trial
from reformer_export.reference.module import Arguments, EagerModule
from reformer_export.reference.runs import Eager
from reformer_export.runtimes import RuntimeOptions, load
from reformer_export.runtimes.named_inputs import check_names, prepare_named_inputs
from reformer_export.runtimes.ort import OnnxRuntime


@dataclass(frozen=True)
class ModuleSession(ParitySession):
    """`module`: eager; `module_hashing`: what `hashing` is of."""

    module: EagerModule
    module_hashing: ModuleHashing

    @property
    def custom(self) -> CustomSpec:
        """The description of the module."""
        assert isinstance(self.spec, CustomSpec)
        return self.spec

    @functools.cached_property
    def bounds(self) -> dict[str, int]:
        """How great the ids of each input of integers may be, and one."""
        return find_bounds(self.graph.runnable.graph, self.custom)

    def trial(self, case: Case) -> Trial:
        assert isinstance(case, ModuleCase)
        arrays = case.arrays
        if arrays is None:
            arrays = draw_arrays(self.custom, self.bounds, case, self.seed)
        return ModuleTrial(self, self._round(arrays))

    def default_cases(self) -> list[Case]:
        """Those that the module itself takes: it may refuse lengths that its dimensions allow."""
        spec, refused = self.custom, None
        taken: list[Case] = []
        for case in choose_module_cases(spec, rows_of(self.manifest), None, None):
            arrays = draw_arrays(spec, self.bounds, case, self.seed)
            try:
                self.module.run(arrays)
            except InputError as error:
                refused = error
            else:
                taken.append(case)
        if refused is not None and not taken:
            raise refused
        return taken

    def choose_cases(self, lengths: Sequence[int] | None, batch_sizes: Sequence[int] | None) -> list[Case]:
        return list[Case](choose_module_cases(self.custom, rows_of(self.manifest), lengths, batch_sizes))

    def check_cases(self, cases: Sequence[Case]) -> None:
        if not cases:
            raise InputError("inputs", "none", "at least one input of the module", "give `inputs`")

    def find_points(self, case: Case) -> list[Point]:
        values = self.trial(case).run_eager(points=None).values
        return find_module_points(self.graph.model, self.custom, self.module.model, values)

    def _round(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Floats as numbers of the type that the graph has for them: it and eager then see the same."""
        rounded = dict(arrays)
        for tensor in self.custom.inputs:
            if tensor.dtype in TORCH_DTYPES:
                value = torch.from_numpy(arrays[tensor.name]).to(TORCH_DTYPES[tensor.dtype])
                rounded[tensor.name] = value.float().numpy()
        return rounded


def rows_of(manifest: Manifest) -> str | None:
    """The dimension of rows: that of the signature, or what is called so where not everything has it."""
    assert isinstance(manifest.spec, CustomSpec)
    names = [each.name for each in manifest.spec.dimensions]
    return manifest.signature.batch or (BATCH if BATCH in names else None)


def cases_from_arrays(manifest: Manifest, given: Sequence[Mapping[str, Any]]) -> list[Case]:
    """A user's own inputs, each all of the module's arrays by name, as the cases of a comparison; InputError
    for what does not fit the artifact."""
    cases: list[Case] = []
    for number, each in enumerate(given):
        check_names(manifest, each)
        arrays, sizes = prepare_named_inputs(manifest, each)
        where = f"inputs {number}" if len(given) > 1 else "inputs"
        cases.append(make_case(sizes, rows_of(manifest), where=where, arrays=arrays))
    return cases


@contextmanager
def open_module_session(
    folder: Path,
    module: torch.nn.Module,
    options: RuntimeOptions = ON_CPU,
    seed: int = 0,
    beside: RuntimeOptions = ON_CPU,
    arguments: Arguments | None = None,
    manifest: Manifest | None = None,
) -> Iterator[ModuleSession]:
    """Open the artifact in `folder` as `options` say, beside the `module` that it was made of, which is
    called as `arguments` say; the rest as in `open_session`.

    Raises:
        ArtifactError: the artifact is broken.
        InputError: the module is not what an artifact is compared with.
        MissingDependencyError: the runtime, or onnx, is not installed.
        RuntimeUnavailableError: this machine cannot run it.
    """
    with load(folder, options) if manifest is None else OnnxRuntime(folder, options, manifest) as runtime:
        manifest = runtime.manifest
        assert isinstance(manifest.spec, CustomSpec)
        eager = EagerModule(module, manifest.spec, arguments)
        with open_graph(folder / MODEL_NAME, place_graph(runtime, options, beside)) as graph:
            hashing = find_module_hashing(graph.model, manifest.spec)
            # A trial calls the module, by `module`; of `eager` only what any eager model has is used.
            any_eager = cast(Eager, eager)
            yield ModuleSession(manifest, any_eager, runtime, graph, hashing.points, (), seed, eager, hashing)
