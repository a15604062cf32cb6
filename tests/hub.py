"""The Hugging Face hub, as far as tests need it: its cache's layout, and a server with one repository."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"


def write_hub_cache(folder: Path, cache: Path, name: str = "me/my-artifact") -> Path:
    """Lay `folder` out in `cache` as the hub's client does; the snapshot's folder."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    for path in (repository / "blobs", repository / "refs", snapshot):
        path.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for file in folder.rglob("*"):
        if file.is_file():
            blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
            link = snapshot / file.relative_to(folder)
            link.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, blob)
            link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


@contextmanager
def serve_repository(folder: Path, name: str = "me/my-artifact") -> Iterator[tuple[str, list[str]]]:
    """A hub with `folder` as the repository `name`: its address, and the paths that were asked for."""
    asked: list[str] = []
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def log_message(self, *_arguments: object) -> None:
            pass

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            asked.append(path)
            found = files.get(path.removeprefix(f"{name}/resolve/{COMMIT}/"))
            if path.startswith(f"api/models/{name}/revision/"):
                siblings = [{"rfilename": file} for file in files]
                self._send(json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())
            elif path.startswith(f"api/models/{name}/tree/"):
                tree = [
                    {"type": "file", "path": file, "size": source.stat().st_size, "oid": "0" * 40}
                    for file, source in files.items()
                ]
                self._send(json.dumps(tree).encode())
            elif found is not None:
                self._send(found.read_bytes(), {"ETag": hashlib.sha256(found.read_bytes()).hexdigest()})
            else:
                self._send(b"{}", {"X-Error-Code": "RepoNotFound"}, 404)

        def _send(self, content: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", COMMIT)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
