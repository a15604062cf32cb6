from __future__ import annotations

import dataclasses

import pytest

from reformer_export.artifact.engine_record import EngineProfile, Shape
from reformer_export.engine import default_profiles, profiles_from_shapes
from reformer_export.errors import InputError
from reformer_export.spec import LearnedPositionsSpec, ModelSpec
from tests.runtimes.artifacts import MAX_LENGTH, make_spec


def spec_with(positions: int, chunk_lengths: tuple[int, int] = (8, 8)) -> ModelSpec:
    spec = make_spec()
    layers = tuple(
        dataclasses.replace(layer, chunk_length=length)
        for layer, length in zip(spec.layers, chunk_lengths, strict=True)
    )
    return dataclasses.replace(
        spec, positions=LearnedPositionsSpec(positions), max_position_embeddings=positions, layers=layers
    )


@pytest.mark.parametrize(
    ("spec", "optimum", "longest"),
    [
        (spec_with(64), 16, 64),
        (spec_with(2048, (64, 128)), 512, 2048),
        (spec_with(63), 16, 56),
        (spec_with(5), 5, 5),
        (spec_with(2**19, (64, 64)), 16384, 65536),
        (spec_with(2**19, (96, 64)), 16512, 65472),  # multiples of 192
        (spec_with(2**18, (2**17, 2**17)), 65536, 65536),  # no multiple of the chunk length is in reach
    ],
)
def test_the_default_profile_has_useful_lengths(spec: ModelSpec, optimum: int, longest: int) -> None:
    profile = EngineProfile((1, 1), (1, optimum), (1, longest))
    assert default_profiles(spec) == (profile,)
    assert profiles_from_shapes(spec, (), (), ()) == (profile,)
    steps = EngineProfile((1, 1), (1, 1), (16, 1))
    assert profiles_from_shapes(spec, (), (), (), decode=True) == (profile, steps)


@pytest.mark.parametrize(
    ("minimum", "optimum", "maximum", "profile"),
    [
        (None, None, (4, 60), EngineProfile((1, 1), (4, 16), (4, 60))),
        (None, (2, 32), None, EngineProfile((1, 1), (2, 32), (2, 64))),
        ((2, 40), None, None, EngineProfile((2, 40), (2, 40), (2, 64))),
        ((1, 3), (1, 5), (1, 7), EngineProfile((1, 3), (1, 5), (1, 7))),
    ],
)
def test_what_is_not_given_is_derived(
    minimum: Shape | None, optimum: Shape | None, maximum: Shape | None, profile: EngineProfile
) -> None:
    lists = ([shape] if shape else [] for shape in (minimum, optimum, maximum))
    assert profiles_from_shapes(make_spec(), *lists) == (profile,)


def test_several_profiles() -> None:
    profiles = profiles_from_shapes(make_spec(), (), [(1, 8), (2, 32)], [(1, 16), (4, 64)])
    assert [str(profile) for profile in profiles] == ["1x1 / 1x8 / 1x16", "1x1 / 2x32 / 4x64"]


@pytest.mark.parametrize(
    ("minimums", "maximums", "message"),
    [
        (
            [],
            [(1, MAX_LENGTH + 1)],
            f"65 tokens .1x65., expected at most {MAX_LENGTH}",
        ),
        ([(1, 65)], [], "got a longest sequence of 65 tokens"),
        ([(1, 8)], [(1, 4)], "expected 1 <= min <= opt <= max"),
        (
            [(1, 1), (1, 2)],
            [(1, 4)],
            "got 2 `minimums`, 0 `optimums` and 1 `maximums`, expected equally many",
        ),
        ([], [(2**26, 64)], "which is 4294967296 tokens at once, expected at most 2147483647"),
    ],
)
def test_profiles_that_do_not_fit(minimums: list[Shape], maximums: list[Shape], message: str) -> None:
    with pytest.raises(InputError, match=message):
        profiles_from_shapes(make_spec(), minimums, [], maximums)
