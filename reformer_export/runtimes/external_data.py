"""External data of an .onnx file may lie in its own folder only; older ONNX Runtimes do not check that.

Read without a protobuf library, which a deployment does not have: a tensor's external data is a pair of
strings, "location" and the file's name (onnx.proto, TensorProto.external_data).
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final

from reformer_export.artifact import resolve_inside
from reformer_export.errors import ArtifactError

_KEY: Final = b"location"
_PAIR: Final = b"\x0a\x08location\x12"
"""Field 1, 8 bytes, "location"; then field 2, whose length and bytes follow (protobuf's wire format)."""

_MAX_LENGTH_BYTES: Final = 5


def check_external_data(model: Path) -> None:
    """ArtifactError when `model` names external data outside of its folder.

    Every occurrence of the word must be such a pair in its usual form, so that no unusual encoding of one
    slips through.
    """
    if model.stat().st_size == 0:
        return
    with model.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(_KEY)
        while at >= 0:
            start = at + len(_PAIR) - 2
            if data[at - 2 : start] != _PAIR:
                raise ArtifactError(
                    f"{model}: got the word 'location' outside of a plain external data entry, expected "
                    "entries as reformer-export writes them; export the checkpoint again"
                )
            resolve_inside(model.parent, _read_name(data[start : start + _MAX_LENGTH_BYTES + 4096]))
            at = data.find(_KEY, start)


def _read_name(data: bytes) -> str:
    """The length-delimited string at the start of `data`."""
    length, shift = 0, 0
    for index, byte in enumerate(data[:_MAX_LENGTH_BYTES]):
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return data[index + 1 : index + 1 + length].decode("utf-8", errors="replace")
    return ""
