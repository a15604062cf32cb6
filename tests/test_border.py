"""Types and sizes at the Python border: what does not fit is a ReformerExportError, at once."""

from __future__ import annotations

import dataclasses
import functools
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reformer_export
from reformer_export.engine import EngineOptions
from reformer_export.errors import InputError, ReformerExportError
from reformer_export.runtimes import Runtime, RuntimeOptions
from reformer_export.runtimes.generation import GenerationOptions
from reformer_export.runtimes.options import max_threads
from reformer_export.workflows.bench import BenchRequest
from reformer_export.workflows.export import ExportRequest
from reformer_export.workflows.verify import VerifyRequest
from tests.runtimes.artifacts import write_artifact

SECONDS = 10.0
"""A refusal takes none of them; a machine under load may take some."""


class Sly:
    """An object whose every answer is an error."""

    def __array__(self, *_arguments: object, **_options: object) -> Any:
        raise RuntimeError("no array")

    def __repr__(self) -> str:
        raise RuntimeError("no words")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no answer")

    __hash__ = object.__hash__


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(2**31, 2**70),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.complex_numbers(),
    st.sampled_from([object(), Sly(), int, len, Path("x"), np.float32(2.5), np.int64(3), torch.tensor(2.5)]),
)
ANYTHING = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=4),
    st.lists(st.lists(SCALARS, max_size=4), max_size=3),
    st.dictionaries(st.text(max_size=3), SCALARS, max_size=3),
    st.sampled_from([np.zeros((2, 2)), np.zeros((1, 2, 2), np.int64), torch.zeros(2, 3), iter([1]), {1, 2}]),
)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refuse_or_return(call: Callable[[], Any]) -> Any:
    """What `call` gives, or None where it refuses; soon either way."""
    begun = time.monotonic()
    try:
        return call()
    except ReformerExportError as error:
        refusal = str(error)
    finally:
        assert time.monotonic() - begun < SECONDS
    assert "\n" not in refusal
    return None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return reformer_export.load(write_artifact(tmp_path_factory.mktemp("border") / "out"))


def names_of(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


@pytest.mark.parametrize(
    "kind", [RuntimeOptions, GenerationOptions, VerifyRequest, BenchRequest, ExportRequest]
)
def test_every_field_of_every_option(kind: Any) -> None:
    @quick
    @given(name=st.sampled_from(names_of(kind)), value=ANYTHING)
    def check(name: str, value: Any) -> None:
        refuse_or_return(functools.partial(kind, **{name: value}))

    check()


@quick
@given(name=st.sampled_from([name for name in names_of(EngineOptions) if name != "runtime"]), value=ANYTHING)
def test_every_field_of_an_engine(name: str, value: Any) -> None:
    refuse_or_return(functools.partial(EngineOptions, runtime="tensorrt-rtx", **{name: value}))


@quick
@given(path=ANYTHING)
def test_a_path_of_any_type(path: Any) -> None:
    assert refuse_or_return(lambda: reformer_export.load(path)) is None


@quick
@given(ids=ANYTHING, mask=ANYTHING)
def test_ids_and_masks_of_any_type(model: Runtime, ids: Any, mask: Any) -> None:
    outputs = refuse_or_return(lambda: model.run(ids))
    assert outputs is None or set(outputs) == {"logits"}
    refuse_or_return(lambda: model.run([[5, 6]], mask))
    refuse_or_return(lambda: model.run([[5, 6]], num_hashes=mask))


@quick
@given(name=st.sampled_from([*names_of(GenerationOptions), "max_tokens"]), value=ANYTHING)
def test_generation_with_options_of_any_type(model: Runtime, name: str, value: Any) -> None:
    refuse_or_return(lambda: next(model.generate("a", **{name: value}), None))


@pytest.mark.parametrize("threads", [3000, 4294967297, max_threads() + 1, "2", 0])
def test_threads(model: Runtime, threads: Any) -> None:
    with pytest.raises(InputError, match=r"^threads: got .*, expected an integer from 1 up to"):
        reformer_export.load(model.folder, threads=threads)


def test_an_option_that_there_is_not(model: Runtime) -> None:
    with pytest.raises(InputError, match="options: got max_tokens, expected GenerationOptions"):
        model.generate("a", max_tokens=5)


def test_paths_may_be_text_and_sequences_lists() -> None:
    request = VerifyRequest(data="text.txt", lengths=[1, 2], batch_sizes=np.array([3]))  # type: ignore[arg-type]
    assert (request.data, request.lengths, request.batch_sizes) == (Path("text.txt"), (1, 2), (3,))


class OtherArray:
    """An array of a library that knows no DLPack."""

    def __array__(self, *_arguments: object, **_options: object) -> Any:
        return np.array([[5, 6, 7]])


@pytest.mark.parametrize(
    "ids", [torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 7]], dtype=torch.int32), OtherArray()]
)
def test_arrays_of_other_libraries(model: Runtime, ids: Any) -> None:
    mask = torch.tensor([[1, 1, 0]])
    assert np.array_equal(model.run(ids)["logits"], model.run([[5, 6, 7]])["logits"])
    assert np.array_equal(model.run(ids, mask)["logits"], model.run([[5, 6, 7]], [[1, 1, 0]])["logits"])


def test_rows_that_are_tensors(model: Runtime) -> None:
    rows: Any = [torch.tensor([5, 6, 7]), torch.tensor([8])]
    assert np.array_equal(model.run(rows)["logits"], model.run([[5, 6, 7], [8]])["logits"])


def test_an_open_model_says_why_it_is_no_pickle(model: Runtime) -> None:
    with pytest.raises(InputError, match="threads and GPU memory cannot be copied; send the folder's path"):
        pickle.dumps(model)


# Prompts, and text to ids and back


class OnlyDLPack:
    """An array of a library of which nothing is known but DLPack."""

    def __init__(self, values: Any) -> None:
        self._tensor = torch.tensor(values)

    def __dlpack__(self, **options: Any) -> Any:
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._tensor.__dlpack_device__()


ROWS = [
    torch.tensor([75, 112]),
    torch.tensor([75, 112], dtype=torch.int32),
    np.array([75, 112], np.uint8),
    OnlyDLPack([75, 112]),
    (75, 112),
    [np.int64(75), 112],
]


@pytest.mark.parametrize("ids", ROWS, ids=lambda row: type(row).__name__)
def test_prompts_of_other_libraries(model: Runtime, ids: Any) -> None:
    generation = model.generate(ids, max_new_tokens=3, temperature=0)
    assert list(generation) == list(model.generate([75, 112], max_new_tokens=3, temperature=0))
    assert generation.prompt_ids == (75, 112)
    assert model.decode(ids) == "In"


@pytest.mark.parametrize(
    "prompt",
    [torch.tensor([[5, 6]]), torch.tensor([5.0]), torch.tensor([True]), OnlyDLPack([[5]]), OtherArray()],
)
def test_arrays_that_are_no_row_of_ids(model: Runtime, prompt: Any) -> None:
    for call in (model.generate, model.decode):
        with pytest.raises(InputError, match="token ids such as"):
            call(prompt)


class Elsewhere(OnlyDLPack):
    """An array on a GPU, as far as DLPack tells."""

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("Can't export tensors that lie on a GPU")


def test_a_prompt_on_a_gpu_says_what_to_do(model: Runtime) -> None:
    with pytest.raises(
        InputError, match=r"lie on a GPU.*what lies on a GPU must be copied to the host first"
    ):
        model.generate(Elsewhere([5]))


@quick
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_what_is_encoded_is_decoded(model: Runtime, text: str) -> None:
    ids = model.encode(text)
    assert ids == model.tokenizer.encode(text)
    assert model.decode(ids) == text


@quick
@given(value=ANYTHING)
def test_text_and_ids_of_any_type(model: Runtime, value: Any) -> None:
    assert refuse_or_return(lambda: model.encode(value)) is None or isinstance(value, str)
    decoded = refuse_or_return(lambda: model.decode(value))
    assert decoded is None or isinstance(decoded, str)
    refuse_or_return(lambda: model.generate(value))


@pytest.mark.parametrize("ids", [[-1], [258], [5, 2**62], torch.tensor([300])])
def test_ids_beyond_the_vocabulary_have_no_text(model: Runtime, ids: Any) -> None:
    with pytest.raises(InputError, match=r"^ids: got .*, expected ids from 0 to 257"):
        model.decode(ids)
