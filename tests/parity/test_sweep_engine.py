"""verify on a runtime whose buckets nobody can read; ONNX Runtime stands in for the engine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import transformers

from reformer_export.artifact.engine_record import EngineProfile
from reformer_export.errors import InputError
from reformer_export.parity import session
from reformer_export.parity.cases import Case
from reformer_export.parity.sweep import sweep, with_built_in_rounds
from reformer_export.runtimes import RuntimeOptions, load
from reformer_export.runtimes.ort_session import CPU, Placement
from tests.export.test_export import export
from tests.hf_models import config_t, save_model

PROFILES = (EngineProfile((1, 2), (1, 30), (2, 40)),)
DENSE, HASHED = Case(8, 2, masked=False), Case(40, 2, masked=True)


@dataclass
class StandIn:
    """An open artifact with an engine's profiles; `change` is made to every output."""

    runtime: Any
    change: Any
    profiles: tuple[EngineProfile, ...]
    providers: tuple[str, ...] = ("TensorRT 10.9, Some GPU, engine NAME",)
    native: None = None
    record: Any = None

    @property
    def manifest(self) -> Any:
        return self.runtime.manifest

    def run(self, *inputs: Any) -> Any:
        return {name: self.change(value) for name, value in self.runtime.run(*inputs).items()}

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        self.runtime.close()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("engine")
    folder = save_model(root, config_t(), transformers.ReformerModel)
    export(folder, root / "out")
    return folder, root / "out"


@pytest.fixture
def verify_with(exported, monkeypatch):
    """Verify on a stand-in whose outputs `change` changes."""
    folder, out = exported
    asked = []

    options = RuntimeOptions("tensorrt", engine="NAME")

    def open_stand_in(path, options):
        asked.append(options)
        return StandIn(load(path, provider="cpu"), change, profiles)

    def run(function, cases=None, allowed=PROFILES):
        nonlocal change, profiles
        change, profiles = function, allowed
        monkeypatch.setattr(session, "load", open_stand_in)
        beside = RuntimeOptions(provider="cpu", threads=1, native="off")
        with session.open_session(out, folder, options, beside=beside) as opened:
            assert opened.placement == Placement(CPU, 1, None)
            result = sweep(opened, cases)
        assert asked == [options]
        return result

    change, profiles = None, ()
    return run


def first_token_wrong(values):
    values = values.copy()
    values[:, 0] += 1.0
    return values


def test_a_sound_engine_passes_and_the_verdict_says_whose_buckets_were_read(verify_with):
    result = verify_with(lambda values: values, [DENSE, HASHED])
    assert result.passed
    assert result.runtime == "TensorRT 10.9, Some GPU, engine NAME"
    assert "the engine hashes for itself where nobody can look" in result.verdict()
    assert [case.reads_buckets for case in result.cases] == [False, False]


def test_default_cases_are_those_that_the_profiles_take(verify_with):
    cases = [result.case for result in verify_with(lambda values: values).cases]
    assert cases
    assert {case.batch for case in cases} == {1, 2}
    assert all(2 <= case.length <= 40 for case in cases)


def test_a_token_that_may_have_flipped_is_no_failure_where_anything_is_hashed(verify_with):
    result = verify_with(first_token_wrong, [HASHED])
    (case,) = result.cases
    assert case.free_error > case.tolerance > case.free_median
    assert case.flips == 0
    assert result.passed


def test_on_one_chunk_nothing_is_hashed_and_no_token_may_differ(verify_with):
    assert not verify_with(first_token_wrong, [DENSE]).passed


@pytest.mark.parametrize("change", [lambda v: v + np.float32(0.01), lambda v: v * np.float32("nan")])
def test_a_wrong_engine_fails(verify_with, change):
    assert not verify_with(change, [HASHED]).passed


def test_no_default_case_fits_the_profiles(verify_with):
    with pytest.raises(InputError, match="cases: got none"):
        verify_with(lambda values: values, allowed=(EngineProfile((9, 1), (9, 8), (9, 8)),))


def test_an_engine_s_built_in_rounds_are_those_of_every_case() -> None:
    """Cases of other rounds are left out: the engine has none."""
    cases = [DENSE, HASHED, Case(40, 2, masked=True, num_hashes=1), Case(40, 2, masked=True, num_hashes=2)]
    engine: Any = SimpleNamespace(record=SimpleNamespace(num_hashes=2))
    got = with_built_in_rounds(engine, cases)
    assert got == [dataclasses.replace(case, num_hashes=2) for case in (DENSE, HASHED)]
    for runtime in (SimpleNamespace(record=None), SimpleNamespace(record=SimpleNamespace(num_hashes=None))):
        assert with_built_in_rounds(runtime, cases) == cases  # type: ignore[arg-type]
