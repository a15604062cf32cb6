"""The Python face under a type checker: the options are typed, and a misspelt one is an error."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from reformer_export.batch.files_request import FilesFields, FilesRequest
from reformer_export.runtimes.generation import GenerationFields, GenerationOptions
from reformer_export.runtimes.options import RuntimeFields, RuntimeOptions
from reformer_export.serving.options import ServeFields, ServeOptions
from reformer_export.serving.triton.options import TritonFields, TritonRequest
from reformer_export.workflows.bench import BenchRequest
from reformer_export.workflows.export import ExportRequest
from reformer_export.workflows.export_module import ModuleRequest
from reformer_export.workflows.fields import BenchFields, ExportFields, ModuleFields, VerifyFields
from reformer_export.workflows.verify import VerifyRequest
from tests.pages import PAGES, read_python

ROOT = Path(__file__).parents[1]
USES = """
import numpy as np
import torch

import reformer_export
from reformer_export.runtimes import Runtime, RuntimeOptions
from reformer_export.runtimes.generation import Generation


def use(model: Runtime) -> None:
    generation: Generation = model.generate("a", max_new_tokens=5, top_k=None, eos_token_id=[3])
    model.generate([5, 6], num_hashes=2)
    model.generate(np.array([5, 6]), seed=1)
    model.generate(torch.tensor([5, 6]), top_p=0.5)
    ids: list[int] = model.encode("a")
    text: str = model.decode(torch.tensor(ids)) + model.decode(np.array(ids)) + model.decode(ids)
    model.run(torch.tensor([[5, 6]]))["logits"].mean()
    model.generate("a", cache="off", refresh=0)
    texts: list[str] = [each.text for each in model.generate_many(["a", [5]], batch_size=2, seed=1)]
    with model.start_decoding(num_hashes=2) as state:
        key: int = state.add(torch.tensor(ids))
        state.step({key: int(state.logits(key).argmax())})
        size: int = state.nbytes + state.capacity + len(state) + state.length(key) + len(state.tokens(key))
    model.generate("a", cache="yes")  # wrong
    model.generate_many("a", batch=2)  # wrong
    state.step(5)  # wrong
    model.generate("a", max_tokens=5)  # wrong
    model.generate("a", temperature="hot")  # wrong
    model.generate(5)  # wrong
    model.encode(b"a")  # wrong


reformer_export.load("OUT", provider="cpu", threads=2, native="off", check=False)
reformer_export.load("OUT", RuntimeOptions(provider="cpu"))
reformer_export.load("OUT", thread=2)  # wrong
reformer_export.load("OUT", provider="gpu")  # wrong
reformer_export.export_checkpoint("checkpoint", "OUT", dtype="float16", num_buckets=(4, 8), overwrite=True)
reformer_export.export_checkpoint("checkpoint", "OUT", dtype="half")  # wrong
reformer_export.export_checkpoint("checkpoint", "OUT", over_write=True)  # wrong
reformer_export.verify_artifact("OUT", lengths=[1, 64], data="a.txt", runtimes=["onnxruntime"]).verdict()
reformer_export.verify_artifact("OUT", length=64)  # wrong
reformer_export.bench_artifact("OUT", lengths=(1, 2), against=["eager"], repeat=3)
reformer_export.bench_artifact("OUT", repeats=3)  # wrong
reformer_export.serve(artifacts=["OUT"], port=0, on_ready=lambda url, server: print(url))
reformer_export.serve(artifacts=["OUT"], ports=0)  # wrong
reformer_export.write_triton_repository("OUT", "R", backend="onnxruntime", instances=2, mounted_at="/models")
reformer_export.write_triton_repository("OUT", "R", backends="python")  # wrong
reformer_export.run_files("OUT", files=["a*.jsonl"], output="R", shard="0/2", part_format="parquet")
reformer_export.run_files("OUT", files="a.jsonl", output="R", shards="0/2")  # wrong
"""


@pytest.mark.slow
def test_a_misspelt_or_mistyped_option_fails_and_the_pages_pass(tmp_path: Path) -> None:
    """One run of mypy, with this project's settings, over the uses above and over every page's Python."""
    (tmp_path / "uses.py").write_text(USES, encoding="utf-8")
    for page in PAGES:
        for index, code in enumerate(read_python(page)):
            (tmp_path / f"{page.stem.replace('-', '_')}_{index}.py").write_text(code, encoding="utf-8")
    files = [str(path) for path in sorted(tmp_path.glob("*.py"))]
    settings = ["--config-file", "pyproject.toml", "--no-error-summary", "--no-pretty", "--implicit-reexport"]
    result = subprocess.run(
        [sys.executable, "-m", "mypy", *settings, *files], cwd=ROOT, capture_output=True, text=True
    )
    found = re.findall(r"^(?:.*/)?(\w+)\.py:(\d+): error: (.*)$", result.stdout, re.MULTILINE)
    wrong = [number for number, line in enumerate(USES.splitlines(), 1) if line.endswith("# wrong")]
    assert {name for name, _, _ in found} == {"uses"}, result.stdout
    assert sorted({int(number) for _, number, _ in found}) == wrong, result.stdout
    messages = " ".join(message for _, _, message in found)
    for keyword in ("max_tokens", "thread", "over_write", "length", "repeats", "ports"):
        assert f'Unexpected keyword argument "{keyword}"' in messages


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        (RuntimeFields, RuntimeOptions),
        (GenerationFields, GenerationOptions),
        (ExportFields, ExportRequest),
        (ModuleFields, ModuleRequest),
        (VerifyFields, VerifyRequest),
        (BenchFields, BenchRequest),
        (ServeFields, ServeOptions),
        (TritonFields, TritonRequest),
        (FilesFields, FilesRequest),
    ],
)
def test_the_keywords_are_the_fields(fields: Any, options: Any) -> None:
    """Names agree; so do types, but that a tuple may be given as any sequence and a path as text."""
    keywords, declared = get_type_hints(fields), get_type_hints(options)
    assert set(keywords) == {field.name for field in dataclasses.fields(options)}
    for name, kind in declared.items():
        described = str(kind)
        if "tuple[" not in described and "Path" not in described:
            assert keywords[name] == kind, name


def test_a_misspelt_option_fails_when_it_runs() -> None:
    from reformer_export import (
        bench_artifact,
        export_checkpoint,
        load,
        run_files,
        verify_artifact,
        write_triton_repository,
    )
    from reformer_export.errors import InputError

    def export(out: str, **fields: Any) -> object:
        return export_checkpoint(out, out, **fields)

    def write(out: str, **fields: Any) -> object:
        return write_triton_repository(out, out, **fields)

    calls: list[Any] = [load, verify_artifact, bench_artifact, export, write, run_files]
    for call in calls:
        with pytest.raises(InputError, match=r"^options: got lenghts, expected \w+, or fields of it"):
            call("OUT", lenghts=3)
