"""What `make wheel-check` takes for a wheel that lacks something."""

from __future__ import annotations

import pytest

from tests.deployment import check_libraries

GOOD = [
    {"name": "CPU kernels", "found": "0.1.0 (ABI 2), of the package", "runs": "yes, with AVX3"},
    {
        "name": "CUDA kernels",
        "found": "0.1.0 (ABI 2), of the package, for sm_90",
        "runs": "no NVIDIA GPU here",
    },
    {"name": "TensorRT plugins", "found": "0.1.0 (ABI 2), of the package, for sm_90", "runs": ""},
]


def test_a_wheel_with_all_libraries() -> None:
    assert check_libraries(GOOD) == []


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize(
    "found", ["missing: build it", "not in the library", "0.1.0 (ABI 2), built here, in x"]
)
def test_a_library_that_is_not_the_wheel_s(index: int, found: str) -> None:
    states = [dict(state) for state in GOOD]
    states[index]["found"] = found
    (problem,) = check_libraries(states)
    assert problem.startswith(f"{states[index]['name']}: {found}")
    assert check_libraries(states[:index] + states[index + 1 :]) == [f"no {GOOD[index]['name']}"]


def test_cpu_kernels_that_do_not_run() -> None:
    assert len(check_libraries([{**GOOD[0], "runs": "no"}, *GOOD[1:]])) == 1
