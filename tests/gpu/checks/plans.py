"""The steps: an environment and a build for a clone, then the checks, which a bundle shares."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.gpu.checks.steps import Step

ROOT: Final = Path(__file__).resolve().parents[3]
BUILD: Final = ROOT / "build" / "gpu"
VENV: Final = ROOT / ".venv-gpu"
WORK: Final = ROOT / "build" / "gpu-check-models"
OPERATORS: Final = "libreformer_onnxruntime.so"
PLUGINS: Final = "libreformer_tensorrt.so"
PLUGIN_TEST: Final = "test_tensorrt_plugins_gpu"
BUILT: Final = (
    f"adapters/onnxruntime/{OPERATORS}",
    f"adapters/tensorrt/{PLUGINS}",
    f"adapters/tensorrt/tests/{PLUGIN_TEST}",
)
"""What a build leaves for the checks, in its folder."""

SANITIZER_TOOLS: Final = ("memcheck", "racecheck", "synccheck")
SANITIZER_ERROR: Final = 99
DRY_ARCHITECTURE: Final = "90"
NO_GPU: Final = 2
"""Exit status of what needs a GPU and has none."""

FIRST_TESTS: Final[dict[str, float]] = {
    "tests/gpu/test_kernels.py": 60.0,
    "tests/gpu/test_onnxruntime.py": 60.0,
    "tests/gpu/test_execution.py": 45.0,
}
"""With the seconds that each may take where time is short."""

VERIFIED_DTYPES: Final = ("float32", "bfloat16", "float16")
PROFILED_DTYPES: Final = ("float16", "float32")
PROBE: Final = """
import onnx, onnxruntime, onnxscript, torch, transformers
for module in (onnx, onnxruntime, onnxscript, transformers):
    print(module.__name__, module.__version__)
print(f"torch {torch.__version__}, CUDA", torch.version.cuda)
"""
PROBE_GPU: Final = """
providers = onnxruntime.get_available_providers()
assert "CUDAExecutionProvider" in providers, f"onnxruntime has {providers}: install onnxruntime-gpu"
assert torch.cuda.is_available(), f"torch {torch.__version__} finds no GPU"
print(torch.cuda.get_device_name(0))
"""


@dataclass(frozen=True)
class Layout:
    """Where the checks find things: the Python that has everything, the folder of the libraries and the
    plugins' test, and the folder that the results go to."""

    python: str
    libraries: Path
    results: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes the package take these libraries."""
        return {
            "REFORMER_EXPORT_LIBRARY": str(self.libraries / OPERATORS),
            "REFORMER_EXPORT_TENSORRT_PLUGIN": str(self.libraries / PLUGINS),
        }

    @property
    def data(self) -> Path:
        """The measurements."""
        return self.results / "gpu.json"

    def step(self, name: str, *command: str, **options: Any) -> Step:
        """A step of this Python's, in the project's folder."""
        environment = {**self.environment, **options.pop("environment", {})}
        return Step(name, (self.python, *command), environment=environment, folder=ROOT, **options)


def plan_environment() -> list[Step]:
    """.venv-gpu: torch with CUDA in place of the CPU build that tests/requirements.txt may bring."""
    pip = (str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet")
    onnxruntime = (pip[0], "-m", "pip", "uninstall", "--quiet", "--yes", "onnxruntime", "onnxruntime-gpu")

    def install(name: str, *packages: str, optional: bool = False) -> Step:
        return Step(name, (*pip, *packages), optional=optional, folder=ROOT)

    own = ("-C", "wheel.cmake=false")
    return [
        Step("make .venv-gpu", (sys.executable, "-m", "venv", str(VENV))),
        install("install torch with CUDA", "torch>=2.9"),
        install("install the package", "-e", ".[dev]", *own),
        Step("remove onnxruntime", onnxruntime),
        install("install onnxruntime-gpu", "onnxruntime-gpu[cuda,cudnn]>=1.22,<2"),
        install("install TensorRT", "-e", ".[tensorrt]", *own, optional=True),
        install("install TensorRT-RTX", "-e", ".[rtx]", *own, optional=True),
        install("install compute-sanitizer", "nvidia-cuda-sanitizer-api>=13.0,<14", optional=True),
    ]


def plan_build(python: str, architectures: str, target: Path) -> list[Step]:
    """Both libraries and the plugins' test, for `architectures` ("80;90"), into the folder `target`."""
    configure = ("cmake", "--preset", "cuda", "-B", str(BUILD))
    return [
        Step("find a CUDA compiler", ("make", "cuda-toolchain", f"PYTHON={python}"), folder=ROOT),
        Step(
            "configure the libraries",
            (*configure, f"-DREFORMER_CUDA_ARCHITECTURES={architectures}"),
            folder=ROOT / "plugins",
        ),
        Step("build the libraries", ("cmake", "--build", str(BUILD))),
        Step(
            "install the libraries",
            ("install", "-D", "-t", str(target), *(str(BUILD / name) for name in BUILT)),
        ),
    ]


def plan_checks(layout: Layout) -> list[Step]:
    """Everything that needs a GPU, the most valuable first: where time ends, what is left out is last."""
    marked = find_marked_tests()
    timed = time_tests(marked)
    return [
        layout.step("what is installed", "-c", PROBE + PROBE_GPU, seconds=40),
        *(
            plan_tests(layout, f"tests of {Path(path).stem.removeprefix('test_')}", [path], seconds)
            for path, seconds in timed.items()
        ),
        Step("TensorRT plugins on the GPU", (str(layout.libraries / PLUGIN_TEST),), seconds=30),
        *_plan_sanitizer(layout),
        *_plan_timings(layout)[:1],
        *_plan_verify(layout, VERIFIED_DTYPES, "cuda"),
        *_plan_timings(layout)[1:],
        plan_tests(layout, "other tests", [path for path in marked if path not in timed], 60),
        *_plan_profiles(layout),
    ]


def plan_tests(layout: Layout, name: str, paths: Sequence[str], seconds: float) -> Step:
    """The tests in `paths` that need a GPU or TensorRT; that there is no GPU is a failure."""
    pytest = ("-m", "pytest", "-m", "gpu or tensorrt", *paths)
    return layout.step(name, *pytest, environment={"REQUIRE_GPU": "1"}, seconds=seconds)


def time_tests(marked: Sequence[str]) -> dict[str, float]:
    """The tests of the kernels, of what runs them and of what is around them, with their seconds."""
    others = [path for path in marked if path.startswith("tests/gpu/") and "tensorrt" not in path]
    return {**FIRST_TESTS, **{path: 30.0 for path in others if path not in FIRST_TESTS}}


def find_marked_tests() -> list[str]:
    """Files with tests that need a GPU or TensorRT: so that no others are imported, which may need more."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [
        file.relative_to(ROOT).as_posix()
        for file in files
        if re.search(r"mark\.(gpu|tensorrt)\b|tests\.gpu\.backends", file.read_text(encoding="utf-8"))
    ]


def _plan_verify(layout: Layout, dtypes: Sequence[str], provider: str) -> list[Step]:
    """The shipped model, trained: exported here and compared with eager, in ONNX Runtime on our kernels."""
    program = ("-m", "reformer_export.cli.main")
    cases = ("--lengths", "1,64,1000", "--batch-sizes", "1,2", "--provider", provider, "--native", "on")
    steps = []
    for dtype in dtypes:
        out = str(WORK / f"kjv-bytes-{dtype}")
        export = ("onnx", "models/kjv-bytes", out, "--dtype", dtype, "--no-verify", "--overwrite")
        steps.append(layout.step(f"export {dtype}", *program, *export, seconds=45))
        steps.append(
            layout.step(f"verify {dtype} on {provider}", *program, "verify", out, *cases, seconds=40)
        )
    return steps


def _plan_sanitizer(layout: Layout) -> list[Step]:
    sanitizer = find_program("compute-sanitizer", layout.python)
    shapes = (layout.python, "-m", "tests.gpu.small_shapes")
    steps = []
    for tool in SANITIZER_TOOLS:
        options = ("--tool", tool, "--error-exitcode", str(SANITIZER_ERROR), "--kernel-name", "kns=reformer")
        command = (sanitizer, *options, *shapes)
        steps.append(
            Step(
                f"compute-sanitizer {tool}", command, seconds=35, environment=layout.environment, folder=ROOT
            )
        )
    return steps


def _plan_timings(layout: Layout) -> list[Step]:
    data = ("--out", str(layout.data))
    kernels = ("--text", str(layout.results / "kernels-onnxruntime.txt"))
    bench = ("-m", "benchmarks.bench_gpu")
    return [
        layout.step("layers", *bench, "layers", *data, partial=True, seconds=60),
        layout.step("steps", *bench, "steps", *data, partial=True, seconds=30),
        layout.step("whole models", *bench, "models", *data, partial=True, seconds=80),
        layout.step(
            "ONNX Runtime's kernels",
            "-m",
            "benchmarks.gpu_sessions",
            *data,
            *kernels,
            partial=True,
            seconds=60,
        ),
    ]


def _plan_profiles(layout: Layout) -> list[Step]:
    """Nsight Compute's pages: optional, because many machines keep counters from their users."""
    ncu = find_program("ncu", layout.python)
    options = ("--profile-from-start", "off", "--clock-control", "none", "--set", "full")
    module = ("-m", "benchmarks.gpu_profile")
    steps = []
    for dtype in PROFILED_DTYPES:
        page = layout.results / f"ncu-{dtype}.txt"
        command = (ncu, *options, layout.python, *module, "run", "--dtype", dtype)
        steps.append(
            Step(
                f"profile {dtype}",
                command,
                optional=True,
                seconds=35,
                environment=layout.environment,
                folder=ROOT,
                output=page,
            )
        )
        layer = f"{dtype}, 16,384 tokens, 4 hashes"
        read = (*module, "read", layer, str(page), "--out", str(layout.data))
        steps.append(layout.step(f"read the profile of {dtype}", *read, optional=True, seconds=20))
    return steps


def plan_dry_run(layout: Layout) -> list[Step]:
    """What can be tried without a GPU."""
    pytest = ("-m", "pytest", "-q")
    marked = find_marked_tests()
    page = ("benchmarks/results/gpu-h200.json", str(layout.results / "gpu-results.md"))
    refusing: dict[str, Any] = {"expected": NO_GPU, "environment": {"CUDA_VISIBLE_DEVICES": ""}}
    return [
        layout.step("what is installed", "-c", PROBE),
        layout.step("collect the tests", *pytest, "--collect-only", "-m", "gpu or tensorrt", *marked),
        layout.step("small shapes on the CPU", "-m", "tests.gpu.small_shapes", "--device", "cpu"),
        Step(
            "TensorRT plugins refuse",
            (str(layout.libraries / PLUGIN_TEST),),
            expected=NO_GPU,
            environment={"CUDA_VISIBLE_DEVICES": ""},
        ),
        layout.step("layers refuse", "-m", "benchmarks.bench_gpu", "layers", **refusing),
        layout.step("steps refuse", "-m", "benchmarks.bench_gpu", "steps", **refusing),
        layout.step("models refuse", "-m", "benchmarks.bench_gpu", "models", **refusing),
        layout.step("kernels refuse", "-m", "benchmarks.gpu_sessions", **refusing),
        layout.step("profiles refuse", "-m", "benchmarks.gpu_profile", "run", **refusing),
        layout.step("a page", "-m", "benchmarks.gpu_report", *page),
        *_plan_verify(layout, ["float32"], "cpu"),
        layout.step("tests on the CPU", *pytest, "-m", "not gpu", *FIRST_TESTS, seconds=600),
    ]


def find_program(name: str, python: str) -> str:
    """A tool of CUDA's: that of the environment of `python`, on the PATH, or in CUDA's usual place."""
    packages = Path(python).parents[1] / "lib"
    found = sorted(packages.glob(f"python3*/site-packages/nvidia/*/bin/{name}"))
    usual = Path("/usr/local/cuda/bin") / name
    if found:
        return str(found[-1])
    return shutil.which(name) or (str(usual) if usual.is_file() else name)
