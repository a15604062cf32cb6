"""README and the other pages do what they say: every command line and Python block, word for word.

They run in a folder like a reader's, on a model of two small layers. What needs a GPU, a network or minutes
is told by the rules below: of it the program, the options and their values are checked, and code compiles.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import onnx
import pyarrow
import pytest
import transformers
from pyarrow import parquet

from reformer_export.cli.main import COMMANDS, cli
from tests import lucidrains
from tests.cli.program import run_program
from tests.edits import vouch_for
from tests.hf_models import config_t, save_model
from tests.pages import PAGES, ROOT, read_command_lines, read_links, read_python

NOT_RUN: Final = {
    r"--provider cuda|--cuda|--tensorrt|--(runtime|backend) tensorrt|"
    r"-m benchmarks\.gpu": "a GPU, or its toolchain",
    r"google/|me/my-artifact|^pip ": "a network",
    r"^make |^cmake |reformer-export (bench|build-library)|python -m (benchmarks|pytest)|/train_": "minutes",
    r"reformer-export serve": "a signal to end",
    r"--ray-shards": "Ray, which the extra dev does not bring",
    r"--module ": "a module of a reader's own",
    r"^gpu-bundle/|benchmarks\.models": "what another command makes",
}
"""What a line needs, by what it says."""

FAILS: Final = {"reformer-export verify OUT --bisect wrong-node": 1, "reformer-export replay wrong-node": 1}
"""Lines whose exit status is another than 0, since they are for an artifact that is wrong."""

LINES: Final = [(page, line) for page in PAGES for line in read_command_lines(page)]


def reason_not_to_run(line: str) -> str | None:
    if re.search(r"--config|\b(LM|LAYER)\b", line) and importlib.util.find_spec("reformer_pytorch") is None:
        return "the package reformer-pytorch"
    return next((reason for rule, reason in NOT_RUN.items() if re.search(rule, line)), None)


def split(line: str) -> list[str]:
    return shlex.split(line, comments=True)


# What runs


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: `my-reformer`, a language model over bytes; model.pt and kwargs.json, one of
    reformer-pytorch, layer.pt and layer.json, a layer of it, and vectors for that; texts; and `models`, of
    this project."""
    folder = tmp_path_factory.mktemp("desk")
    config = config_t(vocab_size=258, is_decoder=True)
    save_model(folder, config, transformers.ReformerModelWithLMHead).rename(folder / "my-reformer")
    rows = [{"input_ids": [5, 6, 7]}, {"text": "In the beginning"}]
    (folder / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "held-out.txt").write_text("In the beginning was the word. " * 8, encoding="utf-8")
    (folder / "prompts.txt").write_text("In the beginning\nAnd God said\n", encoding="utf-8")
    (folder / "models").symlink_to(ROOT / "models")
    (folder / "in").mkdir()
    for name in ("a", "b"):
        shutil.copy(folder / "all.jsonl", folder / "in" / f"{name}.jsonl")
    parquet.write_table(pyarrow.table({"text": ["In the beginning"], "id": [7]}), folder / "in" / "a.parquet")
    if importlib.util.find_spec("reformer_pytorch") is not None:
        lucidrains.save_model(folder, lucidrains.SMALL)
        file, keywords = lucidrains.save_model(folder / "layer", lucidrains.SMALL_ATTENTION, None)
        file.rename(folder / "layer.pt")
        keywords.rename(folder / "layer.json")
    np.savez(folder / "series.npz", inputs_embeds=np.ones((3, 16, 32)))
    assert run_program("onnx", folder / "my-reformer", folder / "OUT").status == 0
    return folder


def damage_model(out: Path) -> None:
    """Make a weight of the feed-forward half as large again, and let the manifest agree."""
    model = onnx.load(str(out / "model.onnx"))
    tensor = next(each for each in model.graph.initializer if sorted(each.dims) == [16, 32])
    changed = onnx.numpy_helper.to_array(tensor) * np.float32(1.5)
    tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
    onnx.save(model, str(out / "model.onnx"))
    vouch_for(out / "model.onnx")


def run_line(line: str) -> None:
    """Run a command line as printed; before an export its folder is another one, which a reader would name,
    and so is a new REPOSITORY."""
    program, *arguments = split(line)
    assert program == "reformer-export"
    if arguments[0] == "onnx":
        shutil.rmtree(arguments[2], ignore_errors=True)
    if arguments[0] == "triton" and "--overwrite" not in arguments:
        shutil.rmtree("REPOSITORY", ignore_errors=True)
    if "--bisect" in arguments:
        damage_model(Path("OUT"))
    outcome = run_program(*arguments)
    assert outcome.status == FAILS.get(line.strip(), 0), f"{line}\n{outcome.stdout}\n{outcome.stderr}"
    if line.startswith("reformer-export replay"):
        shutil.rmtree("OUT")
        assert run_program("onnx", "my-reformer", "OUT").status == 0


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_runs_as_printed(page: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    for name, line in LINES:
        if name == page and reason_not_to_run(line) is None:
            run_line(line)


@pytest.mark.slow
def test_six_lines_of_python_export_verify_and_run(tmp_path: Path) -> None:
    (code,) = read_python(ROOT / "README.md")
    assert len([line for line in code.splitlines() if line and not line.startswith("import")]) <= 6
    (tmp_path / "models").symlink_to(ROOT / "models")
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    verdict, *text = result.stdout.splitlines()
    assert verdict.startswith("Passed: ")
    assert len("\n".join(text)) > 50
    assert {path.name for path in tmp_path.iterdir()} >= {"OUT", "models"}


# What is checked only


def check_command(arguments: list[str]) -> None:
    """The command, its options and their values, as the program reads them before it does anything."""
    name, *rest = arguments
    program = cli.make_context("reformer-export", [name])
    command = cli.get_command(program, name)
    assert command is not None, name
    # Below the program's context: click keeps the first help option that a command gets, for good.
    command.make_context(name, rest, parent=program)


def check_pip(arguments: list[str]) -> None:
    """The extras and the build's settings are this package's."""
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    options = (ROOT / "plugins" / "CMakeLists.txt").read_text(encoding="utf-8") + settings
    for argument in arguments:
        for extra in "".join(re.findall(r"\[(.*)\]", argument)).split(","):
            assert not extra or re.search(rf"^{extra} = \[", settings, re.MULTILINE), extra
        for name in re.findall(r"cmake\.define\.(\w+)=", argument):
            assert name in options
        assert argument != "-C", "unknown to pip 23.0, which a venv of Python 3.10 has; --config-settings is"
    assert arguments[0] == "install"


def check_make(arguments: list[str]) -> None:
    """The targets and variables are the Makefile's."""
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    for argument in arguments:
        name, _, value = argument.partition("=")
        assert re.search(rf"^{name}\b *[?:]?=" if value else rf"^{name}:", rules, re.MULTILINE), argument


def check_cmake(arguments: list[str]) -> None:
    """The presets are those of the project."""
    presets = json.loads((ROOT / "plugins" / "CMakePresets.json").read_text(encoding="utf-8"))
    kinds = {"--build": "buildPresets", "ctest": "testPresets"}
    for part in " ".join(["cmake", *arguments]).split(" && "):
        kind = next((kinds[word] for word in part.split() if word in kinds), "configurePresets")
        assert part.split()[-1] in {preset["name"] for preset in presets[kind]}, part


def check_python(arguments: list[str]) -> None:
    """The module or file is there and knows the flags, itself or a module beside it that it imports; or the
    code compiles."""
    if arguments[0] == "-c":
        compile(arguments[1], "page", "exec")
        return
    if arguments[:2] == ["-m", "pytest"]:
        files = [argument.split("::")[0] for argument in arguments[2:] if argument.startswith("tests")]
        assert files
        assert all((ROOT / file).exists() for file in files)
        return
    name, *rest = arguments[1:] if arguments[0] == "-m" else arguments
    path = ROOT / f"{name.replace('.', '/')}.py" if arguments[0] == "-m" else ROOT / name
    source = path.read_text(encoding="utf-8")
    for module in re.findall(r"^from (\w+) import", source, re.MULTILINE):
        beside = path.with_name(f"{module}.py")
        source += beside.read_text(encoding="utf-8") if beside.exists() else ""
    assert all(f'"{flag}"' in source for flag in rest if flag.startswith("--"))


def check_bundle(arguments: list[str]) -> None:
    """The options are those of what is packed."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "gpu").rglob("*.py"))
    assert all(f'"{flag}"' in sources for flag in arguments if flag.startswith("--"))


CHECKS: Final[dict[str, Callable[[list[str]], None]]] = {
    "reformer-export": check_command,
    "pip": check_pip,
    "make": check_make,
    "cmake": check_cmake,
    "python": check_python,
    ".venv/bin/python": check_python,
    "gpu-bundle/run.sh": check_bundle,
}


@pytest.mark.parametrize("line", sorted({line.strip() for _, line in LINES}))
def test_every_command_line_is_one(line: str) -> None:
    program, *arguments = split(line)
    CHECKS[program](arguments)


@pytest.mark.parametrize(
    "line",
    [
        "reformer-export verify OUT --lenghts 5",
        "reformer-export engine OUT --runtime tensorrt-rx",
        "pip install 'reformer-export[exports,cpu]'",
        "make demos",
        "make gpu-bundle CUDA_ARCHITECTURE=90",
        "cmake --preset host && cmake --build --preset hosts",
        "python -m benchmarks.bench_layers --thread 2",
        "python -m pytest tests/cli/test_nothing.py",
        "python -c 'import'",
        "gpu-bundle/run.sh --dry",
    ],
)
def test_a_line_that_is_wrong_is_found(line: str) -> None:
    program, *arguments = split(line)
    with pytest.raises((AssertionError, click.ClickException, OSError, SyntaxError)):
        CHECKS[program](arguments)


def test_every_rule_is_needed_and_every_command_is_shown() -> None:
    needed = {reason_not_to_run(line) for _, line in LINES}
    assert needed == {None, *NOT_RUN.values()}
    assert set(FAILS) <= {line.strip() for _, line in LINES}
    readme = [split(line) for page, line in LINES if page == ROOT / "README.md"]
    assert {words[1] for words in readme if words[0] == "reformer-export"} == set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_compiles_and_links_lead_somewhere(page: Path) -> None:
    for code in read_python(page):
        compile(code, str(page), "exec")
    for target in read_links(page):
        assert (page.parent / target).exists(), target


# The same page on an index, which has nothing but its text


def test_the_page_of_an_index_has_no_link_that_leads_nowhere() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 has it first")
    settings: Any = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    page = settings["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = "".join((ROOT / part["path"]).read_text(encoding="utf-8") for part in page["fragments"])
    assert "](docs/" in text
    for change in page["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    assert not re.findall(r"\]\((?!https?://|#)", text)
    assert "docs/gpu.md" in text
