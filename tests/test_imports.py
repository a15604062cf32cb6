"""The import rule of the design: from top to bottom only, and heavy libraries only where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import reformer_export
from tests.runtimes.artifacts import write_artifact

PACKAGE = "reformer_export"
ROOT = Path(reformer_export.__file__).parent

FLOORS = (
    {"__main__"},
    {"cli"},
    {"serving"},
    {"workflows"},
    {"export", "engine", "parity", "measure", "report", "batch"},
    {"reference", "runtimes"},
    {"checkpoints", "modeling"},
    {"ops"},
    {"libraries", "artifact"},
    {"contract", "low_precision", "spec", "custom_spec", "lucidrains_spec", "product_keys_spec"}
    | {"attention_spec", "positions_spec"},
    {"errors", "phases"},
)
"""The house (docs/architecture.md): a room imports from floors below its own only."""

SIDEWAYS = {
    ("report", "parity"),  # the results that a page shows
    ("report", "measure"),
    ("parity", "measure"),  # the loss on a text, which low precision costs
    ("libraries", "artifact"),  # its one reader of JSON and its writer of whole folders, for built libraries
    ("spec", "contract"),
    ("spec", "attention_spec"),
    ("spec", "positions_spec"),
    ("positions_spec", "attention_spec"),
    ("lucidrains_spec", "positions_spec"),
    ("custom_spec", "spec"),
    ("lucidrains_spec", "spec"),
    ("lucidrains_spec", "product_keys_spec"),
    ("product_keys_spec", "spec"),
}
"""Which rooms of one floor may import another."""

LEVELS = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
DEPLOYED = {"runtimes", "batch", "serving", "artifact", "libraries"}
"""What a server runs: neither torch nor transformers is there."""

EXPORT_ONLY = ("torch", "transformers", "onnxscript", "onnx_ir", "safetensors", "huggingface_hub")
STANDARD_LIBRARY_ONLY = {
    *("errors", "phases", "contract", "low_precision"),
    *("spec", "custom_spec", "lucidrains_spec", "product_keys_spec", "attention_spec", "positions_spec"),
}


def parse_imports(path: Path, module: str) -> Iterator[str]:
    """The full names that a file imports, wherever in it; `module` is its own name."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(parents if node.level else []), *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def find_violations(root: Path) -> list[str]:
    """Every import of the package in the folder `root` that breaks the rule, as "module imports name"."""
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts == ("__init__",):
            continue  # the package's face, which imports what it shows when it is asked for
        module = ".".join([PACKAGE, *(part for part in parts if part != "__init__")])
        if parts[0] not in LEVELS:
            found.append(f"{module} is in no room")
            continue
        names = parse_imports(path, module)
        found += [f"{module} imports {name}" for name in names if not is_allowed(module, name)]
    return found


def is_allowed(module: str, name: str) -> bool:
    part, imported = module.split(".")[1], name.split(".")
    if imported[0] == PACKAGE:
        target = imported[1] if len(imported) > 1 else PACKAGE
        if target not in LEVELS:
            return target == "__version__"
        if part in DEPLOYED and target in ("reference", "checkpoints", "modeling", "ops"):
            return False  # they import torch
        return target == part or LEVELS[target] > LEVELS[part] or (part, target) in SIDEWAYS
    if imported[0] in ("transformers", "reformer_pytorch"):
        return part in ("checkpoints", "reference")
    if imported[0] in ("click", "rich"):
        return part == "cli"
    if imported[0] in ("tensorrt", "tensorrt_rtx"):
        return part == "engine" or module.startswith(f"{PACKAGE}.runtimes.tensorrt")
    if imported[0] == "huggingface_hub":
        return module == f"{PACKAGE}.artifact.hub"
    if part in DEPLOYED:
        return imported[0] not in EXPORT_ONLY
    return part not in STANDARD_LIBRARY_ONLY or imported[0] in sys.stdlib_module_names


def test_the_rule_holds() -> None:
    assert find_violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "code", "violation"),
    [
        ("spec.py", "import reformer_export.artifact", "spec imports reformer_export.artifact"),
        ("contract.py", "import numpy", "contract imports numpy"),
        ("artifact/a.py", "import torch", "artifact.a imports torch"),
        ("artifact/a.py", "import huggingface_hub", "artifact.a imports huggingface_hub"),
        ("ops/a.py", "from reformer_export.modeling import b", "ops.a imports reformer_export.modeling.b"),
        ("ops/a.py", "from reformer_export import modeling", "ops.a imports reformer_export.modeling"),
        ("ops/a.py", "from ..modeling.c import b", "ops.a imports reformer_export.modeling.c.b"),
        ("ops/__init__.py", "from .. import modeling", "ops imports reformer_export.modeling"),
        ("export/a.py", "from reformer_export.parity import b", "export.a imports reformer_export.parity.b"),
        (
            "parity/a.py",
            "from reformer_export.workflows import b",
            "parity.a imports reformer_export.workflows",
        ),
        (
            "batch/a.py",
            "from reformer_export.modeling import b",
            "batch.a imports reformer_export.modeling.b",
        ),
        ("runtimes/a.py", "def f():\n    import torch.nn", "runtimes.a imports torch.nn"),
        ("runtimes/a.py", "from reformer_export.ops import b", "runtimes.a imports reformer_export.ops"),
        ("parity/a.py", "from transformers import b", "parity.a imports transformers.b"),
        ("modeling/a.py", "import reformer_pytorch", "modeling.a imports reformer_pytorch"),
        ("runtimes/ort.py", "import tensorrt as trt", "runtimes.ort imports tensorrt"),
        ("cli/a.py", "import reformer_export", "cli.a imports reformer_export"),
        ("batch/a.py", "import click", "batch.a imports click"),
        ("helpers.py", "", "helpers is in no room"),
    ],
)
def test_the_checker_finds_a_violation(tmp_path: Path, file: str, code: str, violation: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    (found,) = find_violations(tmp_path)
    assert found.startswith(f"{PACKAGE}.{violation}")


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("__init__.py", "from reformer_export.runtimes import load"),
        (
            "cli/a.py",
            "from reformer_export.parity import b\nfrom reformer_export import __version__\nimport click",
        ),
        ("reference/a.py", "import torch, transformers\nfrom . import b"),
        ("report/a.py", "from reformer_export.parity.results import b"),
        ("runtimes/tensorrt/a.py", "import tensorrt\nfrom .inputs import c"),
        ("artifact/a.py", "from reformer_export.artifact.manifest import b\nimport numpy"),
        ("artifact/hub.py", "def f():\n    import huggingface_hub"),
    ],
)
def test_the_checker_allows_the_rest(tmp_path: Path, file: str, code: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    assert find_violations(tmp_path) == []


def test_running_an_artifact_imports_nothing_of_the_export(tmp_path: Path) -> None:
    """As on a server that has neither torch nor transformers nor onnx: importing them fails here."""
    out = write_artifact(tmp_path / "out")
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({[*EXPORT_ONLY, 'onnx']!r}))\n"
        "import reformer_export\n"
        f"outputs = reformer_export.load({str(out)!r}).run([[5, 6, 7]])\n"
        "print(outputs['logits'].shape)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "(1, 3, 258)\n"


@pytest.mark.parametrize("module", ["joined_model", "generate_model", "repository", "inspection"])
def test_triton_needs_nothing_of_the_export(module: str) -> None:
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({[*EXPORT_ONLY, 'onnx', 'tritonclient', 'google.protobuf']!r}))\n"
        f"import reformer_export.serving.triton.{module}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
