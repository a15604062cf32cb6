from __future__ import annotations

from pathlib import Path

import pytest

from reformer_export.errors import InputError
from reformer_export.serving.keys import KeyRing, read_keys
from reformer_export.serving.refusals import UnauthorizedError

KEY = "k" * 16


def test_no_file_means_no_keys() -> None:
    ring = read_keys(None)
    assert not ring
    ring.check("/metrics", None)


def test_any_of_the_keys_passes_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# first\n{KEY}\n\n  {KEY}2  \n")
    ring = read_keys(path)
    for given in (f"Bearer {KEY}", f"bearer  {KEY}2 "):
        ring.check("/metrics", given)
    for wrong in (None, "", "Bearer", "Bearer ", f"Bearer {KEY}3", f"Basic {KEY}", KEY, "Bearer # first"):
        with pytest.raises(UnauthorizedError) as refusal:
            ring.check("/metrics", wrong)
        assert refusal.value.headers == {"WWW-Authenticate": "Bearer"}
        assert KEY not in str(refusal.value)
    for path_without in ("/v2/health/live", "/v2/health/ready", "/"):
        ring.check(path_without, None)


@pytest.mark.parametrize(
    "content", [b"", b"# only\n", b"short\n", b"k" * 16 + b" k\n", b"\xff" * 20, b"k" * 70_000]
)
def test_a_file_that_is_no_list_of_keys(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(InputError, match="api_key_file"):
        read_keys(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^api_key_file: got .*none, which cannot be read \(No such file"):
        read_keys(tmp_path / "none")
    assert bool(KeyRing((KEY,)))
