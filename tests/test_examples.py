"""docs/examples: what a cluster would read of them, and the command lines that it would run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, Final

import click
import pytest

from reformer_export.batch.shard_manifest import Shard
from reformer_export.cli.main import cli
from tests.pages import ROOT

yaml = pytest.importorskip("yaml")

EXAMPLES: Final = ROOT / "docs" / "examples"


def parse(words: list[str]) -> dict[str, Any]:
    """The options that the program understands of a command line."""
    program, name, *arguments = words
    assert (program, name) == ("reformer-export", "run")
    command = cli.get_command(click.Context(cli), "run")
    assert command is not None
    with command.make_context("run", arguments) as context:
        return context.params


def test_the_kubernetes_job() -> None:
    """The rules that an API server has for such a job (batch/v1), and the command of each pod."""
    job = yaml.safe_load((EXAMPLES / "kubernetes-job.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    known = {
        "completionMode",
        "completions",
        "parallelism",
        "backoffLimitPerIndex",
        "podFailurePolicy",
        "template",
    }
    assert set(spec) == known
    assert spec["completionMode"] == "Indexed"  # which backoffLimitPerIndex needs
    assert pod["restartPolicy"] == "Never"  # which podFailurePolicy needs
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailIndex"  # which needs backoffLimitPerIndex
    (container,) = pod["containers"]
    assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [2]}
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    assert all(type(word) is str for word in container["args"])
    for index in range(spec["completions"]):
        words = [*container["command"], *container["args"]]
        options = parse([word.replace("$(JOB_COMPLETION_INDEX)", str(index)) for word in words])
        assert Shard.parse(options["shard"]) == Shard(index, spec["completions"])
        assert str(options["threads"]) == container["resources"]["requests"]["cpu"]
        assert [str(path) for path in options["file"]] == ["/data/in/*.parquet"]


def test_the_slurm_array(tmp_path: Path) -> None:
    """Run, as Slurm runs it, with a program of that name that says what it was called with."""
    script = EXAMPLES / "slurm-array.sh"
    subprocess.run(["bash", "-n", script], check=True)
    program = tmp_path / "reformer-export"
    program.write_text('#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done\n')
    program.chmod(0o755)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.parquet").touch()  # to which no shell may expand the glob
    directives = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in script.read_text().splitlines()
        if line.startswith("#SBATCH ")
    )
    first, last = map(int, directives["array"].split("-"))
    for index in range(first, last + 1):
        variables = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_ARRAY_TASK_ID": str(index),
            "SLURM_CPUS_PER_TASK": directives["cpus-per-task"],
        }
        output = subprocess.run(
            ["bash", script], check=True, capture_output=True, env=variables, cwd=tmp_path
        )
        options = parse(["reformer-export", *output.stdout.decode().split("\0")[:-1]])
        assert Shard.parse(options["shard"]) == Shard(index, last + 1)
        assert options["output"] == Path("results")
        assert [str(path) for path in options["file"]] == ["in/*.parquet"]
