"""A small Hub on this machine: the part of its HTTP protocol that `huggingface_hub` uses to fetch models.

Repositories are folders. A gated one shows its metadata to everybody and its files to those whose token is let in,
as the real one does; what is private, or not there, is not found.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_API = re.compile(r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+/[^/?]+)(?:/revision/(?P<revision>[^/?]+))?/?(?:\?.*)?")
_TREE = re.compile(r"/api/models/(?P<id>[^/]+/[^/?]+)/tree/(?P<revision>[^/?]+)/?(?:\?.*)?")
_FILE = re.compile(r"/(?P<id>[^/]+/[^/?]+)/resolve/(?P<revision>[^/]+)/(?P<file>[^?]+)(?:\?.*)?")


@dataclass
class Hub:
    """Its repositories, those that are gated, the token that is let in, and every request that came."""

    repositories: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = ""
    requests: list[str] = field(default_factory=list)
    authorised: list[str] = field(default_factory=list)  # requests that carried the token, in their header
    endpoint: str = ""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Not to the test's output."""

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                self.let_in = bool(hub.token) and self.headers.get("Authorization") == f"Bearer {hub.token}"
                if self.let_in:
                    hub.authorised.append(self.path)
                if found := _FILE.fullmatch(self.path):
                    self._file(found["id"], found["file"])
                elif found := _TREE.fullmatch(self.path):
                    self._tree(found["id"])
                elif (found := _API.fullmatch(self.path)) and found["kind"] == "models":
                    self._info(found["id"], found["revision"])
                else:
                    self._refuse(404, "RepoNotFound")

            def _tree(self, name: str) -> None:
                if name not in hub.repositories:
                    return self._refuse(404, "RepoNotFound")
                files = sorted(hub.repositories[name].iterdir())
                return self._json(
                    [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": _oid(f)} for f in files]
                )

            def _info(self, name: str, revision: str | None) -> None:
                if name not in hub.repositories:
                    return self._refuse(404, "RepoNotFound")
                if revision not in (None, "main", COMMIT):
                    return self._refuse(404, "RevisionNotFound")
                files = sorted(hub.repositories[name].iterdir())
                siblings = [{"rfilename": f.name, "size": f.stat().st_size, "blobId": _oid(f)} for f in files]
                gated = "manual" if name in hub.gated else False
                return self._json(
                    {"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "gated": gated,
                     "private": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
                )  # fmt: skip

            def _file(self, name: str, file: str) -> None:
                if name not in hub.repositories:
                    return self._refuse(404, "RepoNotFound")
                if name in hub.gated and not self.let_in:
                    return self._refuse(403 if "Authorization" in self.headers else 401, "GatedRepo")
                path = hub.repositories[name] / file
                if not path.is_file():
                    return self._refuse(404, "EntryNotFound")
                return self._send(200, path.read_bytes(), {"ETag": f'"{_oid(path)}"'})

            def _refuse(self, status: int, code: str) -> None:
                self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": f"{code} (said by the test's Hub)"})

            def _json(self, value: object) -> None:
                self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

            def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                for key, value in (headers | {"X-Repo-Commit": COMMIT}).items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

        return Handler


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Answer at `hub.endpoint` for as long as the context lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub.handler())
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
