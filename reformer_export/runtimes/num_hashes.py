"""How many rounds of hashing a run uses, of those that the artifact has."""

from __future__ import annotations

import numpy as np

from reformer_export.artifact.manifest import Manifest
from reformer_export.errors import InputError, one_line_repr
from reformer_export.spec import LSHAttentionSpec


def choose_num_hashes(manifest: Manifest, given: int | None, default: int | None = None) -> int | None:
    """The rounds that were `given`, else `default`, else all; None for an artifact without the choice.

    Raises:
        InputError: out of range, which the graph would cut silently, or the artifact has a fixed number.
    """
    runtime_num_hashes = manifest.runtime_num_hashes
    if given is None:
        return default if default is not None or runtime_num_hashes is None else runtime_num_hashes.max_hashes
    if runtime_num_hashes is None:
        rounds = {layer.num_hashes for layer in manifest.spec.layers if isinstance(layer, LSHAttentionSpec)}
        fixed = f"{min(rounds)} hashes built in" if rounds else "no hashing"
        fix = "leave it out, or export the checkpoint again with `max_hashes` to choose at run time"
        raise InputError("num_hashes", f"{one_line_repr(given)} for an artifact with {fixed}", "none", fix)
    greatest = runtime_num_hashes.max_hashes
    is_integer = isinstance(given, int | np.integer) and not isinstance(given, bool)
    if not is_integer or not 1 <= given <= greatest:
        expected = f"a whole number from 1 to {greatest}, the most that this artifact was exported for"
        fix = "choose another, or export again with a greater `max_hashes`"
        raise InputError("num_hashes", one_line_repr(given), expected, fix)
    return int(given)
