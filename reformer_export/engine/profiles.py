"""Which input shapes an engine takes: optimisation profiles within the model's limits.

A Reformer attends in chunks and pads virtually to a multiple of its chunk lengths, so a length that is such
a multiple costs no more than the lengths just below it: defaults are multiples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from reformer_export.artifact.engine_record import EngineProfile, Shape, format_shape
from reformer_export.artifact.signature import Signature, signature_of
from reformer_export.custom_spec import UNLIMITED, CustomSpec
from reformer_export.errors import InputError
from reformer_export.spec import ModelSpec

DEFAULT_MAX_LENGTH: Final = 65_536
"""Tokens: the longest sequence a default profile takes. An engine's memory is planned for its longest
sequence, and published models allow half a million tokens."""

OPTIMUM_SHARE: Final = 4
"""A profile is tuned for its greatest sizes divided by this, where nothing else is said."""

MAX_TOKENS: Final = 2**31 - 1
"""Tokens of a batch: positions are int32 in the kernels."""


DEFAULT_STEPS: Final = 16
"""Sequences that an engine of decode.onnx continues at once by default."""


def default_profiles(spec: ModelSpec, decode: bool = False) -> tuple[EngineProfile, ...]:
    """Of a custom module, all that it takes, a row at a time. Of others from one token to the model's longest
    sequence (65,536 tokens at most), batch 1; of an engine that decodes these are prompts, and steps of up to
    16 sequences have a profile of their own."""
    if isinstance(spec, CustomSpec):
        return (_custom_profile(signature_of(spec, "float32"), None, None, None),)
    longest = _default_length(spec, DEFAULT_MAX_LENGTH)
    whole = EngineProfile((1, 1), (1, _optimum_length(spec, 1, longest)), (1, longest))
    steps = EngineProfile((1, 1), (1, 1), (DEFAULT_STEPS, 1))
    return (whole, steps) if decode else (whole,)


def default_capacity(spec: ModelSpec, profiles: Sequence[EngineProfile]) -> int:
    """The greatest capacity of an engine's caches, in tokens: that of the longest prompt, or of the model's
    longest sequence up to 65,536."""
    return max(_default_length(spec, DEFAULT_MAX_LENGTH), *(profile.maximum[1] for profile in profiles))


def profiles_from_shapes(
    spec: ModelSpec,
    minimums: Sequence[Shape],
    optimums: Sequence[Shape],
    maximums: Sequence[Shape],
    decode: bool = False,
) -> tuple[EngineProfile, ...]:
    """One profile for each place in the three lists, whose shapes are (batch, tokens): of an engine that
    decodes, new tokens.

    A list may be empty: its shapes are then derived from the others, as in `default_profiles`. InputError
    when the lists' lengths differ or a profile does not fit the model.
    """
    lists = (minimums, optimums, maximums)
    given = {len(shapes) for shapes in lists if shapes}
    if not given:
        return default_profiles(spec, decode)
    if len(given) > 1:
        raise InputError(
            "profiles",
            f"{len(minimums)} `minimums`, {len(optimums)} `optimums` and {len(maximums)} `maximums`",
            "equally many of those that are given",
            "give each once a profile",
        )
    rows = zip(*(shapes or (None,) * max(given) for shapes in lists), strict=True)
    profiles = tuple(_profile_from_shapes(spec, *row) for row in rows)
    check_profiles(spec, profiles)
    return profiles


def check_profiles(spec: ModelSpec, profiles: Sequence[EngineProfile]) -> None:
    """InputError unless the model takes every shape of every profile."""
    if isinstance(spec, CustomSpec):
        _check_custom_profiles(signature_of(spec, "float32"), profiles)
        return
    for profile in profiles:
        batch, length = profile.maximum
        shape, fix = format_shape(profile.maximum), "lower `maximums`"
        if length > spec.max_length:
            got = f"a longest sequence of {length} tokens ({shape})"
            raise InputError("profile", got, f"at most {spec.max_length}, the model's limit", fix)
        if batch * length > MAX_TOKENS:
            got = f"{shape}, which is {batch * length} tokens at once"
            raise InputError("profile", got, f"at most {MAX_TOKENS}", fix)


def check_capacity(spec: ModelSpec, profiles: Sequence[EngineProfile], capacity: int) -> None:
    """InputError unless caches of `capacity` tokens a sequence have room for every profile's prompts, and the
    model can fill them."""
    longest = max(profile.maximum[1] for profile in profiles)
    if not longest <= capacity <= spec.max_length:
        expected = f"from {longest}, the longest prompt, to {spec.max_length}, the model's limit"
        raise InputError("capacity", f"{capacity} tokens", expected, "give another, or other `maximums`")


def _profile_from_shapes(
    spec: ModelSpec, minimum: Shape | None, optimum: Shape | None, maximum: Shape | None
) -> EngineProfile:
    if isinstance(spec, CustomSpec):
        return _custom_profile(signature_of(spec, "float32"), minimum, optimum, maximum)
    for name, shape in zip(("minimums", "optimums", "maximums"), (minimum, optimum, maximum), strict=True):
        if shape is not None and len(shape) != 2:
            raise InputError(name, format_shape(shape), "batch x length", "write e.g. 1x1024")
    if maximum is None:
        given = [shape for shape in (minimum, optimum) if shape is not None]
        length = max(*(shape[1] for shape in given), _default_length(spec, DEFAULT_MAX_LENGTH))
        maximum = (max(shape[0] for shape in given), length)
    minimum = minimum or (1, 1)
    optimum = optimum or (maximum[0], _optimum_length(spec, minimum[1], maximum[1]))
    return EngineProfile(minimum, optimum, maximum)


def _default_length(spec: ModelSpec, limit: int) -> int:
    """The longest useful length up to `limit` tokens."""
    length = min(spec.max_length, limit)
    multiple = spec.padding_multiple
    return length // multiple * multiple or length


def _optimum_length(spec: ModelSpec, shortest: int, longest: int) -> int:
    """About a quarter of `longest`, a multiple of the chunk lengths where there is one in reach."""
    wanted = max(shortest, longest // OPTIMUM_SHARE, 1)
    return min(-(-wanted // spec.padding_multiple) * spec.padding_multiple, longest)


def _custom_profile(
    signature: Signature, minimum: Shape | None, optimum: Shape | None, maximum: Shape | None
) -> EngineProfile:
    """Of a custom module, whose sizes stand in the order of the manifest: the profile with these shapes, of
    which those that are None are derived, from the least sizes to one row and the greatest sizes; InputError
    where there is no greatest size."""
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


def _check_custom_profiles(signature: Signature, profiles: Sequence[EngineProfile]) -> None:
    """`check_profiles` of a custom module."""
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
