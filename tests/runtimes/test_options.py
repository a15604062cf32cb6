from __future__ import annotations

from typing import Any

import pytest

from reformer_export.errors import InputError
from reformer_export.runtimes import RUNTIMES, RuntimeOptions


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("runtime", "x", "one of onnxruntime, tensorrt, tensorrt-rtx"),
        ("runtime", None, "one of onnxruntime"),
        ("provider", "tpu", "one of auto, cpu, cuda"),
        ("provider", None, "one of auto, cpu, cuda"),
        ("native", True, "one of auto, on, off"),
        ("native", ["on"], "one of auto, on, off"),
        ("threads", 0, "an integer from 1 up"),
        ("threads", -1, "an integer from 1 up"),
        ("threads", "2", "an integer from 1 up"),
        ("threads", True, "an integer from 1 up"),
        ("threads", 2.0, "an integer from 1 up"),
        ("engine", 5, "an engine's name"),
        ("cuda_graphs", "yes", "True or False"),
        ("tf32", 1, "True or False"),
        ("check", None, "True or False"),
    ],
)
def test_values_out_of_range_or_of_another_type(field: str, value: Any, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        RuntimeOptions(**{field: value})
    assert (caught.value.what, caught.value.got) == (field, repr(value))
    assert caught.value.expected.startswith(expected)
    assert caught.value.fix


OF_ENGINES = {"engine": "x", "cuda_graphs": True}
OF_ONNXRUNTIME = {"provider": "cpu", "threads": 2, "native": "off", "tf32": True}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_options_are_those_that_the_runtime_takes(runtime: Any) -> None:
    is_engine = runtime != "onnxruntime"
    taken, refused = (OF_ENGINES, OF_ONNXRUNTIME) if is_engine else (OF_ONNXRUNTIME, OF_ENGINES)
    together = {**taken, "provider": "cuda"} if "tf32" in taken else taken
    assert RuntimeOptions(runtime, **together).is_engine is is_engine
    for field, value in refused.items():
        with pytest.raises(InputError) as caught:
            RuntimeOptions(runtime, **{field: value})
        assert str(caught.value) == (
            f"{field}: got one that {runtime} does not take, expected none for this runtime; "
            "leave it out, or choose another runtime"
        )


def test_tf32_is_not_the_cpu_s() -> None:
    message = "tf32: got it on the CPU, which has none, expected CUDA as the provider"
    with pytest.raises(InputError, match=message):
        RuntimeOptions(provider="cpu", tf32=True)
    assert RuntimeOptions(provider="auto", tf32=True).tf32


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_what_an_engine_does_anyway_may_be_said(runtime: Any) -> None:
    assert RuntimeOptions(runtime, provider="cuda", native="on").is_engine
