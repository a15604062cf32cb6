"""A user's own module -> an artifact."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reformer_export.artifact.files import require_utf8
from reformer_export.artifact.folder import check_new_folder, new_folder
from reformer_export.artifact.manifest import Manifest
from reformer_export.contract import DEFAULT_OPSET, check_opset
from reformer_export.errors import InputError, ParityError
from reformer_export.libraries.packages import COMPARING, EXPORTING, require_packages
from reformer_export.runtimes.field_types import check_field_types
from reformer_export.runtimes.options import options_from_fields
from reformer_export.workflows.export import ExportedArtifact
from reformer_export.workflows.progress import Say, say_nothing

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from reformer_export.parity.cases import Case
    from reformer_export.workflows.fields import ModuleFields

DRAWN: Final = 2
"""Drawn inputs beside the example, the longest of the default ones: they are hashed, as it may not be."""


@dataclass(frozen=True)
class ModuleRequest:
    """How to export a module.

    Attributes:
        hash_seed: seed of the random rotations of the first layer that has none (all of reformer-pytorch's
            have none); the next has the next. None for 0.
        max_length: greatest size of the dimension `sequence`, tokens; layers of reformer-pytorch need it, as
            their rotations are drawn for it.
        opset: ONNX opset, 18 or later.
        verify: compare the artifact with the module on the example and two drawn inputs, and write nothing if
            it differs; of a module in float32 and in eval mode.
        overwrite: replace an artifact that is there, when the new one is whole.
    """

    hash_seed: int | None = None
    max_length: int | None = None
    opset: int = DEFAULT_OPSET
    verify: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_field_types(self)
        check_opset(self.opset)
        if self.max_length is not None and self.max_length < 1:
            raise InputError("max_length", self.max_length, "at least 1 token", "give another `max_length`")


def export_module(
    module: torch.nn.Module,
    example_inputs: Any,
    out: str | os.PathLike[str],
    request: ModuleRequest | None = None,
    *,
    dynamic_shapes: Mapping[str, Any] | None = None,
    output_names: Sequence[str] | None = None,
    say: Say = say_nothing,
    **fields: Unpack[ModuleFields],
) -> ExportedArtifact:
    """Export a module of your own, with a Reformer's attention somewhere inside, to the folder `out`.

    The layers of transformers (ReformerModel, ReformerEncoder, LSHSelfAttention, LocalSelfAttention) and of
    reformer-pytorch (Reformer, LSHSelfAttention, LSHAttention) are replaced in a copy by this project's, with
    the same weights and recorded random rotations; torch.export traces the rest. The module and the global
    random state stay as they are.

    Args:
        module: in evaluation mode.
        example_inputs: what one call takes: a tensor, a tuple of arguments, or a mapping of arguments by
            name. Their sizes are examples, except 1, which is taken for a constant in all axes but the first.
        out: the new folder.
        request: how to export it.
        dynamic_shapes: for each input by its name, the symbolic axes as torch.export takes them; None leaves
            every axis open that the module does not fix.
        output_names: of the tensors of the result, in order; None for the names that the result has.
        say: is told what is being done, a line each.
        fields: in place of `request`, fields of it.

    Raises:
        CheckpointError: a layer is not what its class says: a hook, an overridden method, training mode.
        ExportError: what cannot be traced, with the module that it is in.
        InputError: the example inputs or the options do not fit the module.
        MissingDependencyError: torch or another package is not installed.
        OutputError: `out` exists, or the disk refuses; nothing was changed.
        ParityError: the artifact differs from the module; nothing was written.
    """
    request = options_from_fields(ModuleRequest, request, fields)
    out = Path(out)
    require_packages("exporting", (*EXPORTING, *(COMPARING if request.verify else ())))
    require_utf8(out)
    check_new_folder(out, request.overwrite)
    say("Loading the exporter ...")
    from reformer_export.export.module_artifact import ModuleOptions, write_module

    options = ModuleOptions(
        dynamic_shapes, output_names, request.hash_seed, request.max_length, request.opset
    )
    with new_folder(out, request.overwrite) as folder:

        def compare(manifest: Manifest) -> dict[str, Any]:
            say("Comparing with the module ...")
            return compare_shortly(folder, manifest, module, example_inputs)

        say("Tracing and writing the graph ...")
        compares = request.verify and _is_comparable(module, say)
        manifest = write_module(module, example_inputs, folder, options, compare if compares else None)
    for title, tensors in (("Input", manifest.inputs), ("Output", manifest.outputs)):
        for each in tensors:
            say(f"{title} {each.name}: {each.dtype} [{', '.join(map(str, each.shape))}]")
    return ExportedArtifact(out, manifest)


def _is_comparable(module: torch.nn.Module, say: Say) -> bool:
    """Whether `module` can be run as eager; `say` is told why not."""
    from reformer_export.reference.module import check_module

    try:
        check_module(module)
    except InputError as error:
        say(f"Note: not compared with the module: {error}.")
        return False
    return True


def compare_shortly(
    folder: Path, manifest: Manifest, module: torch.nn.Module, example_inputs: Any
) -> dict[str, Any]:
    """The summary of a comparison on the example and a few drawn inputs; ParityError when it fails."""
    from reformer_export.export.module_values import name_inputs
    from reformer_export.parity.module_session import cases_from_arrays, open_module_session
    from reformer_export.parity.sweep import sweep

    example = name_inputs(module, example_inputs)
    arrays = dict(zip(example.names, example.tensors, strict=True))
    cases: list[Case] = cases_from_arrays(manifest, [arrays])
    with open_module_session(folder, module, arguments=example.arguments, manifest=manifest) as session:
        with contextlib.suppress(InputError):  # nothing says what its integers may be
            cases += session.default_cases()[-DRAWN:]
        result = sweep(session, cases)
    if not result.passed:
        raise ParityError(
            f"parity with the module: {result.verdict()}",
            fix="nothing was written, use `verify=False` to write it nevertheless and `verify_artifact` to "
            "see every case",
        )
    return result.summary()
