from __future__ import annotations

from typing import Any

import pytest

from reformer_export.errors import InputError, RuntimeUnavailableError
from reformer_export.libraries import build_options
from reformer_export.libraries.architectures import LEAST_COMPUTE_CAPABILITY, ComputeCapability
from reformer_export.libraries.build_options import LibraryOptions, architectures_from_text
from reformer_export.libraries.gpus import Gpu

LEAST = LEAST_COMPUTE_CAPABILITY.architecture


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("native", "native"),
        ("all", "all"),
        ("90", (90,)),
        ("80;90", (80, 90)),
        ("90,100,80", (90, 100, 80)),
    ],
)
def test_architectures_from_text(text: str, value: Any) -> None:
    assert architectures_from_text(text) == value


@pytest.mark.parametrize(
    "text", ["", "9.0", "sm_90", "80;", ";80", "80 90", "-80", "1", "1234", "NATIVE", "９０"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"architectures: got .*expected native, all, or numbers"):
        architectures_from_text(text)


@pytest.mark.parametrize("value", [(), (LEAST - 1,), (1000,), (True,), ("90",), (90.0,), "some", (90,) * 33])
def test_values_that_no_kernel_is_for(value: Any) -> None:
    with pytest.raises(InputError, match="architectures: got"):
        LibraryOptions(cuda=True, architectures=value)


def test_what_cmake_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LibraryOptions().list_architectures() == ""
    assert LibraryOptions(architectures=(90,)).list_architectures() == ""
    assert LibraryOptions(cuda=True, architectures=(90, 80, 90)).list_architectures() == "80;90"
    assert LibraryOptions(tensorrt=True, architectures="all").list_architectures() == "all"
    gpus = tuple(Gpu("some", ComputeCapability(*version), 1) for version in ((9, 0), (8, 6), (9, 0)))
    monkeypatch.setattr(build_options, "find_gpus", lambda: gpus)
    assert LibraryOptions(tensorrt=True).list_architectures() == "86;90"


def test_native_with_gpus_that_are_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Gpu("old", ComputeCapability(6, 0), 1)
    new = Gpu("new", ComputeCapability(9, 0), 1)
    monkeypatch.setattr(build_options, "find_gpus", lambda: (old, new))
    assert LibraryOptions(cuda=True).list_architectures() == "90"
    monkeypatch.setattr(build_options, "find_gpus", lambda: (old, old))
    with pytest.raises(
        RuntimeUnavailableError, match=r"got native, and GPUs of compute capability 6\.0, exp"
    ):
        LibraryOptions(cuda=True).list_architectures()


def test_native_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeUnavailableError("GPU", "no NVIDIA driver", "one", "buy one")

    monkeypatch.setattr(build_options, "find_gpus", refuse)
    assert LibraryOptions().list_architectures() == ""  # the CPU's needs none
    with pytest.raises(RuntimeUnavailableError, match=r"got native, and no NVIDIA driver.*80;90"):
        LibraryOptions(cuda=True).list_architectures()
