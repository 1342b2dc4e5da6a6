"""A small stand-in for the hub's HTTP interface: repositories with branches and commits, large files by SHA-256."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_stand_in"


class Hub(ThreadingHTTPServer):
    """Commits are dicts of path -> content; a branch is a name for one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, dict[str, str]] = {}  # repository -> branch -> commit
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repo: str, branch: str, files: dict[str, bytes]) -> str:
        former = self.branches[repo].get(branch, "")
        name = hashlib.sha1(repr((repo, former, sorted(files.items()))).encode()).hexdigest()
        self.commits[name] = files
        self.branches[repo][branch] = name
        return name

    def resolve(self, repo: str, revision: str) -> str | None:
        branches = self.branches.get(repo)
        if branches is None:
            return None
        return branches.get(revision) or (revision if revision in self.commits else None)


class Handler(BaseHTTPRequestHandler):
    """The requests that huggingface_hub makes to create, fill and read a model repository."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def answer(self, code: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def parts(self) -> list[str]:
        self.server.asked.append(f"{self.command} {self.path}")
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def do_PUT(self) -> None:
        content, oid = self.body(), self.parts()[-1]
        good = hashlib.sha256(content).hexdigest() == oid
        self.server.large |= {oid: content} if good else {}
        self.answer(200 if good else 400)

    def do_POST(self) -> None:
        parts, body, hub = self.parts(), self.body(), self.server
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            if repo in hub.branches:
                return self.answer(409, {"error": "exists", "url": f"{hub.url}/{repo}"})
            hub.branches[repo] = {}
            hub.commit(repo, "main", {".gitattributes": b"*.safetensors filter=lfs\n"})
            return self.answer(200, {"url": f"{hub.url}/{repo}"})
        if parts == ["api", "validate-yaml"]:
            return self.answer(200, {"errors": [], "warnings": []})
        if parts[2:] == ["info", "lfs", "objects", "batch"]:
            objects = json.loads(body)["objects"]
            for entry in objects:
                entry["actions"] = {"upload": {"href": f"{hub.url}/large/{entry['oid']}"}}
            return self.answer(
                200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json"
            )
        repo, action = "/".join(parts[2:4]), parts[4]
        if hub.resolve(repo, parts[5]) is None and action != "branch":
            return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if action == "preupload":
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                 "shouldIgnore": False, "oid": None}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            return self.answer(200, {"files": modes})
        if action == "branch":
            hub.branches[repo].setdefault(parts[5], hub.branches[repo]["main"])
            return self.answer(200, {})
        files = dict(hub.commits[hub.branches[repo][parts[5]]])  # a commit
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = hub.commit(repo, parts[5], files)
        return self.answer(200, {"commitUrl": f"{hub.url}/{repo}/commit/{oid}", "commitOid": oid, "success": True})

    def do_GET(self) -> None:
        parts, hub = self.parts(), self.server
        api = parts[0] == "api"
        repo = "/".join(parts[2:4] if api else parts[:2])
        revision = (parts[5] if len(parts) > 5 else "main") if api else parts[3]
        commit = hub.resolve(repo, revision)
        if commit is None:
            kind = "RevisionNotFound" if repo in hub.branches else "RepoNotFound"
            return self.answer(404, {"error": f"{kind}: {repo} {revision}"}, X_Error_Code=kind)
        files = hub.commits[commit]
        if api and parts[4:5] == ["tree"]:
            listed = [
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                | ({"lfs": {"oid": hashlib.sha256(c).hexdigest(), "size": len(c), "pointerSize": 130}}
                   if n.endswith(".safetensors") else {})
                for n, c in files.items()
            ]  # fmt: skip
            return self.answer(200, listed)
        if api:
            siblings = [{"rfilename": name} for name in files]
            return self.answer(200, {"id": repo, "sha": commit, "siblings": siblings, "tags": [], "private": False})
        name = "/".join(parts[4:])
        if name not in files:
            return self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        kind = hashlib.sha256 if name.endswith(".safetensors") else hashlib.sha1
        etag = kind(files[name]).hexdigest()
        return self.answer(200, files[name], ETag=f'"{etag}"', X_Repo_Commit=commit)

    do_HEAD = do_GET


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a free port of this machine."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
