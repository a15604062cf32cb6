"""Run an artifact's engine with TensorRT or TensorRT-RTX on an NVIDIA GPU."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import Any, NoReturn, cast

from reformer_export.artifact.engine_record import EngineProfile, EngineRecord, EngineRuntime
from reformer_export.errors import InputError
from reformer_export.phases import log_fact, log_phase
from reformer_export.runtimes.base import Runtime, Where, check_place
from reformer_export.runtimes.device_arrays import is_on_gpu
from reformer_export.runtimes.forks import keep_for_good
from reformer_export.runtimes.inputs import IdsLike, prepare_inputs
from reformer_export.runtimes.options import RuntimeOptions
from reformer_export.runtimes.tensorrt.cuda import CudaDevice
from reformer_export.runtimes.tensorrt.engine import OpenedEngine
from reformer_export.runtimes.tensorrt.executor import EngineExecutor
from reformer_export.runtimes.tensorrt.machine import Machine, examine_gpu_machine
from reformer_export.runtimes.tensorrt.packages import import_cuda, import_tensorrt
from reformer_export.runtimes.tensorrt.preflight import (
    check_host_code,
    check_machine,
    check_num_hashes,
    choose_engine,
    read_engine,
)


class TensorRTRuntime(Runtime):
    """An artifact's engine open on a GPU

    Use it as a context manager, or call `close`, to give the GPU's memory back at a known time. Threads may
    share it: their requests run one after the other.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        options: RuntimeOptions,
        *,
        machine: Machine | None = None,
        trt: Any = None,
        cuda: CudaDevice | None = None,
    ) -> None:
        """Check the artifact in the folder `path` and its engine against this machine, then load the engine.

        Args:
            path: the artifact's folder.
            options: of which `runtime` is "tensorrt" or "tensorrt-rtx".
            machine: the facts to check against; None to look at this machine.
            trt: the module to use; None to import `runtime`'s.
            cuda: the GPU to use; None for that of `options.device_id`.

        Raises:
            ArtifactError: the artifact or the engine is broken, or they do not belong together.
            MissingDependencyError: TensorRT or cuda-bindings is not installed, or too old.
            RuntimeUnavailableError: this machine cannot run the engine.
        """
        super().__init__(path, options)
        runtime = cast(EngineRuntime, options.runtime)
        facts = examine_gpu_machine(runtime, options.device_id) if machine is None else machine
        self._record = choose_engine(self.folder, runtime, options.engine, facts)
        check_host_code(self._record, options.allow_engine_code)
        self.num_hashes = check_num_hashes(self._record, self.manifest, options.num_hashes)
        self._notes += check_machine(self._record, facts)
        with log_phase(f"reading engine {self._record.name} and comparing it with its record"):
            data = read_engine(self.folder, self.manifest, self._record)
        self._gpu = facts.gpu
        self._lock = threading.Lock()
        library = None if self._record.plugin.embedded or facts.library is None else facts.library.path
        with contextlib.ExitStack() as stack:
            device = CudaDevice(import_cuda(), options.device_id or 0) if cuda is None else cuda
            device.activate()
            log_fact("GPU", facts.gpu)
            log_fact("plugin library", library or "the engine's own")
            with log_phase(f"opening the engine with {runtime} {facts.runtime_version}"):
                opened = OpenedEngine(trt or import_tensorrt(runtime), self._record, data, library)
            stack.callback(opened.close)
            opened.check_signature(self.spec)
            if self._record.flags.stripped:
                opened.refit(self.folder / self._record.model_name)
            self._title = opened.title
            self._notes += [f"{opened.title}: {warning}" for warning in opened.warnings]
            executor = EngineExecutor(opened, device, cuda_graphs=options.cuda_graphs)
            self._executor: EngineExecutor | None = executor
            stack.callback(executor.close)
            # At the latest when this object is collected, or the program ends.
            self._release = weakref.finalize(self, stack.pop_all().close)

    @property
    def record(self) -> EngineRecord:
        """What the engine is."""
        return self._record

    @property
    def profiles(self) -> tuple[EngineProfile, ...]:
        """The shapes that the engine takes."""
        return self._record.profiles

    @property
    def max_length(self) -> int:
        """The longest sequence that a profile takes, in tokens: of a batch of one, where one takes that."""
        alone = [profile for profile in self.profiles if profile.minimum[0] == 1]
        return min(self.spec.max_length, max(profile.maximum[1] for profile in alone or self.profiles))

    @property
    def providers(self) -> tuple[str, ...]:
        rounds = "" if self._record.num_hashes is None else f", {self._record.num_hashes} hashes"
        return (f"{self._title}, {self._gpu}, engine {self._record.name}{rounds}",)

    @property
    def native(self) -> None:
        """None: the operators are the engine's plugins."""

    @property
    def notes(self) -> list[str]:
        executor = self._executor
        return [*self._notes, *(executor.notes if executor else ())]

    def _run(
        self, input_ids: IdsLike, attention_mask: IdsLike | None, num_hashes: int | None, where: Where
    ) -> dict[str, Any]:
        """`run` for shapes within one of the engine's profiles, from the host and to it. An engine has its
        number of hashes built in."""
        check_place(where, "cpu", "float32")
        is_on_gpu("cpu", input_ids, attention_mask)
        check_num_hashes(self._record, self.manifest, num_hashes)
        ids, mask = prepare_inputs(self.spec, input_ids, attention_mask, self.config.pad_token_id)
        with self._lock:
            if self._executor is None:
                raise InputError(
                    f"engine {self._record.name}",
                    "a request after close()",
                    "an open engine",
                    "load the artifact again",
                )
            outputs = self._executor.run(ids, mask)
        return {name: outputs[name] for name in self.spec.output_names}

    def check_decoding(self) -> NoReturn:
        got, fix = f"{self._record.runtime}", "load the artifact with ONNX Runtime"
        raise InputError("decoding", got, "ONNX Runtime, which alone has caches here", fix)

    def _start_decoding(self, num_hashes: int | None) -> NoReturn:
        self.check_decoding()

    def abandon(self) -> None:
        self._is_abandoned = True
        self._release.detach()
        keep_for_good(self._executor)
        self._executor = None
        self._lock = threading.Lock()  # whoever held the other one is not in this process

    def close(self) -> None:
        """Release the engine and all its memory, after a request that is running; see `Runtime.close`."""
        with self._lock:
            self._executor = None
            self._release()
