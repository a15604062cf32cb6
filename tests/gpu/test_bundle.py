"""The bundle for machines without a network: small, without big packages, tried in a clean place."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

from tests.gpu.bundle.__main__ import read_architectures
from tests.gpu.bundle.archive import pack
from tests.gpu.bundle.contents import PROJECT, Target, assemble_bundle, copy_packages, find_paths
from tests.gpu.bundle.keep_architecture import (
    MACHINE_CODE,
    PTX,
    keep_architectures,
    kernel_names,
    read_containers,
)
from tests.gpu.checks.plans import BUILT, ROOT
from tests.ops.backends import require_native
from tests.required import skip_unless_required

NO_GPU = "import sys; print('got no device', file=sys.stderr); sys.exit(2)"
DRY_STEPS = "what is installed,collect,small shapes,plugins refuse,a page"


# Fat binaries, made here: [kind, architecture, image].


def make_image(*names: bytes) -> bytes:
    return b"\x7fELF" + b"".join(b"\0.text." + name for name in names) + b"\0" + bytes(range(1, 65))


def make_container(*entries) -> bytes:
    body = b"".join(
        struct.pack("<HHIQIIII", kind, 0, 64, len(image), 0, 0, 0, architecture).ljust(64, b"\0") + image
        for kind, architecture, image in entries
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body + bytes(-len(body) % 8)


def make_library(path: Path, *containers: bytes, section: bytes = b".nv_fatbin") -> bytes:
    """An ELF file of no use but for its sections."""
    names = b"\0.shstrtab\0" + section + b"\0"
    code = b"".join(containers)
    offset = 64 + len(names) + -len(names) % 8
    table = offset + len(code)
    elf = bytearray(b"\x7fELF\x02\x01\x01".ljust(64, b"\0"))
    struct.pack_into("<Q", elf, 0x28, table)
    struct.pack_into("<HHH", elf, 0x3A, 64, 3, 1)
    headers = [(0, 0, 0, 0, 0, 0), (1, 3, 0, 0, 64, len(names)), (11, 1, 0, 0, offset, len(code))]
    rows = b"".join(struct.pack("<IIQQQQ", *header).ljust(64, b"\0") for header in headers)
    path.write_bytes(bytes(elf) + names.ljust(offset - 64, b"\0") + code + rows)
    return code


def read_images(path: Path) -> list[tuple[int, int, bytes]]:
    data = path.read_bytes()
    return [
        (entry.kind, entry.architecture, data[entry.begin : entry.begin + entry.size])
        for container in read_containers(data)
        for entry in container
    ]


KEPT = make_image(b"_ZN8reformer12attend_chunkE")
OTHER = make_image(b"_ZN11onnxruntime4cuda3addE", b"_ZN7cutlass6KernelE")
EXPERTS = make_image(b"_ZN7cutlass6KernelI9MoeFCGemmE", b"_ZN11onnxruntime5flash3fwdE")


def test_one_architecture_s_wanted_code_stays_and_all_else_is_zeros(tmp_path):
    entries = [
        [(PTX, 80, b"ptx of both"), (MACHINE_CODE, 80, KEPT), (MACHINE_CODE, 90, KEPT)],
        [(MACHINE_CODE, 90, EXPERTS), (MACHINE_CODE, 86, EXPERTS)],
        [(MACHINE_CODE, 90, OTHER), (MACHINE_CODE, 90, b"no names here")],
        [(MACHINE_CODE, 75, KEPT), (PTX, 75, b"what newer GPUs compile")],
    ]
    make_library(tmp_path / "whole.so", *(make_container(*container) for container in entries))
    kept = keep_architectures(tmp_path / "whole.so", tmp_path / "copy.so", [90])
    whole, copy = read_images(tmp_path / "whole.so"), read_images(tmp_path / "copy.so")
    assert [entry[:2] for entry in copy] == [entry[:2] for entry in whole]
    stays = [2, 5, 6, 7, 8]  # the last container has nothing for 90 but PTX: it is left as it is
    for index, (before, after) in enumerate(zip(whole, copy, strict=True)):
        assert after[2] == (before[2] if index in stays else bytes(len(before[2]))), index
    assert kept == sum(len(whole[index][2]) for index in stays)
    assert (tmp_path / "copy.so").stat().st_size == (tmp_path / "whole.so").stat().st_size


def test_compressed_images_are_read(tmp_path):
    zstandard = pytest.importorskip("zstandard", reason="tests/requirements.txt brings it")
    image = zstandard.ZstdCompressor().compress(EXPERTS)
    assert kernel_names(image + bytes(5)) == kernel_names(EXPERTS) != []


def test_an_architecture_without_code_is_refused(tmp_path):
    make_library(tmp_path / "whole.so", make_container((MACHINE_CODE, 80, KEPT), (MACHINE_CODE, 90, KEPT)))
    with pytest.raises(ValueError, match="got 87, expected some of 80, 90"):
        keep_architectures(tmp_path / "whole.so", tmp_path / "copy.so", [87, 90])
    assert not (tmp_path / "copy.so").exists()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path: path.write_bytes(b"text"), "no ELF"),
        (lambda path: make_library(path, section=b".text"), "no section .nv_fatbin"),
    ],
)
def test_what_is_no_cuda_library_is_refused(tmp_path, make, word):
    make(tmp_path / "whole.so")
    with pytest.raises(ValueError, match=word):
        list(read_containers((tmp_path / "whole.so").read_bytes()))


def test_a_library_of_this_project_keeps_what_it_was_compiled_for(tmp_path):
    library = ROOT / "build/cuda" / BUILT[0]
    if not library.is_file():
        skip_unless_required(f"no {library.name} built with CUDA: make gpu-libraries builds it")
    architectures = {architecture for kind, architecture, _ in read_images(library) if kind == MACHINE_CODE}
    assert keep_architectures(library, tmp_path / "copy.so", architectures) > 0
    chosen = max(architectures)
    keep_architectures(library, tmp_path / "one.so", [chosen])
    left = {kind_of[1] for kind_of in read_images(tmp_path / "one.so") if any(kind_of[2])}
    assert left == {chosen}


def test_packages_lose_what_is_not_used(tmp_path):
    packages = tmp_path / "packages"
    for name in ("bin/pytest", "onnx/backend/test/data.pb", "onnx/helper.py", "onnxruntime/tools/a.py"):
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text("text")
    capi = packages / "onnxruntime" / "capi"
    capi.mkdir()
    make_library(capi / "libonnxruntime_providers_cuda.so", make_container((MACHINE_CODE, 90, KEPT)))
    (capi / "libonnxruntime.so.1.31").write_text("text")
    copy_packages(packages, tmp_path / "site", [90])
    left = sorted(path.relative_to(tmp_path / "site").as_posix() for path in tmp_path.glob("site/**/*.*"))
    assert left == ["onnx/helper.py", "onnxruntime/capi/libonnxruntime_providers_cuda.so"]


def test_architectures_are_read_and_others_refused():
    assert read_architectures("80;90") == read_architectures("80,90") == (80, 90)
    with pytest.raises(argparse.ArgumentTypeError, match="got 'all', expected compute capabilities"):
        read_architectures("all")


# The archive.


def test_an_archive_is_split_when_it_is_too_large_and_has_the_same_bytes_every_time(tmp_path):
    folder = tmp_path / "gpu-bundle"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "data").write_bytes(os.urandom(5000))
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o700)
    (whole,) = pack(folder, tmp_path / "a.tar.xz")
    os.utime(folder / "inner" / "data", (1, 1))
    parts = pack(folder, tmp_path / "b.tar.xz", limit=2000)
    assert [part.name for part in parts] == ["b.tar.xz.1", "b.tar.xz.2", "b.tar.xz.3"]
    assert max(part.stat().st_size for part in parts) <= 2000
    joined = b"".join(part.read_bytes() for part in parts)
    assert joined == whole.read_bytes()
    assert not (tmp_path / "b.tar.xz").exists()
    with tarfile.open(whole) as tar:
        assert {member.name: member.mode for member in tar if member.isfile()} == {
            "gpu-bundle/inner/data": 0o644,
            "gpu-bundle/run.sh": 0o755,
        }
    assert [path.name for path in pack(folder, tmp_path / "b.tar.xz")] == ["b.tar.xz"]
    assert not list(tmp_path.glob("b.tar.xz.*")), "parts of the call before"


# The whole, without third-party packages: those of this Python stand in for the GPU machine's.


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The bundle, packed and unpacked, with the library at hand for those that `make gpu-bundle` compiles."""
    work = tmp_path_factory.mktemp("bundle")
    libraries = work / "libraries"
    libraries.mkdir()
    operators, plugins, plugin_test = (libraries / Path(path).name for path in BUILT)
    shutil.copy2(require_native().path, operators)
    plugins.write_bytes(b"taken where there is a GPU")
    plugin_test.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c \"{NO_GPU}\"\n")
    plugin_test.chmod(0o755)
    folder = work / "gpu-bundle"
    folder.mkdir()
    small = [name for name in PROJECT if not name.startswith("models/")]
    assemble_bundle(ROOT, libraries, None, Target((90,), None), folder, small)
    (archive,) = pack(folder, work / "gpu-bundle.tar.xz")
    assert archive.stat().st_size < 5e6
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with tarfile.open(archive) as tar:
        tar.extractall(elsewhere, filter="data")
    shutil.rmtree(work)
    return elsewhere / "gpu-bundle"


def test_a_bundle_says_what_it_is_for_and_names_no_path_of_its_maker(unpacked):
    described = json.loads((unpacked / "bundle.json").read_text())
    assert (described["architectures"], described["python"]) == ([90], None)
    assert "compute capability 90" in (unpacked / "README.txt").read_text()
    # The libraries are the clone's own, for this test; `make gpu-bundle` looks through what it puts there.
    shipped = [path for path in find_paths(unpacked, [ROOT]) if path.parent.name != "lib"]
    assert shipped == []
    kept = {path.name for path in (unpacked / "project").iterdir()}
    assert kept == {"LICENSE", "pyproject.toml", "reformer_export", "tests", "benchmarks"}
    assert not list(unpacked.glob("project/**/__pycache__"))
    assert not list(unpacked.glob("project/reformer_export/_native"))


def test_find_paths_finds_them(tmp_path):
    (tmp_path / "a").write_bytes(b"\0" + str(ROOT).encode())
    (tmp_path / "b").write_bytes(b"/usr/lib")
    assert find_paths(tmp_path, [ROOT]) == [tmp_path / "a"]


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory) -> Path:
    """A fresh environment that has the packages of this one, but not this project."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # A path alone: what that folder's own .pth files add, such as this project, is not read.
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def test_the_dry_run_passes_from_a_clean_folder(unpacked, clean_python, tmp_path):
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHON": str(clean_python),
        "OMP_NUM_THREADS": "1",
        "GPU_CHECK_ONLY": DRY_STEPS,
    }
    command = [str(unpacked / "run.sh"), "--dry-run", "results"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "Failed: nothing" in done.stdout
    lines = (tmp_path / "results" / "checks.txt").read_text().splitlines()
    assert [line for line in lines if "FAILED" in line or "missing" in line] == []
    names = [line.partition(":")[0] for line in lines]
    assert names == [
        "what is installed",
        "collect the tests",
        "small shapes on the CPU",
        "TensorRT plugins refuse",
        "a page",
    ]
    assert (tmp_path / "results" / "gpu-results.md").read_text().startswith("# GPU results")
    assert (tmp_path / "results" / "log.txt").read_text().startswith("== what is installed")


def test_without_a_gpu_the_script_says_so(unpacked, clean_python, tmp_path):
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(clean_python)}
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [str(unpacked / "run.sh")], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "got no GPU" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["gpu-results"]
