"""A server that speaks the Hub's protocol over HTTP, as far as `huggingface_hub` needs it here.

It stands in for huggingface.co: repositories with commits, files by content, the upload of large
files (Git LFS), tokens and rights. Left out are Xet (the client is told not to use it), pull
requests, branches and all that the Hub shows to people.
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
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

WRITE, READ = "hf_canarywritetoken", "hf_canaryreadtoken"
_LFS = (".safetensors", ".parquet", ".png")


@dataclass
class Commit:
    """What a repository holds at a time: content by path."""

    id: str
    files: dict[str, bytes]


@dataclass
class Hub:
    """The server's state, which tests look at.

    Attributes:
        repos: Commits of each repository, by `models/owner/name` or `datasets/owner/name`.
        private: Those that only a token may read.
        sent: Bytes of files that were uploaded, in either way.
        collections: Title, whether private, and items (type, id) of each, by its address.
        fail_after: After so many uploads of large files the server refuses them; None: never.
        cut_after: After so many the connection breaks in the middle, as do all others; None: never.
    """

    url: str = ""
    repos: dict[str, list[Commit]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)
    collections: dict[str, tuple[str, bool, list[tuple[str, str]]]] = field(default_factory=dict)
    sent: int = 0
    fail_after: int | None = None
    cut_after: int | None = None

    def files(self, repo: str) -> dict[str, bytes]:
        """The newest files of a repository."""
        return self.repos[repo][-1].files

    def put(self, repo: str, files: dict[str, bytes]) -> None:
        """A commit that somebody else made."""
        commits = self.repos.setdefault(repo, [Commit("0" * 40, {})])
        commits.append(Commit(hashlib.sha1(repr(files).encode()).hexdigest(), files))


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: Any = b"", **headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def _refuse(self, status: int, message: str, code: str = "") -> None:
        more = {"X_Error_Code": code} if code else {}
        self._answer(status, {"error": message}, X_Error_Message=message, **more)

    @property
    def _token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _repo(self, key: str) -> list[Commit] | None:
        """The repository's commits; None: it was refused."""
        known = self.hub.repos.get(key)
        if known is None or (key in self.hub.private and not self._token):
            self._refuse(404 if self._token else 401, "Repository not found", "RepoNotFound")
            return None
        return known

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self._token not in ("", READ, WRITE):
            return self._refuse(401, "Invalid credentials in Authorization header")
        path = unquote(urlsplit(self.path).path)
        if path == "/api/whoami-v2":
            if not self._token:
                return self._refuse(401, "Unauthorized")
            role = "write" if self._token == WRITE else "read"
            about = {"displayName": "test", "role": role}
            auth = {"type": "access_token", "accessToken": about}
            return self._answer(200, {"type": "user", "name": "lab", "auth": auth})
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            if (commits := self._repo(f"{found[1]}/{found[2]}")) is not None:
                files = commits[-1].files
                names = [{"rfilename": n, "size": len(b)} for n, b in files.items()]
                self._answer(200, {"id": found[2], "sha": commits[-1].id, "siblings": names})
            return None
        if found := re.fullmatch(r"/api/collections/([^/]+/[^/]+)", path):
            return self._collection(found[1])
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            commits = self._repo(f"{'datasets' if found[1] else 'models'}/{found[2]}")
            if commits is None:
                return None
            commit = next(c for c in commits if c.id == found[3])
            if found[4] not in commit.files:
                return self._refuse(404, "Entry not found", "EntryNotFound")
            raw = commit.files[found[4]]
            etag = f'"{hashlib.sha256(raw).hexdigest()}"'
            return self._answer(200, raw, ETag=etag, X_Repo_Commit=commit.id)
        return self._refuse(404, "Not found")

    def parse_request(self) -> bool:
        if self.hub.cut_after == 0:
            self.connection.close()
            self.close_connection = True
            return False
        return super().parse_request()

    def do_PUT(self) -> None:
        if self.hub.cut_after is not None:
            self.hub.cut_after -= 1
        if self.hub.cut_after == 0:
            self.rfile.read(10)
            self.connection.close()
            self.close_connection = True
            return None
        raw = self._body()
        if self.hub.fail_after is not None:
            if self.hub.fail_after == 0:
                return self._refuse(403, "the connection to the storage is gone")
            self.hub.fail_after -= 1
        self.hub.sent += len(raw)
        self.hub.objects[hashlib.sha256(raw).hexdigest()] = raw
        return self._answer(200)

    def do_POST(self) -> None:
        raw, path = self._body(), unquote(urlsplit(self.path).path)
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if not self._token:
            return self._refuse(401, "Unauthorized")
        if self._token != WRITE:
            return self._refuse(403, "You have read access only")
        if path == "/api/repos/create":
            return self._create(json.loads(raw))
        if path == "/api/collections":
            return self._gather(json.loads(raw))
        if found := re.fullmatch(r"/api/collections/([^/]+/[^/]+)/items", path):
            return self._item(found[1], json.loads(raw)["item"])
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self._batch(json.loads(raw))
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/(\w+)/main", path):
            if (commits := self._repo(f"{found[1]}/{found[2]}")) is None:
                return None
            if found[3] == "preupload":
                return self._preupload(json.loads(raw), commits[-1].files)
            return self._commit(raw, commits, f"{found[1]}/{found[2]}".removeprefix("models/"))
        return self._refuse(404, "Not found")

    def _create(self, wanted: dict[str, Any]) -> None:
        owner = wanted.get("organization") or "lab"
        if owner == "taken":
            return self._refuse(409, "You already created this repository")
        key = f"{wanted.get('type') or 'model'}s/{owner}/{wanted['name']}"
        self.hub.repos[key] = [Commit("0" * 40, {".gitattributes": b"*"})]
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.hub.private.add(key)
        return self._answer(200, {"url": f"{self.hub.url}/{key}"})

    def _gather(self, wanted: dict[str, Any]) -> None:
        name = re.sub(r"\W+", "-", wanted["title"].lower())
        slug = f"{wanted['namespace']}/{name}-{hashlib.sha1(name.encode()).hexdigest()[:24]}"
        if wanted["namespace"] == "taken":
            return self._refuse(403, "You may not write there")
        if slug in self.hub.collections:
            return self._answer(409, {"error": "There is one of this title", "slug": slug})
        self.hub.collections[slug] = (wanted["title"], bool(wanted.get("private")), [])
        return self._collection(slug)

    def _collection(self, slug: str) -> None:
        if slug not in self.hub.collections:
            return self._refuse(404, "Collection not found")
        title, private, items = self.hub.collections[slug]
        told = [
            {"_id": f"{place:024x}", "id": name, "type": kind, "position": place}
            for place, (kind, name) in enumerate(items)
        ]
        found = {"slug": slug, "title": title, "private": private, "items": told}
        more = {"owner": {"name": slug.partition("/")[0]}, "theme": "green", "upvotes": 0}
        when = {"position": 0, "lastUpdated": "2026-01-01T00:00:00.000Z"}
        return self._answer(200, found | more | when)

    def _item(self, slug: str, item: dict[str, str]) -> None:
        if slug not in self.hub.collections:
            return self._refuse(404, "Collection not found")
        items = self.hub.collections[slug][2]
        if (item["type"], item["id"]) in items:
            return self._refuse(409, "Already in the collection")
        items.append((item["type"], item["id"]))
        return self._collection(slug)

    def _preupload(self, wanted: dict[str, Any], there: dict[str, bytes]) -> None:
        told = []
        for each in wanted["files"]:
            large = each["path"].endswith(_LFS)
            raw = there.get(each["path"])
            oid = None
            if raw is not None:
                blob = b"blob %d\0%s" % (len(raw), raw)
                oid = (hashlib.sha256(raw) if large else hashlib.sha1(blob)).hexdigest()
            mode = "lfs" if large else "regular"
            told.append(
                {"path": each["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}
            )
        self._answer(200, {"files": told})

    def _batch(self, wanted: dict[str, Any]) -> None:
        told = []
        for each in wanted["objects"]:
            href = {"upload": {"href": f"{self.hub.url}/objects/{each['oid']}"}}
            actions = {} if each["oid"] in self.hub.objects else {"actions": href}
            told.append({"oid": each["oid"], "size": each["size"], **actions})
        self._answer(200, {"transfer": "basic", "objects": told})

    def _commit(self, raw: bytes, commits: list[Commit], at: str) -> None:
        files = dict(commits[-1].files)
        for line in raw.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                self.hub.sent += len(files[value["path"]])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        commits.append(Commit(hashlib.sha1(raw).hexdigest(), files))
        made = commits[-1].id
        url = f"{self.hub.url}/{at}/commit/{made}"
        self._answer(200, {"commitUrl": url, "commitOid": made})


@contextmanager
def serving(address: str = "127.0.0.1") -> Iterator[Hub]:
    """A Hub at an address of this machine."""
    state = Hub()
    handler = type("Handler", (_Handler,), {"hub": state})
    server = ThreadingHTTPServer((address, 0), handler)
    state.url = f"http://{address}:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on loopback, which the client of this process talks to with a token that may write."""
    import huggingface_hub
    from huggingface_hub import constants

    with serving() as state:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_ENDPOINT", state.url)
        monkeypatch.setenv("HF_TOKEN", WRITE)
        huggingface_hub.close_session()
        yield state
    huggingface_hub.close_session()
