from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result

from reformer_export.cli.main import COMMANDS, cli
from reformer_export.errors import InputError, RuntimeUnavailableError
from reformer_export.libraries.architectures import ComputeCapability
from reformer_export.libraries.gpus import Gpu
from reformer_export.libraries.packages import EXTRAS
from reformer_export.runtimes import machine
from reformer_export.runtimes.machine import inspect_machine
from tests.cli.program import run_program
from tests.runtimes.artifacts import make_bare_node_model, write_artifact


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["doctor", *map(str, arguments)])


def examine(*arguments: object, status: int = 0) -> Any:
    result = CliRunner().invoke(cli, ["doctor", "--json", "-", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def test_this_machine() -> None:
    report = examine()
    assert report["can_run"] is True
    assert "CPUExecutionProvider" in report["providers"]
    versions = {library["name"]: library["version"] for library in report["libraries"]}
    assert versions["onnx"] == onnx.__version__
    assert {command["name"] for command in report["commands"]} == set(COMMANDS)
    assert {runtime for runtime, _ in report["tensorrt"]["runtimes"]} == {"tensorrt", "tensorrt-rtx"}
    words = invoke().stdout
    assert "onnxruntime" in words
    assert "engines run here with" in words
    assert re.search(r"generate +ready", words)
    assert [library["name"] for library in report["native"]] == [
        "CPU kernels",
        "CUDA kernels",
        "TensorRT plugins",
    ]
    assert "Native libraries" in words


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = "reformer_export.runtimes.tensorrt.packages.importlib.util.find_spec"
    monkeypatch.setattr(find_spec, lambda name: None if name == "torch" else object())
    report = examine()
    commands = {command["name"]: command["missing"] for command in report["commands"]}
    assert (commands["onnx"], commands["run"]) == (["torch"], [])
    assert "missing: pip install 'reformer-export[export]'" in invoke().stdout


@pytest.mark.parametrize(("command", "arguments"), [("onnx", ("no-checkpoint", "new")), ("verify", ("out",))])
def test_a_command_refuses_for_want_of_what_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_artifact(tmp_path / "out")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in EXTRAS else find_spec(name))
    (missing,) = [each["missing"] for each in examine()["commands"] if each["name"] == command]
    assert f"got no packages {', '.join(missing)}, expected" in run_program(command, *arguments).error


def test_an_engine_is_ready_only_with_its_runtime_and_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = inspect_machine()
    for missing in (("tensorrt or tensorrt_rtx", "the TensorRT plugins"), ("the TensorRT plugins",), ()):
        installation = dataclasses.replace(machine.tensorrt, missing_to_build=missing)
        monkeypatch.setattr(
            "reformer_export.runtimes.machine.describe_installation", lambda found=installation: found
        )
        commands = {command["name"]: command["missing"] for command in examine()["commands"]}
        assert commands["engine"] == list(missing)
        state = f"needs {', '.join(missing)}" if missing else "ready"
        assert re.search(rf"engine +{re.escape(state)}\n", invoke().stdout)


def test_what_the_library_advises_is_in_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = inspect_machine()
    advice = dataclasses.replace(machine.tensorrt, gpu='none; use `runtime="onnxruntime"`')
    changed = dataclasses.replace(machine, tensorrt=advice)
    monkeypatch.setattr("reformer_export.cli.doctor.inspect_machine", lambda _path: changed)
    assert examine()["tensorrt"]["gpu"] == "none; use --runtime onnxruntime"
    assert "none; use --runtime onnxruntime\n" in invoke().stdout


def test_without_onnxruntime_nothing_can_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert examine(status=1)["can_run"] is False
    assert "reformer-export[cpu]" in examine(out, status=1)["artifact"]["problem"]
    assert "no artifact can be run" in invoke().stdout


def test_a_gpu_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu("NVIDIA L4", ComputeCapability(8, 9), 24 * 2**30, "13.0")
    monkeypatch.setattr(machine, "find_gpus", lambda: (gpu, gpu))
    words = "NVIDIA L4 (compute capability 8.9, 24.0 GiB), its driver knows CUDA 13.0"
    assert examine()["gpus"] == [words, words]
    assert words in " ".join(invoke().stdout.split())
    monkeypatch.setattr(machine, "find_gpus", refuse)
    assert examine()["gpus"] == []
    assert "no NVIDIA GPU found" in invoke().stdout


def test_what_the_cuda_provider_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert examine()["cuda_problem"] == ""
    assert "its CUDA provider" not in invoke().stdout
    monkeypatch.setattr(machine, "_list_providers", lambda: (machine.CUDA,))
    monkeypatch.setattr(machine, "find_missing_libraries", lambda _module: ("libcublas.so.13",))
    words = "no libcublas.so.13 (pip install 'reformer-export[gpu]' brings CUDA's libraries)"
    assert examine()["cuda_problem"] == words
    assert f"its CUDA provider  {words}" in invoke().stdout


def test_two_packages_that_are_one_module_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_is_installed", lambda _name: True)
    problem = examine()["cuda_problem"]
    assert problem.startswith(
        "hidden: onnxruntime and onnxruntime-gpu are installed, and are one module; pip un"
    )


def refuse() -> None:
    raise RuntimeUnavailableError("GPU", "none", "one", "buy one")


def test_an_artifact_that_runs(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out", dtype="bfloat16")
    assert examine(out)["artifact"]["problem"] is None
    assert examine(out / "model.onnx")["artifact"]["problem"] is None
    assert "can run here  yes" in invoke(out).stdout


def test_an_artifact_that_changed(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    (out / "model.onnx").write_bytes(b"")
    assert "changed after the export" in examine(out, status=1)["artifact"]["problem"]


def test_a_node_that_nothing_can_run(tmp_path: Path) -> None:
    onnx.save(make_bare_node_model(), str(tmp_path / "bare.onnx"))
    result = invoke(tmp_path / "bare.onnx")
    assert result.exit_code == 1
    assert "can run here  no" in result.stdout
    assert "LSHBuckets(-1) is not a registered function/op" in result.stdout
    assert "function body" in result.stdout


def test_a_missing_path_is_refused() -> None:
    assert isinstance(invoke("nowhere").exception, InputError)


def test_the_program_leaves_status_1_and_imports_nothing_heavy(tmp_path: Path) -> None:
    onnx.save(make_bare_node_model(), str(tmp_path / "bare.onnx"))
    code = (
        "import sys\n"
        "from reformer_export.cli.main import main\n"
        f"sys.argv[1:] = ['doctor', {str(tmp_path / 'bare.onnx')!r}]\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'transformers', 'onnx'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1] == "[]"
    assert result.stderr == ""


@pytest.mark.parametrize("command", ["run", "generate", "inspect", "doctor"])
def test_every_help_has_an_example(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert f"\n    reformer-export {command}" in result.stdout
