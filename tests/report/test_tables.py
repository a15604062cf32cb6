from __future__ import annotations

import dataclasses
import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reformer_export.cli.tables import print_table
from reformer_export.report.page import Page, Section, render_page
from reformer_export.report.tables import (
    Table,
    accuracy_table,
    engine_table,
    machine_tables,
    make_facts,
    make_table,
    measurements_table,
    sweep_table,
)
from reformer_export.report.verify_report import DataAccuracy
from reformer_export.runtimes.machine import ArtifactState, inspect_machine
from tests.artifact.test_engine_record import RECORD
from tests.report.results import ACCURACY, make_benchmark, make_case, make_sweep
from tests.runtimes.artifacts import write_artifact


def test_what_is_absent_is_a_dash() -> None:
    table = make_table("Halves", {"number": str, "half": lambda n: n // 2 if n % 2 == 0 else None}, [3, 4])
    assert table == Table("Halves", ("number", "half"), (("3", "-"), ("4", "2")))


def test_the_cases_of_a_sweep() -> None:
    table = sweep_table(Path("out"), make_sweep(make_case(2, 1, 0.5), make_case(error=1.0)))
    assert table.caption == "out against eager (onnxruntime CPU, float32)"
    name = "batch 1, length 64, masked"
    assert table.rows == (
        (name, "1.0e-06", "5.0e-05", "1,800", "0", "0", "-", "2.0e-06", "ok"),
        (name, "1.0e-06", "5.0e-05", "1,800", "2", "1", "5.0e-01", "2.0e-06", "FAILED"),
        (name, "1.0e+00", "5.0e-05", "1,800", "0", "0", "-", "2.0e-06", "FAILED"),
    )


def test_accuracy_by_number_of_hashes() -> None:
    table = accuracy_table(DataAccuracy("text.txt", 4, ACCURACY))
    assert table.caption == "text.txt: 1 sequences of 1024 tokens"
    assert table.rows[0] == ("1", "2.0000", "2.8854", "5,432", "1,023")


def test_measurements(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    table = measurements_table("out", make_benchmark(out, 2.0, 3.0))
    assert table.rows[2:] == (
        ("1", "1,024", "artifact", "3", "1,000.00", "1,024", "12", ""),
        ("1", "1,024", "eager", "3", "3,000.00", "341", "12", "3.00 x"),
    )
    assert measurements_table("out", make_benchmark(out, memory=False)).rows[0][6] == "-"


def test_an_engine() -> None:
    facts = dict(engine_table("Engine ada", RECORD, ("state", "ok")).rows)
    assert facts["compute capabilities"] == "8.0, 12.0"
    assert facts["profile 1: min / opt / max"] == "1x64 / 4x4096 / 8x16384"
    assert facts["plugin library"] == "libreformer_tensorrt.so 0.1.0 (ABI 2), in the engine"
    assert facts["built with"] == "weights can be exchanged, float32 products in TF32"
    assert (facts["size"], facts["state"]) == ("1,234 B", "ok")


def test_a_machine() -> None:
    state = ArtifactState("out", "a reason", ("a note",))
    machine = dataclasses.replace(inspect_machine(), gpus=("L4", "L40"), providers=(), artifact=state)
    tables = {table.caption: table.rows for table in machine_tables(machine)}
    captions = ["Machine", "Native libraries", "TensorRT", "Libraries", "Commands", "Artifact out"]
    assert list(tables) == captions
    assert [text for name, text in tables["Machine"] if name == "GPU"] == ["L4", "L40"]
    assert ("ONNX Runtime", "missing: no artifact can be run") in tables["Machine"]
    assert tables["Artifact out"] == (("can run here", "no"), ("why", "a reason"), ("note", "a note"))


@pytest.mark.parametrize(
    "table",
    [
        sweep_table(Path("out"), make_sweep(make_case(2, 1, 0.5))),
        make_facts("A & B", [("the name", "a text, <b> & all"), ("another", "[batch, 4]")]),
    ],
)
def test_terminal_and_page_show_the_same(table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(table)
    _, caption, *lines = capsys.readouterr().out.splitlines()
    page = render_page(Page("Title", [Section("name", "Title", tables=[table])]))
    assert html.unescape(page).count(f'<p class="caption">{caption}</p>') == 1
    cells = [html.unescape(cell) for cell in re.findall(r"<t[dh]\b[^>]*>(.*?)</t[dh]>", page)]
    assert cells == [cell for line in lines for cell in re.split(" {2,}", line.strip())]
    assert len(cells) > len(table.columns)


def test_tables_need_neither_torch_nor_what_pages_are_made_with() -> None:
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'onnx', 'matplotlib', 'jinja2')))\n"
        "import reformer_export.report.tables, reformer_export.report.inspection_tables"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
