"""What `build-library` is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from reformer_export.errors import InputError, RuntimeUnavailableError
from reformer_export.libraries.architectures import LEAST_COMPUTE_CAPABILITY
from reformer_export.libraries.gpus import find_gpus

Architectures = tuple[int, ...] | Literal["native", "all"]
_MAX_ARCHITECTURES: Final = 32
_EXPECTED: Final = 'native, all, or numbers such as "80;90"'


@dataclass(frozen=True)
class LibraryOptions:
    """What to build.

    Always the operator library with its CPU kernels; `cuda` adds the CUDA kernels to it, `tensorrt` builds
    the TensorRT plugins too and brings `cuda`. `architectures` says for which GPUs: "native" for those of
    this machine, "all" for those that the package is shipped with, or numbers such as (80, 90).
    """

    cuda: bool = False
    tensorrt: bool = False
    architectures: Architectures = "native"

    def __post_init__(self) -> None:
        if isinstance(self.architectures, str):
            if self.architectures not in ("native", "all"):
                raise InputError("architectures", repr(self.architectures), _EXPECTED, "choose one of them")
            return
        least = LEAST_COMPUTE_CAPABILITY.architecture
        for number in self.architectures:
            if isinstance(number, bool) or not isinstance(number, int) or not least <= number < 1000:
                raise InputError(
                    "architectures",
                    f"{number!r:.40}",
                    f"{least} or more: 10 * major + minor of a compute capability",
                    "the kernels need a newer GPU",
                )
        if not 0 < len(self.architectures) <= _MAX_ARCHITECTURES:
            got = f"{len(self.architectures)} numbers"
            raise InputError("architectures", got, f"1 to {_MAX_ARCHITECTURES}", "name fewer, or some")

    @property
    def with_cuda(self) -> bool:
        return self.cuda or self.tensorrt

    def list_architectures(self) -> str:
        """As CMake takes it, "80;90" or "all"; "" without CUDA.

        Raises:
            RuntimeUnavailableError: "native", and there is no GPU here.
        """
        if not self.with_cuda:
            return ""
        if self.architectures == "all":
            return "all"
        numbers = self.architectures if isinstance(self.architectures, tuple) else _find_native()
        return ";".join(map(str, sorted(set(numbers))))


def architectures_from_text(text: str) -> Architectures:
    """ "native", "all", or the numbers of "80;90" or "80,90"; InputError for anything else."""
    if text in ("native", "all"):
        return "native" if text == "native" else "all"
    parts = re.split("[;,]", text)
    if not all(re.fullmatch("[1-9][0-9]{1,2}", part) for part in parts):
        raise InputError("architectures", f"{text!r:.60}", _EXPECTED, "`doctor` names this machine's GPUs")
    return tuple(map(int, parts))


def _find_native() -> tuple[int, ...]:
    """Those of the GPUs here, less GPUs that are too old where there are others."""
    try:
        found = {gpu.compute_capability for gpu in find_gpus()}
    except RuntimeUnavailableError as error:
        raise RuntimeUnavailableError(
            "`architectures`",
            f"native, and {error.got}",
            "a GPU here, or the numbers of those that the library is for",
            'give them, such as `architectures="80;90"`, or `architectures="all"`',
        ) from error
    fitting = {capability for capability in found if capability >= LEAST_COMPUTE_CAPABILITY}
    if not fitting:
        got = f"native, and GPUs of compute capability {', '.join(map(str, sorted(found)))}"
        expected = f"one of {LEAST_COMPUTE_CAPABILITY} or newer"
        raise RuntimeUnavailableError("`architectures`", got, expected, "the kernels need a newer GPU")
    return tuple(capability.architecture for capability in fitting)
