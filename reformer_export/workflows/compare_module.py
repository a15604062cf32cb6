"""A new artifact of a user's module beside that module, before it is in its place."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reformer_export.artifact.manifest import Manifest
from reformer_export.errors import InputError, ParityError

if TYPE_CHECKING:
    import torch

    from reformer_export.parity.cases import Case

DRAWN: Final = 2
"""Drawn inputs beside the example, the longest of the default ones: they are hashed, as it may not be."""


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
