"""Which kernels a CUDA session gets; the sessions are stand-ins, so that no GPU is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from reformer_export.errors import ArtifactError, InputError, RuntimeUnavailableError
from reformer_export.libraries.installed import ABI_VERSION
from reformer_export.libraries.operators import NativeLibrary
from reformer_export.runtimes import load, ort
from tests.runtimes.artifacts import make_spec, write_artifact

CPU_ONLY = NativeLibrary(Path("cpu.so"), "0.1.0", ABI_VERSION, "AVX3")
WITH_CUDA = NativeLibrary(Path("cuda.so"), "0.1.0", ABI_VERSION, "AVX3", "80,90")


@dataclass
class Machine:
    """A machine with CUDA and a native library; `refusal` is what the library says to this GPU."""

    library: NativeLibrary | None = WITH_CUDA
    refusal: str | None = None
    starts_cuda: bool = True

    def open_session(self, _model: Path, placement: ort.Placement, **_options: Any) -> Any:
        provider = placement.provider
        if provider == ort.CUDA and placement.library is not None and self.refusal is not None:
            raise ArtifactError(self.refusal)
        providers = [ort.CUDA, ort.CPU] if provider == ort.CUDA and self.starts_cuda else [ort.CPU]
        named = {name: SimpleNamespace(name=name) for name in ("input_ids", "attention_mask", "logits")}
        return SimpleNamespace(
            get_providers=lambda: providers,
            get_inputs=lambda: [named["input_ids"], named["attention_mask"]],
            get_outputs=lambda: [named["logits"]],
            get_overridable_initializers=lambda: [],
            get_modelmeta=lambda: SimpleNamespace(custom_metadata_map={}),
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(ort, "open_session", made.open_session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [ort.CUDA, ort.CPU])
    monkeypatch.setattr(ort, "find_native_library", lambda mode: None if mode == "off" else made.library)
    return made


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "out")


@pytest.mark.parametrize("native", ["auto", "on"])
@pytest.mark.parametrize("provider", ["auto", "cuda"])
def test_cuda_kernels_are_used(machine: Machine, artifact: Path, provider: str, native: Any) -> None:
    model = load(artifact, provider=provider, native=native)
    assert (model.providers[0], model.native, model.notes) == (ort.CUDA, WITH_CUDA, [])


def test_off_runs_the_bodies(machine: Machine, artifact: Path) -> None:
    model = load(artifact, provider="cuda", native="off")
    assert (model.providers[0], model.native, model.notes) == (ort.CUDA, None, [])


def test_without_a_library_the_bodies_run(machine: Machine, artifact: Path) -> None:
    machine.library = None
    model = load(artifact, provider="cuda")
    assert (model.providers[0], model.native) == (ort.CUDA, None)
    (note,) = model.notes
    assert "27 times slower than eager" in note
    assert "no native library is installed. `reformer-export build-library --cuda` builds them" in note


@pytest.mark.parametrize(
    ("library", "refusal", "reason"),
    [(CPU_ONLY, None, "built without CUDA"), (WITH_CUDA, "compute capability 7.5", "compute capability 7.5")],
)
def test_bodies_run_where_the_library_cannot(
    machine: Machine, artifact: Path, library: NativeLibrary, refusal: str | None, reason: str
) -> None:
    machine.library, machine.refusal = library, refusal
    model = load(artifact, provider="auto")
    assert (model.providers[0], model.native) == (ort.CUDA, None)
    assert reason in model.notes[0]
    with pytest.raises(RuntimeUnavailableError, match=f"got no kernels for CUDA .*{reason}.*, expected"):
        load(artifact, provider="cuda", native="on")
    model = load(artifact, provider="auto", native="on")
    assert (model.providers, model.native) == ((ort.CPU,), library)
    assert reason in model.notes[0]


def test_heads_too_wide_for_the_kernels() -> None:
    spec = SimpleNamespace(head_size=257)
    assert "257" in str(ort.find_cuda_problem(WITH_CUDA, spec))  # type: ignore[arg-type]
    assert ort.find_cuda_problem(WITH_CUDA, make_spec()) is None


def test_cuda_that_does_not_start_leaves_the_cpu_s_kernels(machine: Machine, artifact: Path) -> None:
    machine.starts_cuda = False
    model = load(artifact, provider="auto")
    assert (model.providers, model.native) == ((ort.CPU,), WITH_CUDA)
    (note,) = model.notes
    assert note.startswith("CUDA could not be started, so the model runs on the CPU: ")
    with pytest.raises(RuntimeUnavailableError, match="could not start CUDA here"):
        load(artifact, provider="cuda")


def test_a_closed_model_is_refused(tmp_path: Path) -> None:
    with load(write_artifact(tmp_path / "out"), provider="cpu") as model:
        assert model.run([[5]])["logits"].shape == (1, 1, 258)
    model.close()
    with pytest.raises(InputError, match="got a closed model"):
        model.run([[5]])
    assert model.providers == ("CPUExecutionProvider",)


@pytest.mark.parametrize(
    ("architectures", "runs"), [("80,86", True), ("86", False), ("75", True), (None, False)]
)
def test_code_for_a_gpu(architectures: str | None, runs: bool) -> None:
    """test_architectures.py has the rule."""
    library = NativeLibrary(Path("x.so"), "0.1.0", ABI_VERSION, "AVX3", architectures)
    assert library.has_code_for(8, 0) is runs
