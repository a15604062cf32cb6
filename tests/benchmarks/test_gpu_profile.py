"""Reading what Nsight Compute prints: a page of an H200, shortened."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from benchmarks.gpu_profile import main, parse_page
from benchmarks.gpu_results import load_results

PAGE = """==PROF== Connected to process 1
  void attend_chunk<float16, 64>(AttentionArguments<T1>, AttentionPlan) (8192, 1, 1)x(128, 1, 1), Context 1
    Section: GPU Speed Of Light Throughput
    DRAM Throughput                   %        14.25
    Duration                         us       122.78
    Executed Instructions           inst   61,015,200
    ----------------------- ----------- ------------
    Issue Slots Busy               %        54.48

  unnamed>::count_digits(SortArguments, int) (256, 1, 1)x(256, 1, 1), Context 1, Stream 7, Device 0, CC 9.0
    Duration                         us         4.03
    OPT   Duration of this kernel could be shorter by 90 %
    Registers Per Thread             register/thread              32
"""


def test_launches_and_their_metrics() -> None:
    attend, count = parse_page(PAGE, "a layer")
    assert (attend["layer"], attend["kernel"]) == ("a layer", "attend_chunk<float16, 64>")
    assert attend["metrics"] == {
        "Duration": "122.78 us",
        "Issue Slots Busy": "54.48 %",
        "DRAM Throughput": "14.25 %",
        "Executed Instructions": "61,015,200 inst",
    }
    assert count["kernel"] == "count_digits"
    assert count["metrics"] == {"Duration": "4.03 us", "Registers Per Thread": "32 register/thread"}


def test_a_layer_s_entries_are_replaced_by_newer_ones(tmp_path: Path) -> None:
    page, out = tmp_path / "page.txt", tmp_path / "gpu.json"
    page.write_text(PAGE)
    for layer in ("one", "other", "one"):
        assert CliRunner().invoke(main, ["read", layer, str(page), "--out", str(out)]).exit_code == 0
    assert [entry["layer"] for entry in load_results(out)["profiles"]] == ["other"] * 2 + ["one"] * 2


def test_a_page_without_a_launch_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.txt").write_text("==ERROR== ERR_NVGPUCTRPERM")
    result = CliRunner().invoke(main, ["read", "one", str(tmp_path / "page.txt")])
    assert result.exit_code == 1
    assert "got no kernel" in result.output
