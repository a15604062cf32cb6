"""What a Triton model repository shall be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal, TypedDict, get_args

from reformer_export.errors import InputError, one_line_repr
from reformer_export.libraries.operators import NativeMode
from reformer_export.runtimes.field_types import check_field_types
from reformer_export.runtimes.options import ONNXRUNTIME, Provider, RuntimeName, RuntimeOptions

Backend = Literal["python", "onnxruntime", "tensorrt"]
BACKENDS: Final[tuple[Backend, ...]] = get_args(Backend)

DEFAULT_NAME: Final = "reformer"
GENERATE_SUFFIX: Final = "-generate"
MAX_COUNT: Final = 65_536
MAX_DELAY: Final = 10_000_000

_NAME: Final = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


@dataclass(frozen=True)
class TritonRequest:
    """How Triton serves an artifact.

    Attributes:
        backend: "python" runs it by this package, in any of its runtimes; "onnxruntime" and "tensorrt" are
            Triton's own, of model.onnx and of an engine.
        name: the model's; one that writes, of the python backend, is called NAME-generate.
        max_batch_size: rows that run together.
        queue_delay: microseconds that a request may wait for others to run with.
        instances: processes (python) or sessions that serve the model, each with its own copy in memory.
        streams: generations that step together in an instance, of the python backend; later ones wait.
        max_cache: bytes of caches that the generations of an instance may take; others wait.
        max_queue: generations of an instance that wait at most; the next is refused.
        mounted_at: where the server will see the repository, an absolute path: the onnxruntime backend finds
            the operator library by it; None for where it is written.
        runtime: what runs the artifact, of the python backend; None for ONNX Runtime.
        provider: "cpu", "cuda", or "auto" (CUDA where the server has it).
        native: as `RuntimeOptions.native`; for the onnxruntime backend whether the operator library is put
            into the repository.
        threads: CPU threads of an operator, for each instance; None for all cores.
        tf32: as `RuntimeOptions.tf32`.
        engine: which of the artifact's engines; None for the only one.
        cuda_graphs: as `RuntimeOptions.cuda_graphs`.
        num_hashes: as `RuntimeOptions.num_hashes`; requests of the python backend may choose another.
        allow_engine_code: serve an engine that carries machine code for the host, which runs as the server.
        overwrite: replace a repository that this package wrote, when the new one is whole.
    """

    backend: Backend = "python"
    name: str = DEFAULT_NAME
    max_batch_size: int = 16
    queue_delay: int = 2000
    instances: int = 1
    streams: int = 16
    max_cache: int = 4 * 2**30
    max_queue: int = 256
    mounted_at: str | None = None
    runtime: RuntimeName | None = None
    provider: Provider = "auto"
    native: NativeMode = "auto"
    threads: int | None = None
    tf32: bool = False
    engine: str | None = None
    cuda_graphs: bool = False
    num_hashes: int | None = None
    allow_engine_code: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_field_types(self, but=("num_hashes",))
        if not _NAME.match(self.name):
            expected = "up to 100 letters, digits, '.', '_', '-', the first a letter or digit"
            raise InputError("name", one_line_repr(self.name), expected, "give another name")
        for name, least, most in (
            ("max_batch_size", 1, MAX_COUNT),
            ("queue_delay", 0, MAX_DELAY),
            ("instances", 1, MAX_COUNT),
            ("streams", 1, MAX_COUNT),
            ("max_cache", 1024, 2**40),
            ("max_queue", 1, MAX_COUNT),
        ):
            if not least <= getattr(self, name) <= most:
                raise InputError(name, getattr(self, name), f"{least} to {most}", "choose another")
        if self.mounted_at is not None and not _is_plain_path(self.mounted_at):
            expected = "an absolute path without .. and line ends"
            raise InputError("mounted_at", one_line_repr(self.mounted_at), expected, "give e.g. /models")
        self._refuse_what_the_backend_does_not_take()
        self.runtime_options()

    @property
    def chosen_runtime(self) -> RuntimeName:
        """What runs the artifact."""
        return self.runtime or ("tensorrt" if self.backend == "tensorrt" else ONNXRUNTIME)

    def runtime_options(self) -> RuntimeOptions:
        """How the runtime is opened; InputError for what it does not take."""
        return RuntimeOptions(
            runtime=self.chosen_runtime,
            provider=self.provider,
            threads=self.threads,
            native=self.native,
            engine=self.engine,
            cuda_graphs=self.cuda_graphs,
            tf32=self.tf32,
            num_hashes=self.num_hashes,
            allow_engine_code=self.allow_engine_code,
        )

    def _refuse_what_the_backend_does_not_take(self) -> None:
        if self.backend == "python":
            self._refuse(mounted_at=self.mounted_at is not None)
            return
        if self.chosen_runtime != self.backend:
            fix = f'leave it out, or use `backend="python"`, which serves {self.chosen_runtime} too'
            got = f"{self.chosen_runtime} with Triton's {self.backend} backend"
            raise InputError("runtime", got, self.backend, fix)
        given = {"num_hashes": self.num_hashes is not None, "cuda_graphs": self.cuda_graphs}
        if self.backend == "tensorrt":
            given["mounted_at"] = self.mounted_at is not None
        self._refuse(**given)

    def _refuse(self, **given: bool) -> None:
        for name, is_given in given.items():
            if is_given:
                got = f"one that Triton's {self.backend} backend does not take"
                raise InputError(
                    name, got, "none for this backend", "leave it out, or choose another backend"
                )


def _is_plain_path(text: str) -> bool:
    path = PurePosixPath(text)
    return path.is_absolute() and ".." not in path.parts and text.isprintable()


class TritonFields(TypedDict, total=False):
    """The fields of `TritonRequest` as keywords, for type checkers and editors."""

    backend: Backend
    name: str
    max_batch_size: int
    queue_delay: int
    instances: int
    streams: int
    max_cache: int
    max_queue: int
    mounted_at: str | None
    runtime: RuntimeName | None
    provider: Provider
    native: NativeMode
    threads: int | None
    tf32: bool
    engine: str | None
    cuda_graphs: bool
    num_hashes: int | None
    allow_engine_code: bool
    overwrite: bool
