"""A small Hub on this machine: the part of its HTTP protocol that `huggingface_hub` uses to fetch and send models.

Repositories are folders. A gated one shows its metadata to everybody and its files to those whose token is let in,
as the real one does; what is private, or not there, is not found. It takes uploads from the token that is let in, to
the owners that are that token's: large files by LFS, then one commit.
"""

from __future__ import annotations

import base64
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
_SENT = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)/(?P<what>preupload|commit)/main(?:\?.*)?")
_LFS = re.compile(r"/(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
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
    owners: set[str] = field(default_factory=set)  # in whose names the token may write
    home: Path | None = None  # where repositories are made
    private: set[str] = field(default_factory=set)
    commits: list[tuple[str, str]] = field(default_factory=list)  # repository, message
    commit: str = COMMIT
    blobs: dict[str, bytes] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)  # revisions that are not there any more
    failing: int = 0  # the status of every answer, where it has a trouble of its own

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
                if hub.failing:
                    return self._refuse(hub.failing, "Failing")
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
                return None

            def do_POST(self) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                self.let_in = bool(hub.token) and self.headers.get("Authorization") == f"Bearer {hub.token}"
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if hub.failing:
                    return self._refuse(hub.failing, "Failing")
                if self.path == "/api/validate-yaml":
                    return self._json({"errors": [], "warnings": []})
                if not self.let_in:
                    return self._refuse(401, "Unauthorized")
                if self.path == "/api/repos/create":
                    return self._create(json.loads(body))
                if found := _LFS.fullmatch(self.path):
                    return self._lfs(json.loads(body))
                if found := _SENT.fullmatch(self.path):
                    sent = self._preupload if found["what"] == "preupload" else self._commit
                    return sent(found["id"], body)
                return self._refuse(404, "EntryNotFound")

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub.blobs[hashlib.sha256(body).hexdigest()] = body
                self._send(200, b"", {"ETag": '"0"'})

            def _create(self, asked: dict[str, object]) -> None:
                name = f"{asked.get('organization') or next(iter(hub.owners), '')}/{asked['name']}"
                if name in hub.repositories:
                    return self._refuse(409, "RepoExists")
                if name.partition("/")[0] not in hub.owners:
                    return self._refuse(403, "Forbidden")
                assert hub.home is not None
                hub.repositories[name] = hub.home / name.replace("/", "--")
                hub.repositories[name].mkdir()
                if asked.get("private") or asked.get("visibility") == "private":
                    hub.private.add(name)
                return self._json({"url": f"{hub.endpoint}/{name}", "id": "1", "name": name})

            def _lfs(self, asked: dict[str, list[dict[str, object]]]) -> None:
                upload = {"upload": {"href": f"{hub.endpoint}/blob", "header": {}}}
                self._json({"objects": [{**one, "actions": upload} for one in asked["objects"]], "transfer": "basic"})

            def _preupload(self, name: str, body: bytes) -> None:
                if name.partition("/")[0] not in hub.owners:
                    return self._refuse(403, "Forbidden")
                modes = [
                    {
                        "path": one["path"],
                        "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for one in json.loads(body)["files"]
                ]
                return self._json({"files": modes})

            def _commit(self, name: str, body: bytes) -> None:
                lines = [json.loads(line) for line in body.splitlines()]
                for line in lines:
                    told = line["value"]
                    match line["key"]:
                        case "header":
                            hub.commits.append((name, told["summary"]))
                        case "file":
                            data = base64.b64decode(told["content"])
                            (hub.repositories[name] / told["path"]).write_bytes(data)
                        case "lfsFile":
                            (hub.repositories[name] / told["path"]).write_bytes(hub.blobs[told["oid"]])
                        case "deletedFile":
                            (hub.repositories[name] / told["path"]).unlink()
                self._json({"commitUrl": f"{hub.endpoint}/{name}/commit/{hub.commit}", "commitOid": hub.commit})

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
                if revision not in (None, "main", hub.commit, COMMIT) or revision in hub.gone:
                    return self._refuse(404, "RevisionNotFound")
                files = sorted(hub.repositories[name].iterdir())
                siblings = [{"rfilename": f.name, "size": f.stat().st_size, "blobId": _oid(f)} for f in files]
                gated = "manual" if name in hub.gated else False
                return self._json(
                    {"_id": "1", "id": name, "modelId": name, "sha": hub.commit, "siblings": siblings, "gated": gated,
                     "private": name in hub.private, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
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
                for key, value in (headers | {"X-Repo-Commit": hub.commit}).items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
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
