"""What ONNX Runtime is asked for when a graph is opened on CUDA; nothing here needs a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from reformer_export.errors import InputError, RuntimeUnavailableError
from reformer_export.libraries.installed import ABI_VERSION
from reformer_export.libraries.operators import NativeLibrary
from reformer_export.runtimes import load, ort, ort_binding
from reformer_export.runtimes.ort_errors import ProviderError
from reformer_export.runtimes.ort_session import CPU, CUDA, Placement, open_session
from tests.cli.program import run_program
from tests.runtimes.artifacts import write_artifact
from tests.runtimes.cuda_stand_in import stand_in

TOO_OLD = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; line=336"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The keyword arguments of each `InferenceSession`, which is then one of the CPU."""
    calls: list[dict[str, Any]] = []
    real = onnxruntime.InferenceSession

    def open_and_remember(model: Any, options: Any, **arguments: Any) -> Any:
        calls.append(arguments)
        return real(model, options, providers=[CPU])

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_and_remember)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    return calls


@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_off_unless_it_is_asked_for(tmp_path: Path, asked: Any, tf32: bool) -> None:
    open_session(write_artifact(tmp_path / "out") / "model.onnx", Placement(CUDA, tf32=tf32))
    assert asked == [
        {"providers": [(CUDA, {"use_tf32": "1" if tf32 else "0"}), (CPU, {})], "enable_fallback": 0}
    ]


def test_the_cpu_has_no_such_option(tmp_path: Path, asked: Any) -> None:
    open_session(write_artifact(tmp_path / "out") / "model.onnx")
    assert asked[0]["providers"] == [(CPU, {})]


def test_a_float16_artifact_multiplies_float32_exactly_too(tmp_path: Path, asked: Any) -> None:
    """The bodies hash in float32."""
    load(write_artifact(tmp_path / "out", dtype="float16"), native="off")
    assert asked[0]["providers"][0] == (CUDA, {"use_tf32": "0"})


def test_tf32_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = stand_in(monkeypatch)
    with load(write_artifact(tmp_path / "out"), provider="cuda", native="off", tf32=True) as model:
        assert model.description == "ONNX Runtime, CUDA, TF32, function bodies"
        (note,) = model.notes
        assert "round float32 to TF32" in note
        assert "those of float16" in note
    assert [placement.tf32 for placement in gpu.placements] == [True]


def test_tf32_is_said_by_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    out = write_artifact(tmp_path / "out")
    for command in (
        ("run", out, "--ids", "5,6"),
        ("generate", out, "--prompt-ids", "5", "--temperature", "0"),
    ):
        got = run_program(*command, "--provider", "cuda", "--tf32", "--json")
        assert got.status == 0, got.stderr
        assert '"runtime": "ONNX Runtime, CUDA, TF32, function bodies"' in got.stdout
        assert "Runs on ONNX Runtime, CUDA, TF32, function bodies." in got.stderr
        assert "Note: Products on the GPU round float32 to TF32" in got.stderr


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tf32_is_for_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    gpu = stand_in(monkeypatch)
    with pytest.raises(InputError, match=f"tf32: got it for an artifact in {dtype}, expected one in float32"):
        load(write_artifact(tmp_path / "out", dtype=dtype), tf32=True)
    assert not gpu.placements


def test_tf32_that_finds_no_gpu_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with load(write_artifact(tmp_path / "out"), tf32=True) as model:
        assert model.notes == ["There is no TF32 on the CPU: products are float32's."]
        assert "TF32" not in model.description
        assert not model.placement.tf32


@pytest.mark.parametrize("command", ["run", "verify", "bench", "generate"])
def test_the_commands_refuse_tf32_on_the_cpu(tmp_path: Path, command: str) -> None:
    """In one line, before any work."""
    got = run_program(command, write_artifact(tmp_path / "out"), "--tf32", "--provider", "cpu")
    assert got.status == 2
    assert "--tf32: got it on the CPU, which has none, expected CUDA as the provider" in got.error
    assert "--provider cuda" in got.error


def raise_when_opened(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    """ONNX Runtime's CUDA provider raises `message`, and its Python tries no other."""
    real = onnxruntime.InferenceSession

    def refuse(model: Any, options: Any, providers: Any, enable_fallback: int) -> Any:
        assert enable_fallback == 0
        if any(name == CUDA for name, _ in providers):
            raise RuntimeError(message)
        return real(model, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])


def test_a_driver_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    raise_when_opened(monkeypatch, TOO_OLD)
    out = write_artifact(tmp_path / "out")
    with pytest.raises(ProviderError, match="got cuda, but no NVIDIA driver, or one that is older"):
        load(out, provider="cuda", native="off")
    with load(out, native="off") as model:
        assert model.providers == (CPU,)
        assert model.notes == [
            "CUDA could not be started, so the model runs on the CPU: no NVIDIA driver, or one that is older "
            "than the installed CUDA libraries."
        ]
        assert model.run([[5]])["logits"].argmax() == 6
    assert capfd.readouterr() == ("", "")


def test_a_gpu_without_room_for_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not taken for a machine without CUDA: the CPU is not what was asked for."""
    raise_when_opened(monkeypatch, "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc(&p, size);")
    with pytest.raises(RuntimeUnavailableError, match=r"got no memory of the GPU for its \d+ bytes"):
        load(write_artifact(tmp_path / "out"), native="off")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA error cudaErrorNoKernelImageForDevice:no kernel image is available", "no code for this GPU"),
        ("Failed to allocate memory for requested buffer of size 9", "the GPU's memory does not suffice"),
    ],
)
def test_failures_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, expected: str
) -> None:
    stand_in(monkeypatch)

    def fail(*_arguments: Any) -> None:
        raise RuntimeError(message)

    with load(write_artifact(tmp_path / "out"), provider="cuda") as model:
        monkeypatch.setattr("tests.runtimes.cuda_stand_in.Session.run_with_iobinding", fail)
        with pytest.raises((ProviderError, InputError), match=expected):
            model.run([[5]])


def test_a_cast_that_cannot_be_opened_is_not_the_model_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch)

    def refuse(*_arguments: Any) -> None:
        raise ProviderError("no GPU any more", "one", "get one")

    monkeypatch.setattr(ort_binding, "open_graph_bytes", refuse)
    with load(write_artifact(tmp_path / "out", dtype="float16"), provider="cuda") as model:
        with pytest.raises(ProviderError, match="cuda, but no GPU any more"):
            model.run([[5]])
        assert model.run([[5]], dtype="float16")["logits"].argmax() == 6


def test_a_machine_without_cuda_is_not_the_library_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not tried again on the bodies."""
    library = NativeLibrary(Path("cuda.so"), "0.1.0", ABI_VERSION, "AVX3", "80,90")
    opened = []

    def refuse(_model: Path, placement: Placement, **_options: Any) -> Any:
        opened.append(placement.library)
        raise ProviderError("no GPU", "one", "get one")

    monkeypatch.setattr(ort, "find_native_library", lambda _mode: library)
    monkeypatch.setattr(ort, "open_session", refuse)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    with pytest.raises(ProviderError, match="cuda, but no GPU"):
        load(write_artifact(tmp_path / "out"), provider="cuda")
    assert opened == [library]


def test_missing_libraries_are_named_before_onnx_runtime_is_asked(
    tmp_path: Path, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would write coloured lines of its own to standard error."""
    missing = ("libcuda.so.1", "libcublas.so.13")
    monkeypatch.setattr("reformer_export.runtimes.cuda_provider.find_missing_libraries", lambda _: missing)
    out = write_artifact(tmp_path / "out")
    with load(out, native="off") as model:
        (note,) = model.notes
    assert note == (
        "CUDA could not be started, so the model runs on the CPU: no NVIDIA driver (libcuda.so.1) and no "
        "libcublas.so.13 (pip install 'reformer-export[gpu]' brings CUDA's libraries)."
    )
    assert asked == [{"providers": [(CPU, {})], "enable_fallback": 0}]
    with pytest.raises(ProviderError, match=r"got cuda, but no NVIDIA driver .* install NVIDIA's driver"):
        load(out, provider="cuda", native="off")
