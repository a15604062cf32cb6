from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

import reformer_export
from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import EXTERNAL_DATA_NAME, MODEL_NAME, read_manifest
from reformer_export.errors import ArtifactError, InputError, MissingDependencyError, RuntimeUnavailableError
from reformer_export.libraries.operators import NativeLibrary, find_native_library
from reformer_export.low_precision import LowPrecision
from reformer_export.runtimes import LeftPaddingWarning, RuntimeOptions, load, ort, ort_session
from reformer_export.runtimes.dense_layers import PRODUCTS_KEY
from reformer_export.runtimes.ort import OnnxRuntime
from reformer_export.runtimes.ort_notes import describe_products
from reformer_export.spec import TASKS, DType, Task
from tests.edits import change_json, vouch_for
from tests.runtimes.artifacts import (
    make_bare_node_model,
    make_manifest,
    make_model,
    make_spec,
    next_token_table,
    write_artifact,
)

SHAPES: dict[Task, dict[str, tuple[int, ...]]] = {
    "feature-extraction": {"last_hidden_state": (2, 3, 8)},
    "text-generation": {"logits": (2, 3, 258)},
    "fill-mask": {"logits": (2, 3, 258)},
    "text-classification": {"logits": (2, 3)},
    "question-answering": {"start_logits": (2, 3), "end_logits": (2, 3)},
}


def replace_model(folder: Path, model: Any) -> None:
    """Put another model into the artifact, with a manifest that agrees."""
    onnx.save(model, str(folder / MODEL_NAME))
    vouch_for(folder / MODEL_NAME)


def make_external_data_model(location: str, dtype: DType = "float32") -> Any:
    """The language model with its table in external data at `location`."""
    model = make_model(make_spec(), dtype)
    table = model.graph.initializer[0]
    table.ClearField("raw_data")
    table.data_location = TensorProto.EXTERNAL
    table.external_data.add(key="location", value=location)
    return model


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("task", TASKS)
def test_outputs_are_float32_and_named_by_the_task(tmp_path: Path, task: Task, dtype: DType) -> None:
    model = load(write_artifact(tmp_path / "out", task, dtype=dtype), provider="cpu", threads=1)
    outputs = model.run([[5, 6, 7], [9, 10, 11]])
    assert {name: value.shape for name, value in outputs.items()} == SHAPES[task]
    assert {value.dtype for value in outputs.values()} == {np.dtype(np.float32)}


def test_every_logit_is_the_model_s(tmp_path: Path) -> None:
    model = load(write_artifact(tmp_path / "out"), threads=1)
    ids = np.array([[5, 6, 7], [9, 9, 257]])
    np.testing.assert_array_equal(model.run(ids)["logits"], next_token_table(258)[ids])


def test_last_logits_are_those_of_each_row_s_last_token(tmp_path: Path) -> None:
    model = load(write_artifact(tmp_path / "out", logits="last"))
    logits = model.run([[5, 6, 7], [9]])["logits"]
    assert logits.shape == (2, 1, 258)
    assert logits[:, 0].argmax(axis=-1).tolist() == [8, 10]


def test_what_a_runtime_says_of_itself(tmp_path: Path) -> None:
    config = b'{"pad_token_id": 3, "eos_token_id": 4, "id2label": {"0": "no", "1": "yes"}}'
    out = write_artifact(tmp_path / "out", files={"config.json": config})
    model = reformer_export.load(str(out), provider="cpu", threads=2)
    assert (model.folder, model.max_length, model.spec) == (out, 64, make_spec())
    assert model.manifest.dtype == "float32"
    assert model.providers == ("CPUExecutionProvider",)
    assert model.notes == []
    assert (model.config.pad_token_id, model.config.eos_token_ids) == (3, (4,))
    assert model.config.id2label == {0: "no", 1: "yes"}


def test_bfloat16_is_widened_on_the_cpu_and_said_so(tmp_path: Path) -> None:
    table = np.full((258, 258), 1 + 2**-7, np.float32)  # exact in bfloat16, not in less
    model = load(write_artifact(tmp_path / "out", dtype="bfloat16", table=table), provider="cpu")
    assert (model.run([[5]])["logits"] == 1 + 2**-7).all()
    assert "upcast to float32" in model.notes[0]


def test_what_products_run_is_said() -> None:
    def describe(int8: str | None, bfloat16: str | None, **fields: Any) -> list[str]:
        library = NativeLibrary(Path("x.so"), "1", 6, "AVX2", None, int8, bfloat16)
        manifest = dataclasses.replace(make_manifest(Path(), make_spec(), "float32", ()), **fields)
        return describe_products(manifest, library)

    assert describe(None, None) == []
    assert "upcast to float32" in describe("AMX", None, dtype="bfloat16")[0]
    assert "run in bfloat16 with AMX" in describe("AMX", "AMX", dtype="bfloat16")[0]
    assert describe("AMX", None, low_precision=LowPrecision("int8")) == []
    assert "none of AVX2, VNNI and AMX" in describe(None, None, low_precision=LowPrecision("int8"))[0]


def test_only_products_that_are_used_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a library that has all of them; the artifact has no dense layers of its own."""
    out = write_artifact(tmp_path / "out")
    found = find_native_library("auto")
    if found is None:
        pytest.skip("no native library: make native says what is missing")
    library = dataclasses.replace(
        found, int8_products="AMX", bfloat16_products="AMX", float32_products="AVX-512"
    )
    monkeypatch.setattr(ort, "find_native_library", lambda mode: library)
    kernels = f"{library.version} (ABI {library.abi_version}, {library.cpu_target})"
    with load(out, provider="cpu") as model:
        assert model.description == f"ONNX Runtime, CPU, native kernels {kernels}"
    manifest = dataclasses.replace(read_manifest(out), low_precision=LowPrecision("int8"))
    options = RuntimeOptions(provider="cpu")
    with OnnxRuntime(out, options, manifest) as model:
        assert model.description == f"ONNX Runtime, CPU, native kernels {kernels}, int8 with AMX"
    real = ort.open_session

    def open_session(*arguments: Any, **named: Any) -> Any:
        session = real(*arguments, **named)
        monkeypatch.setattr(session._model_meta, "custom_metadata_map", {PRODUCTS_KEY: "float32"})
        return session

    monkeypatch.setattr(ort, "open_session", open_session)
    with load(out, provider="cpu") as model:
        assert model.description == f"ONNX Runtime, CPU, native kernels {kernels}, float32 with AVX-512"


def test_bfloat16_needs_onnx_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = write_artifact(tmp_path / "out", dtype="bfloat16")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"reformer-export\[export\]"):
        load(out, provider="cpu")


def test_left_padding_warns_at_the_caller(tmp_path: Path) -> None:
    model = load(write_artifact(tmp_path / "out"))
    with pytest.warns(LeftPaddingWarning) as caught:
        model.run([[0, 5]], [[0, 1]])
    assert caught[0].filename == __file__


def test_external_data_in_the_folder_is_read(tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        out = write_artifact(tmp_path / dtype, dtype=dtype)
        table = onnx.load(str(out / MODEL_NAME)).graph.initializer[0].raw_data
        (out / "model.onnx.data").write_bytes(table)
        replace_model(out, make_external_data_model("model.onnx.data", dtype))
        assert load(out, provider="cpu").run([[5]])["logits"].argmax() == 6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, kind: str, dtype: DType) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(258 * 258 * 4))
    out = write_artifact(tmp_path / "out", dtype=dtype)
    (out / "link").symlink_to(secret)
    location = {"parent": "../secret", "absolute": str(secret), "link": "link"}[kind]
    replace_model(out, make_external_data_model(location, dtype))
    with pytest.raises(ArtifactError, match=rf"expected a path inside the artifact|{MODEL_NAME}"):
        load(out, provider="cpu")


def test_a_changed_model_is_refused(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    with (out / MODEL_NAME).open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(ArtifactError, match="the file changed after the export"):
        load(out)


def write_weights_beside(folder: Path) -> Path:
    """An artifact whose weights lie in a file of their own, with its SHA-256."""
    out = write_artifact(folder)
    weights = out / EXTERNAL_DATA_NAME
    weights.write_bytes(onnx.load(str(out / MODEL_NAME)).graph.initializer[0].raw_data)
    onnx.save(make_external_data_model(EXTERNAL_DATA_NAME), str(out / MODEL_NAME))
    files = {path.name: sha256_of_file(path) for path in (out / MODEL_NAME, weights)}
    change_json(out / "manifest.json", files=files)
    return out


@pytest.mark.parametrize("change", ["value", "length", "gone"])
def test_changed_weights_are_refused(tmp_path: Path, change: str) -> None:
    """Whether the session takes them or not, and when a model that is open needs another session."""
    out = write_weights_beside(tmp_path / "out")
    model = load(out)
    assert isinstance(model, OnnxRuntime)
    assert model.run([[5]])["logits"].shape == (1, 1, 258)
    weights = out / EXTERNAL_DATA_NAME
    values = bytearray(weights.read_bytes())
    weights.unlink()  # what is mapped stays as it was
    values[-1] ^= 1
    if change != "gone":
        weights.write_bytes(values[:-4] if change == "length" else values)
    expected = "got no such file" if change == "gone" else "the file changed after the export"
    with pytest.raises(ArtifactError, match=rf"{EXTERNAL_DATA_NAME}: .*{expected}"):
        load(out)
    model._sessions = {}
    with pytest.raises(ArtifactError, match=expected), model._lock:
        model._find_session(MODEL_NAME)
    assert model._sessions == {}


def test_weights_are_compared_while_the_session_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is handed out before both are done: here SHA-256 waits for the session."""
    out = write_weights_beside(tmp_path / "out")
    is_open = threading.Event()
    order = []

    def open_session(*arguments: Any, **options: Any) -> Any:
        session = ort_session.open_session(*arguments, **options)
        order.append("session")
        is_open.set()
        return session

    def sha256(path: Path) -> str:
        if path.name == EXTERNAL_DATA_NAME:
            assert is_open.wait(60), "the session waits for SHA-256"
        order.append(path.name)
        return sha256_of_file(path)

    monkeypatch.setattr("reformer_export.runtimes.ort.open_session", open_session)
    monkeypatch.setattr("reformer_export.artifact.manifest.sha256_of_file", sha256)
    load(out)
    assert order == [MODEL_NAME, "session", EXTERNAL_DATA_NAME]


def test_the_comparison_can_be_left_out(tmp_path: Path) -> None:
    """A changed file that nothing reads stays unseen; a model's bounds are looked at all the same."""
    out = write_artifact(tmp_path / "out", files={"notes.txt": b"one"})
    (out / "notes.txt").write_bytes(b"two")
    with pytest.raises(ArtifactError, match=r"notes\.txt: got SHA-256"):
        load(out)
    assert load(out, check=False).run([[5]])["logits"].shape == (1, 1, 258)
    with (out / MODEL_NAME).open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(ArtifactError, match="ends beyond its message"):
        load(out, check=False)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "link"])
def test_files_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    out = write_artifact(tmp_path / "out")
    (tmp_path / "secret").write_bytes(b"x")
    (out / "link").symlink_to(tmp_path / "secret")
    change_json(out / "manifest.json", files={MODEL_NAME: sha256_of_file(out / MODEL_NAME), name: "0" * 64})
    with pytest.raises(ArtifactError, match=rf"expected a path inside the artifact|{MODEL_NAME}"):
        load(out)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"manifest_version": 2}, "got manifest version 2, expected 1"),
        ({"files": {}}, "no model.onnx"),
        ({"files": {MODEL_NAME: "", "gone": ""}}, "SHA-256|no such file"),
        ({"dtype": "int4"}, "int4"),
        ({"spec": {}}, "fields"),
        ({"files": None}, "missing or wrong field"),
    ],
)
def test_broken_manifests_are_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    out = write_artifact(tmp_path / "out")
    change_json(out / "manifest.json", **values)
    with pytest.raises(reformer_export.errors.ReformerExportError, match=message):
        load(out)


def test_no_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"without manifest\.json"):
        load(tmp_path)
    with pytest.raises(ArtifactError, match=r"nowhere, which does not exist"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"no protobuf at all", "wire type 6"),
        (b"\x08\x0a", "ONNX Runtime refuses it"),  # a version and no graph
        (None, "ends beyond its message"),
    ],
)
def test_a_model_that_cannot_be_opened_is_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    out = write_artifact(tmp_path / "out")
    if content is None:
        content = (out / MODEL_NAME).read_bytes()[:1000]
    (out / MODEL_NAME).write_bytes(content)
    vouch_for(out / MODEL_NAME)
    with pytest.raises(ArtifactError, match=message):
        load(out)


def test_a_node_that_nothing_can_run_is_refused(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    replace_model(out, make_bare_node_model())
    with pytest.raises(ArtifactError, match=r"is not a registered function/op.*function body"):
        load(out, native="off")


def test_another_task_s_model_is_refused(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    replace_model(out, make_model(make_spec("feature-extraction")))
    with pytest.raises(ArtifactError, match=r"outputs .*last_hidden_state.*expected .*logits"):
        load(out)


def test_a_failure_while_running_is_an_artifact_error(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    replace_model(out, make_model(make_spec(vocab_size=10)))
    with pytest.raises(ArtifactError, match="ONNX Runtime failed on input_ids of shape"):
        load(out).run([[200]])


@pytest.mark.parametrize("config", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_broken_config_is_refused(tmp_path: Path, config: bytes) -> None:
    out = write_artifact(tmp_path / "out", files={"config.json": config})
    with pytest.raises(ArtifactError, match=r"config\.json"):
        load(out)


def test_a_pad_token_outside_the_vocabulary_is_replaced(tmp_path: Path) -> None:
    for pad in (b"999", b"null", b"-1"):
        out = write_artifact(tmp_path / pad.decode(), files={"config.json": b'{"pad_token_id": %s}' % pad})
        assert load(out).run([[5, 6], [7]])["logits"].shape == (2, 2, 258)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads"),
        ({"provider": "tpu"}, "provider: got 'tpu', expected one of auto, cpu, cuda"),
        ({"runtime": "x"}, "runtime: got 'x', expected one of onnxruntime"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(write_artifact(tmp_path / "out"), **options)


def test_cuda_without_the_gpu_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    out = write_artifact(tmp_path / "out")
    with pytest.raises(RuntimeUnavailableError, match="has no CUDA"):
        load(out, provider="cuda")
    assert load(out).notes == []


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA may start here"
)
def test_cuda_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the GPU package on a machine without a GPU: ONNX Runtime falls back to the CPU."""
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    out = write_artifact(tmp_path / "out", dtype="bfloat16")
    with pytest.raises(RuntimeUnavailableError, match="could not start CUDA"):
        load(out, provider="cuda")
    assert ["could not be started" in note for note in load(out).notes] == [True, False]


def test_onnxruntime_missing_names_the_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = write_artifact(tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"reformer-export\[cpu\].*reformer-export\[gpu\]"):
        load(out)


def test_running_imports_neither_torch_nor_transformers_nor_onnx(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out", dtype="float16")
    code = (
        "import sys, reformer_export, reformer_export.cli.run, reformer_export.cli.generate\n"
        f"model = reformer_export.load({str(out)!r}, provider='cpu')\n"
        "model.run([[5]]); assert len(model.generate('a', max_new_tokens=3).text) <= 3\n"
        "print(sorted({'torch', 'transformers', 'onnx', 'rich'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
