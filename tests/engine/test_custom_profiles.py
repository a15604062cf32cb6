"""Profiles of custom modules: sizes of their symbolic dimensions, in the manifest's order."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from reformer_export.artifact.engine_record import EngineProfile
from reformer_export.custom_spec import UNLIMITED, Dimension
from reformer_export.engine.profiles import check_profiles, default_profiles, profiles_from_shapes
from reformer_export.errors import InputError
from tests.runtimes.artifacts import make_custom_spec

SPEC = make_custom_spec()
"""Any number of rows, and times from 2 to 48."""


def test_the_default_takes_all_a_row_at_a_time() -> None:
    assert default_profiles(SPEC) == (EngineProfile((1, 2), (1, 12), (1, 48)),)
    endless = dataclasses.replace(SPEC, dimensions=(SPEC.dimensions[0], Dimension("time", 0, UNLIMITED)))
    with pytest.raises(InputError, match="expected the greatest time that the engine takes; give `maximums`"):
        default_profiles(endless)
    (given,) = profiles_from_shapes(endless, (), (), [(4, 1000)])
    assert given == EngineProfile((1, 1), (4, 250), (4, 1000))


def test_what_is_given_is_kept_and_the_rest_derived() -> None:
    (profile,) = profiles_from_shapes(SPEC, [(2, 8)], [(4, 9)], ())
    assert profile == EngineProfile((2, 8), (4, 9), (4, 48))


@pytest.mark.parametrize(
    ("maximum", "words"),
    [
        ((4,), "maximums: got 4, expected batch x time; give a size for each"),
        ((4, 5, 6), "maximums: got 4x5x6, expected batch x time"),
        ((4, 49), "profile: got 4x49, expected batch x time: batch from 1, time from 2 to 48"),
    ],
)
def test_what_the_module_does_not_take(maximum: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        profiles_from_shapes(SPEC, (), (), [maximum])


def test_a_profile_of_other_dimensions_is_refused() -> None:
    with pytest.raises(InputError, match="got 1, expected batch x time"):
        check_profiles(SPEC, [EngineProfile((1,), (2,), (3,))])
