from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from reformer_export.errors import InputError, RuntimeUnavailableError
from reformer_export.libraries import installed
from reformer_export.libraries.installed import ABI_VERSION
from reformer_export.libraries.operators import (
    LIBRARY_VARIABLE,
    PRODUCTS_VARIABLE,
    describe_library,
    find_native_library,
)
from tests.ops.backends import require_native

FOREIGN_LIBRARY = """
#include <stdint.h>
struct info { uint32_t size, abi_version; const char *version, *cpu_target, *cuda_architectures; };
int reformer_library_info(struct info* info) {
  info->abi_version = 99; info->version = "9.9"; info->cpu_target = "none"; return 0;
}
"""


@pytest.fixture
def foreign_library(tmp_path):
    """A library with our entry point and another ABI version."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, library = tmp_path / "foreign.c", tmp_path / "libforeign.so"
    source.write_text(FOREIGN_LIBRARY)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def test_off_finds_nothing():
    assert find_native_library("off") is None


def test_unknown_mode_is_refused():
    with pytest.raises(InputError, match="got 'maybe', expected one of auto, on, off"):
        find_native_library("maybe")


def test_without_a_library(monkeypatch, tmp_path):
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(installed, "INSTALLED", tmp_path)
    assert find_native_library("auto") is None
    with pytest.raises(RuntimeUnavailableError, match="got none, expected libreformer_onnxruntime"):
        find_native_library("on")


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_another_abi_version_is_refused_with_both(monkeypatch, foreign_library, mode):
    monkeypatch.setenv(LIBRARY_VARIABLE, str(foreign_library))
    with pytest.raises(RuntimeUnavailableError, match=f"got ABI version 99, expected {ABI_VERSION};"):
        find_native_library(mode)


@pytest.mark.parametrize("content", [None, b"", b"not a library"])
def test_what_is_no_library_is_refused(monkeypatch, tmp_path, content):
    path = tmp_path / "libbroken.so"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(LIBRARY_VARIABLE, str(path))
    with pytest.raises(RuntimeUnavailableError, match="expected reformer-export's operator library"):
        find_native_library("auto")


@pytest.mark.parametrize("wanted", ["avx-512", "AMX", "amx"])
def test_products_that_are_not_to_be_had_are_refused(monkeypatch, wanted):
    library = require_native()
    if wanted == "amx" and library.int8_products == "AMX":
        pytest.skip("this processor has AMX")
    monkeypatch.setenv(PRODUCTS_VARIABLE, wanted)
    describe_library.cache_clear()
    with pytest.raises(
        RuntimeUnavailableError, match=f"got '{wanted}', expected one of none, avx2, .*; unset"
    ):
        find_native_library("auto")


@pytest.mark.parametrize("wanted", ["", "none"])
def test_products_are_those_that_the_environment_names(wanted):
    """The library reads the variable once in a process."""
    library = require_native()
    code = (
        "from reformer_export.libraries.operators import find_native_library as f; print(f().int8_products)"
    )
    command, environment = [sys.executable, "-c", code], os.environ | {PRODUCTS_VARIABLE: wanted}
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert said.strip() == str(None if wanted else library.int8_products)


def test_the_installed_library_describes_itself():
    library = require_native()
    assert library.abi_version == ABI_VERSION
    assert library.version
    assert library.cpu_target
    assert library.version in str(library)
