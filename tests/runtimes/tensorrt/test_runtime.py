"""The TensorRT runtime on a fake GPU that checks the order of the calls; numbers against ONNX Runtime."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reformer_export.artifact.engine_record import EngineFlags, EngineProfile, PluginRecord
from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.errors import ArtifactError, InputError, RuntimeUnavailableError
from reformer_export.libraries.installed import ABI_VERSION
from reformer_export.runtimes import LeftPaddingWarning, load
from reformer_export.spec import TASKS, DType, Task
from tests.cli.program import run_program
from tests.runtimes.artifacts import write_artifact
from tests.runtimes.tensorrt.engines import (
    PROFILES,
    REQUESTS,
    count_graphs,
    make_artifact,
    make_machine,
    open_fake,
    write_engine,
)
from tests.runtimes.tensorrt.fake_cuda import FakeCuda
from tests.runtimes.tensorrt.fake_tensorrt import FakeTensorRT


@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_number_is_onnx_runtime_s(
    tmp_path: Path, library: Path, dtype: DType, cuda_graphs: bool
) -> None:
    """Small and large shapes in turn: buffers grow, contexts change, graphs are made and dropped."""
    out = make_artifact(tmp_path, library, dtype)
    reference = load(out, provider="cpu")
    with open_fake(out, library, cuda_graphs=cuda_graphs) as model:
        for _ in range(4):
            for ids, mask in REQUESTS:
                expected, got = reference.run(ids, mask), model.run(ids, mask)
                assert got.keys() == expected.keys()
                np.testing.assert_array_equal(got["logits"], expected["logits"])
                assert got["logits"].dtype == np.float32
        assert count_graphs(model) == (len({np.shape(ids) for ids, _ in REQUESTS}) if cuda_graphs else 0)


@pytest.mark.parametrize("task", TASKS)
def test_the_outputs_of_every_task(tmp_path: Path, library: Path, task: Task) -> None:
    out = write_artifact(tmp_path / "out", task)
    write_engine(out, library)
    expected = load(out, provider="cpu").run([[5, 6, 7], [8, 9, 10]])
    got = open_fake(out, library).run([[5, 6, 7], [8, 9, 10]])
    assert list(got) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value)


def test_generate_grows_token_by_token(tmp_path: Path, library: Path) -> None:
    out = make_artifact(tmp_path, library)
    cuda = FakeCuda()
    model = open_fake(out, library, cuda=cuda, cuda_graphs=True)
    generation = model.generate([5, 6], max_new_tokens=100, temperature=0)
    assert list(generation) == list(range(7, 7 + 62))
    assert generation.stop_reason == "max_length"
    assert cuda.log.count("allocate") < 30, "buffers grow by half, not by a token"
    assert "begin_capture" not in cuda.log, "no shape came again"


def test_what_the_runtime_says_of_itself(tmp_path: Path, library: Path) -> None:
    out = make_artifact(tmp_path, library, file={"warning": "another  model\nof GPU"})
    model = open_fake(out, library)
    assert model.folder == out
    assert model.profiles == PROFILES
    assert model.record.name == "fake"
    assert model.native is None
    assert model.providers == (
        "TensorRT 1.7.1.116, Fake 4090 (compute capability 8.9, 24.0 GiB), engine fake",
    )
    assert model.notes == ["TensorRT 1.7.1.116: another model of GPU"]


def test_left_padding_warns_at_the_caller(tmp_path: Path, library: Path) -> None:
    model = open_fake(make_artifact(tmp_path, library), library)
    with pytest.warns(LeftPaddingWarning) as caught:
        model.run([[0, 5]], [[0, 1]])
    assert caught[0].filename == __file__


def test_the_longest_sequence_is_the_profiles(tmp_path: Path, library: Path) -> None:
    pairs = EngineProfile((2, 1), (2, 8), (2, 64))
    alone = EngineProfile((1, 1), (1, 8), (1, 16))
    out = make_artifact(tmp_path, library, profiles=(pairs, alone))
    model = open_fake(out, library)
    assert model.max_length == 16
    assert model.generate([5] * 10, temperature=0).ids == []
    assert len(list(model.generate([5] * 10, temperature=0))) == 6
    with pytest.raises(InputError, match="got 17 tokens, expected at most 16"):
        model.generate([5] * 17)


def test_a_shape_in_no_profile_is_refused(tmp_path: Path, library: Path) -> None:
    model = open_fake(make_artifact(tmp_path, library), library)
    with pytest.raises(InputError, match=r"got shape 5x1, .*1x1 to 2x16, or from 1x1 to 4x64"):
        model.run([[1]] * 5)
    assert model.run([[5]])["logits"].argmax() == 6


def test_the_reason_in_tensorrt_s_log_is_in_the_error(tmp_path: Path, library: Path) -> None:
    out = make_artifact(tmp_path, library, file={"fails_to_run": True})
    cuda = FakeCuda()
    model = open_fake(out, library, cuda=cuda)
    for _ in range(2):
        with pytest.raises(
            RuntimeUnavailableError, match=r"failed on input_ids of shape 1x1: .*invalid config"
        ):
            model.run([[5]])
    model.close()
    assert cuda.memory == {}


def test_the_plugin_library_is_loaded_once_a_process(tmp_path: Path, library: Path) -> None:
    trt = FakeTensorRT(FakeCuda())
    out = make_artifact(tmp_path, library)
    for _ in range(2):
        open_fake(out, library, trt=trt).close()
    assert trt.registry.loaded == [str(library)]


def test_an_embedded_plugin_library_needs_none_here(tmp_path: Path, library: Path) -> None:
    trt = FakeTensorRT(FakeCuda())
    embedded = PluginRecord(library.name, "0" * 64, 2, "0.1.0", embedded=True)
    out = make_artifact(tmp_path, library, file={"embedded": True}, plugin=embedded)
    machine = make_machine(None, library_problem="none")
    model = open_fake(out, library, trt=trt, machine=machine, allow_engine_code=True)
    assert model.run([[5]])["logits"].argmax() == 6
    assert trt.registry.loaded == []


@pytest.mark.parametrize(
    ("embedded", "compatible", "words"),
    [
        (True, False, "the plugin library"),
        (False, True, "the lean runtime of a version-compatible engine"),
        (True, True, "the plugin library and the lean runtime of a version-compatible engine"),
    ],
)
def test_an_engine_that_carries_code_is_opened_when_the_user_says_so(
    tmp_path: Path, library: Path, embedded: bool, compatible: bool, words: str
) -> None:
    """The refusal comes before anything of the engine is read, whatever the machine."""
    out = make_artifact(
        tmp_path,
        library,
        file={"embedded": embedded},
        plugin=PluginRecord(library.name, sha256_of_file(library), ABI_VERSION, "0.1.0", embedded),
        flags=EngineFlags(version_compatible=compatible),
    )
    engine = out / "engines" / "fake.engine"
    content = engine.read_bytes()
    engine.write_bytes(b"harm")
    with pytest.raises(InputError) as caught:
        open_fake(out, library, machine=make_machine(None, gpu=None, gpu_problem="none"))
    assert str(caught.value) == (
        f"engine fake: got one that carries machine code, which would run as you ({words}), expected your "
        "word for it; use `allow_engine_code=True` if you trust whoever built it, or build it again here"
    )
    engine.write_bytes(content)
    assert open_fake(out, library, allow_engine_code=True).run([[5]])["logits"].argmax() == 6


def test_an_engine_without_code_needs_no_word(tmp_path: Path, library: Path) -> None:
    out = make_artifact(tmp_path, library)
    assert open_fake(out, library).run([[5]])["logits"].argmax() == 6


@pytest.mark.parametrize("embedded", [True, False])
def test_inspect_says_which_engines_carry_code(tmp_path: Path, library: Path, embedded: bool) -> None:
    plugin = PluginRecord(library.name, sha256_of_file(library), ABI_VERSION, "0.1.0", embedded)
    out = make_artifact(tmp_path, library, plugin=plugin)
    words = "the plugin library" if embedded else None
    report = json.loads(run_program("inspect", out, "--json").stdout)
    assert [engine["host_code"] for engine in report["engines"]] == [words]
    assert (
        json.loads(run_program("inspect", out / "engines/fake.engine", "--json").stdout)["host_code"] == words
    )
    assert re.search(
        f"code for the host +{words or 'none'}", run_program("inspect", out / "engines/fake.json").stdout
    )


@pytest.mark.parametrize("command", [("run", "OUT", "hi"), ("verify", "OUT"), ("bench", "OUT")])
def test_the_word_is_for_engines_only(tmp_path: Path, command: tuple[str, ...]) -> None:
    out = write_artifact(tmp_path / "out")
    error = run_program(*(out if word == "OUT" else word for word in command), "--allow-engine-code").error
    assert error.startswith("Error: --allow-engine-code: got")


def test_an_engine_without_weights_gets_those_of_the_model(tmp_path: Path, library: Path) -> None:
    out = make_artifact(
        tmp_path, library, file={"stripped": True}, flags=EngineFlags(refit=True, stripped=True)
    )
    assert open_fake(out, library).run([[5]])["logits"].argmax() == 6


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, library: Path) -> None:
    other = write_artifact(tmp_path / "other", vocab_size=300)
    out = make_artifact(
        tmp_path,
        library,
        file={"stripped": True, "model": str(other / MODEL_NAME)},
        flags=EngineFlags(refit=True, stripped=True),
    )
    cuda = FakeCuda()
    with pytest.raises(ArtifactError, match=r"cannot take the weights .*another shape; no weights for table"):
        open_fake(out, library, cuda=cuda)
    assert (cuda.memory, cuda.streams) == ({}, {})


def test_an_engine_that_takes_no_weights_is_refused(tmp_path: Path, library: Path) -> None:
    flags = EngineFlags(refit=True, stripped=True)
    out = make_artifact(tmp_path, library, file={"refittable": False}, flags=flags)
    with pytest.raises(RuntimeUnavailableError, match=r"made no Refitter: .*build the engine again"):
        open_fake(out, library)


def test_an_engine_that_tensorrt_refuses(tmp_path: Path, library: Path) -> None:
    out = make_artifact(tmp_path, library, data=b"not an engine")
    with pytest.raises(
        RuntimeUnavailableError, match=r"engine fake: TensorRT .*magicTag.*build the engine again"
    ):
        open_fake(out, library)


def test_a_plugin_library_that_tensorrt_refuses(tmp_path: Path, library: Path) -> None:
    out = make_artifact(tmp_path, library)
    machine = make_machine(library)
    trt = FakeTensorRT(FakeCuda())
    trt.registry.load_library = lambda path: trt.error(f"undefined symbol in {path}")  # type: ignore[assignment]
    with pytest.raises(
        RuntimeUnavailableError, match=r"no plugin LSHAttention, LSHBuckets .*undefined symbol"
    ):
        open_fake(out, library, trt=trt, machine=machine)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            {"outputs": {"last_hidden_state": "FLOAT"}},
            r"outputs \['last_hidden_state'\].*, and logits",
        ),
        ({"outputs": {"logits": "INT32"}}, r"logits of type .*INT32.*expected .*FLOAT"),
        ({"input_type": "INT32"}, r"input_ids of type .*INT32.*expected .*INT64"),
        ({"profiles": [[[1, 1], [1, 8], [2, 32]]]}, r"got the profiles 1x1 / 1x8 / 2x32, expected 1x1 / 1x8"),
    ],
)
def test_an_engine_that_is_not_what_its_record_says(
    tmp_path: Path, library: Path, file: dict[str, Any], message: str
) -> None:
    cuda = FakeCuda()
    with pytest.raises(ArtifactError, match=message):
        open_fake(make_artifact(tmp_path, library, file=file), library, cuda=cuda)
    assert cuda.streams == {}
