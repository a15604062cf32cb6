"""A GPU's own context in NVIDIA's driver, which ONNX Runtime works in too."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

from reformer_export.libraries.gpus import DRIVER


class DriverError(Exception):
    """What the driver refused, by its error's number."""


class DriverContext:
    """The context of the GPU `device_id`, made if it is not there yet.

    `driver`: the library whose functions are called, within `current` where they need the context.
    """

    def __init__(self, device_id: int = 0, driver: Any = None) -> None:
        """`driver`: None for NVIDIA's.

        Raises:
            OSError: there is no driver.
            AttributeError: it lacks a function.
            DriverError: it does not start.
        """
        self.driver = ctypes.CDLL(DRIVER) if driver is None else driver
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self.check(self.driver.cuInit(0))
        self.check(self.driver.cuDeviceGet(ctypes.byref(device), device_id))
        self.check(self.driver.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), device))

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """A block in which the GPU's context is this thread's; DriverError where the driver refuses."""
        self.check(self.driver.cuCtxPushCurrent_v2(self._context))
        try:
            yield
        finally:
            self.driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def check(self, status: int) -> None:
        """DriverError unless the status that a call gave is that of success."""
        if status != 0:
            raise DriverError(f"error {status} of NVIDIA's driver")
