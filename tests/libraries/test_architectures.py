from __future__ import annotations

import pytest

from reformer_export.errors import InputError
from reformer_export.libraries.architectures import (
    LEAST_COMPUTE_CAPABILITY,
    Code,
    ComputeCapability,
    code_for,
    parse_architectures,
)


@pytest.mark.parametrize(("text", "numbers"), [("8.9", (8, 9)), ("12.0", (12, 0)), ("10.3", (10, 3))])
def test_a_compute_capability_is_its_text(text: str, numbers: tuple[int, int]) -> None:
    capability = ComputeCapability.parse(text)
    assert capability == ComputeCapability(*numbers)
    assert str(capability) == text
    assert capability.architecture == int(text.replace(".", ""))


@pytest.mark.parametrize("text", ["", "8", "89", "sm_89", "8.10", "0.9", "100.0", "8.9\n", " 8.9", "8.x"])
def test_texts_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match=r"gpu: got .*, expected a version such as 8\.9"):
        ComputeCapability.parse(text, "gpu")


def test_they_are_ordered_by_number_not_by_text() -> None:
    volta, turing = ComputeCapability(7, 0), ComputeCapability(7, 5)
    ada, blackwell = ComputeCapability(8, 9), ComputeCapability(10, 0)
    assert volta < turing == LEAST_COMPUTE_CAPABILITY < ada < blackwell


@pytest.mark.parametrize(
    ("architectures", "capability", "code"),
    [
        ("80,86,90", "8.0", "machine code"),
        ("80,86,90", "8.9", "machine code"),  # sm_86's
        ("80,86,90", "7.5", None),
        ("75,80,86,89,90,100,120", "7.5", "machine code"),
        ("75,80,86,89,90,100,120", "8.7", "machine code"),  # Jetson Orin: sm_86's
        ("75,90", "8.7", None),
        ("86", "8.0", None),
        ("90", "8.9", None),
        ("80,90", "12.0", "PTX"),
        ("80,120", "10.0", None),  # neither machine code nor older PTX
        ("80,120", "12.1", "machine code"),
        ("80,100", "10.3", "machine code"),
        ("", "8.9", None),
    ],
)
def test_which_code_runs(architectures: str, capability: str, code: Code | None) -> None:
    assert code_for(parse_architectures(architectures), ComputeCapability.parse(capability)) == code
