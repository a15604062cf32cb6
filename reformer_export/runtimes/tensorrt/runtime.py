"""Run an artifact's engine with TensorRT or TensorRT-RTX on an NVIDIA GPU."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import Any, cast

from reformer_export.artifact.decoding import cache_tensors
from reformer_export.artifact.engine_record import (
    EngineProfile,
    EngineRecord,
    EngineRuntime,
    list_engines,
)
from reformer_export.errors import ArtifactError, InputError, RuntimeUnavailableError
from reformer_export.phases import log_fact, log_phase
from reformer_export.runtimes.base import Runtime, Where, check_place
from reformer_export.runtimes.decoding import DecodingState
from reformer_export.runtimes.device_arrays import is_on_gpu
from reformer_export.runtimes.forks import keep_for_good
from reformer_export.runtimes.inputs import IdsLike, prepare_inputs
from reformer_export.runtimes.options import RuntimeOptions
from reformer_export.runtimes.tensorrt.cuda import CudaDevice
from reformer_export.runtimes.tensorrt.decoding import DeviceCacheMemory, EngineDecoder
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
        self._machine = facts
        self._trt = trt
        self._allows_host_code = options.allow_engine_code
        data = self._read_engine(self._record)
        self._lock = threading.Lock()
        self._decoder: EngineDecoder | None = None
        self._states: weakref.WeakSet[DecodingState] = weakref.WeakSet()
        with contextlib.ExitStack() as stack:
            self._cuda = device = CudaDevice(import_cuda(), options.device_id or 0) if cuda is None else cuda
            device.activate()
            opened = self._open_engine(self._record, data)
            stack.callback(opened.close)
            opened.check_signature(self.spec)
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
        return (f"{self._title}, {self._machine.gpu}, engine {self._record.name}{rounds}",)

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

    def check_decoding(self) -> None:
        super().check_decoding()
        self._find_decoding_record()

    def _find_decoding_record(self) -> EngineRecord:
        """That of the engine NAME-decode beside the one that is open, or of the only one that fits.

        InputError where there is none to run here.
        """
        name = f"{self._record.name}-decode"
        try:
            record = choose_engine(
                self.folder,
                self._record.runtime,
                name if name in list_engines(self.folder) else None,
                self._machine,
                decode=True,
            )
            check_machine(record, self._machine)
        except (ArtifactError, RuntimeUnavailableError) as error:
            raise InputError("decoding", error.got, error.expected, error.fix) from error
        check_host_code(record, self._allows_host_code)
        return record

    def _start_decoding(self, num_hashes: int | None) -> DecodingState:
        with self._lock:
            if self._executor is None:
                raise InputError("decoding", "a closed model", "an open one", "load it again")
            if self._decoder is None:
                self._decoder_record, self._decoder = self._open_decoder()
            record, decoder = self._decoder_record, self._decoder
            check_num_hashes(record, self.manifest, num_hashes)
            longest = min(self.spec.max_length, record.longest)
            memory = DeviceCacheMemory(self._cuda)
            state = DecodingState(self.folder, decoder, memory, longest, self.read_prompt, self.spec)
            self._states.add(state)
            return state

    def _open_decoder(self) -> tuple[EngineRecord, EngineDecoder]:
        record = self._find_decoding_record()
        rounds = check_num_hashes(record, self.manifest, None)
        tensors = cache_tensors(self.spec, self.manifest.dtype, rounds)
        with contextlib.ExitStack() as stack:
            data = self._read_engine(record)
            self._cuda.activate()
            opened = self._open_engine(record, data)
            stack.callback(opened.close)
            opened.check_decode_signature(tensors)
            decoder = EngineDecoder(opened, self._cuda, tensors, self.spec.vocab_size)
            stack.pop_all()
            return record, decoder

    def _read_engine(self, record: EngineRecord) -> bytes:
        with log_phase(f"reading engine {record.name} and comparing it with its record"):
            return read_engine(self.folder, self.manifest, record)

    def _open_engine(self, record: EngineRecord, data: bytes) -> OpenedEngine:
        """Load an engine that fits this machine, whose file was compared with its record."""
        self._trt = self._trt or import_tensorrt(record.runtime)
        library = self._machine.library
        path = None if record.plugin.embedded or library is None else library.path
        log_fact("GPU", self._machine.gpu)
        log_fact("plugin library", path or "the engine's own")
        with log_phase(f"opening the engine with {record.runtime} {self._machine.runtime_version}"):
            opened = OpenedEngine(self._trt, record, data, path)
        with contextlib.ExitStack() as stack:
            stack.callback(opened.close)
            if record.flags.stripped:
                opened.refit(self.folder / record.model_name)
            stack.pop_all()
        return opened

    def abandon(self) -> None:
        self._is_abandoned = True
        self._release.detach()
        if self._decoder is not None:
            self._decoder.abandon()
        for thing in (self._executor, self._decoder):
            keep_for_good(thing)
        self._executor = self._decoder = None
        self._lock = threading.Lock()  # whoever held the other one is not in this process

    def close(self) -> None:
        """Release the engines and all their memory, after a request that is running; see `Runtime.close`."""
        with self._lock:
            self._executor = None
            self._release()
            decoder, self._decoder = self._decoder, None
            states = list(self._states)
        for state in states:
            state.close()
        if decoder is not None:
            decoder.close()
