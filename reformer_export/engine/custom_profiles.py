"""Which shapes an engine of a custom module takes: sizes of its symbolic dimensions, in the order of the
manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from reformer_export.artifact.engine_record import EngineProfile, Shape, format_shape
from reformer_export.artifact.signature import Signature
from reformer_export.custom_spec import UNLIMITED
from reformer_export.errors import InputError

OPTIMUM_SHARE: Final = 4
"""A profile is tuned for its greatest sizes divided by this, where nothing else is said."""


def make_profile(
    signature: Signature, minimum: Shape | None, optimum: Shape | None, maximum: Shape | None
) -> EngineProfile:
    """The profile with these shapes, of which those that are None are derived: from the least sizes to one
    row and the greatest sizes; InputError where there is no greatest size."""
    if not signature.dimensions:
        fix = "export the module with `dynamic_shapes`"
        raise InputError("profile", "a module whose sizes are all fixed", "a symbolic dimension", fix)
    least = tuple(max(1, signature.limits[name][0]) for name in signature.dimensions)
    for given, shape in zip(("minimums", "optimums", "maximums"), (minimum, optimum, maximum), strict=True):
        if shape is not None and len(shape) != len(least):
            expected = " x ".join(signature.dimensions)
            raise InputError(given, format_shape(shape), expected, "give a size for each")
    minimum = minimum or least
    if maximum is None:
        others = [shape for shape in (minimum, optimum) if shape is not None]
        maximum = tuple(
            max(_greatest(signature, name), *sizes)
            for name, *sizes in zip(signature.dimensions, *others, strict=True)
        )
    optimum = optimum or tuple(
        high if name == signature.batch else max(low, high // OPTIMUM_SHARE)
        for name, low, high in zip(signature.dimensions, minimum, maximum, strict=True)
    )
    return EngineProfile(minimum, optimum, maximum)


def check_custom_profiles(signature: Signature, profiles: Sequence[EngineProfile]) -> None:
    """InputError unless the module takes every shape of every profile."""
    for profile in profiles:
        for shape in (profile.minimum, profile.maximum):
            fits = len(shape) == len(signature.dimensions) and all(
                signature.limits[name][0] <= size <= signature.limits[name][1]
                for name, size in zip(signature.dimensions, shape, strict=True)
            )
            if not fits:
                expected = f"{' x '.join(signature.dimensions)}: {signature.describe_limits()}"
                raise InputError("profile", format_shape(shape), expected, "give other sizes")


def _greatest(signature: Signature, name: str) -> int:
    """Of a default profile: one row, and all that the module takes of the others."""
    least, most = signature.limits[name]
    if name == signature.batch:
        return max(1, least)
    if most >= UNLIMITED:
        expected = f"the greatest {name} that the engine takes"
        raise InputError("profile", "none", expected, "give `maximums`, e.g. 1x1024")
    return most
