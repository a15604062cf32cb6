"""Where the outputs of a run shall be, and in which type."""

from __future__ import annotations

from dataclasses import dataclass

from reformer_export.errors import InputError
from reformer_export.runtimes.options import Device
from reformer_export.spec import DType


@dataclass(frozen=True)
class Where:
    """Where the outputs of a run shall be, and in which type."""

    device: Device = "cpu"
    dtype: DType = "float32"


def check_place(where: Where, device: Device, dtype: DType) -> None:
    """InputError unless a model on `device`, whose outputs are `dtype`, can put its outputs there."""
    devices, dtypes = tuple(dict.fromkeys(("cpu", device))), tuple(dict.fromkeys(("float32", dtype)))
    if where.device not in devices:
        expected = f"{' or '.join(devices)} from this runtime here"
        fix = 'leave it out, or open the model in ONNX Runtime with `provider="cuda"`'
        raise InputError("device", repr(where.device), expected, fix)
    if where.dtype not in dtypes:
        fix = "leave it out for float32"
        raise InputError("dtype", repr(where.dtype), f"{' or '.join(dtypes)} from this runtime here", fix)
    if where.dtype == "bfloat16" and where.device == "cpu":
        fix = 'leave it out for float32, or use `device="cuda"`'
        raise InputError("dtype", "bfloat16 on the host", "a type that numpy has", fix)
