"""A Hub on this machine, for unmodified clients: `with Hub() as hub: hub.commit("owner/name", {...})`.

Serves what `huggingface_hub` and `datasets` read of repositories: info, revisions, refs, trees, paths-info, and files
by `resolve` with HEAD, redirects and ranges. Commits have ids of their own, so that a pinned one keeps its files when
`main` moves on. Clients read HF_ENDPOINT when they are imported: give them `hub.environment(home)` in a process of
their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

KINDS = {"datasets": "dataset", "models": "model", "spaces": "space"}


@dataclass
class Repo:
    """Commits by id, each the files as they stood, and what the branches and tags point to."""

    kind: str
    name: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> str | None:
        """The commit of a branch, a tag or a commit id."""
        revision = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        return self.refs.get(revision, revision if revision in self.commits else None)


class Hub:
    """A server on a free port of the loopback address; `requests` logs (method, path) of every call."""

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit(self, name: str, files: Mapping[str, bytes] | Path, kind: str = "dataset", branch: str = "main") -> str:
        """Replace a branch's files by these, or by a folder's; returns the commit's id."""
        repo = self.repos.setdefault((kind, name), Repo(kind, name))
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p.read_bytes() for p in sorted(files.rglob("*")) if p.is_file()}
        digest = hashlib.sha1(f"{kind} {name} {len(repo.commits)}".encode())
        for path, content in files.items():
            digest.update(path.encode() + content)
        repo.commits[digest.hexdigest()] = dict(files)
        repo.refs[branch] = digest.hexdigest()
        return digest.hexdigest()

    def environment(self, home: Path) -> dict[str, str]:
        """What a client's process needs to talk to this Hub and to keep its cache in `home`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return {
            **kept,
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *values: object) -> None:
        """Nothing on stderr: `Hub.requests` is the log."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        parts = path.strip("/").split("/")
        if parts[0] == "api" and len(parts) >= 4 and parts[1] in KINDS:
            self._api(self._repo(KINDS[parts[1]], "/".join(parts[2:4])), parts[4:])
        elif "resolve" in parts:
            kind = KINDS.get(parts[0], "model")
            at = parts.index("resolve")
            self._resolve(self._repo(kind, "/".join(parts[at - 2 : at])), parts[at + 1], "/".join(parts[at + 2 :]))
        else:
            self._json({"error": f"GET {path} is not served"}, 404)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(("POST", path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        parts = path.strip("/").split("/")
        if len(parts) == 6 and parts[4] == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
            repo = self._repo(KINDS[parts[1]], "/".join(parts[2:4]))
            commit = repo and repo.at(parts[5])
            if not repo or not commit:
                return self._missing("RevisionNotFound")
            self._json([self._entry(p, repo.commits[commit][p]) for p in wanted if p in repo.commits[commit]])
        else:
            self._json({"error": f"POST {path} is not served"}, 404)

    def _repo(self, kind: str, name: str) -> Repo | None:
        return self.hub.repos.get((kind, name))

    def _api(self, repo: Repo | None, rest: list[str]) -> None:
        if repo is None:
            return self._missing("RepoNotFound")
        if rest[:1] == ["refs"]:
            branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in repo.refs.items()]
            return self._json({"branches": branches, "tags": [], "converts": []})
        commit = repo.at(rest[1] if len(rest) > 1 else "main")
        if commit is None:
            return self._missing("RevisionNotFound")
        files = repo.commits[commit]
        if rest[:1] == ["tree"]:
            return self._tree(files, "/".join(rest[2:]))
        siblings = [{"rfilename": path} for path in files]
        facts = {"id": repo.name, "sha": commit, "siblings": siblings, "private": False, "gated": False, "tags": []}
        self._json(
            {**facts, "downloads": 0, "likes": 0, "disabled": False, "lastModified": "2026-01-01T00:00:00.000Z"}
        )

    def _tree(self, files: Mapping[str, bytes], folder: str) -> None:
        query = parse_qs(urlsplit(self.path).query)
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        prefix = f"{folder}/" if folder else ""
        below = {path: content for path, content in files.items() if path.startswith(prefix)}
        if not below:
            return self._missing("EntryNotFound")
        entries, folders = [], set()
        for path, content in below.items():
            inner = path[len(prefix) :].split("/")
            folders.update(prefix + "/".join(inner[:depth]) for depth in range(1, len(inner)))
            if recursive or len(inner) == 1:
                entries.append(self._entry(path, content))
        shown = folders if recursive else {name for name in folders if "/" not in name[len(prefix) :]}
        oid = hashlib.sha1(prefix.encode()).hexdigest()
        self._json([{"type": "directory", "path": name, "size": 0, "oid": oid} for name in sorted(shown)] + entries)

    def _entry(self, path: str, content: bytes) -> dict[str, object]:
        return {"type": "file", "path": path, "size": len(content), "oid": _git_sha1(content)}

    def _resolve(self, repo: Repo | None, revision: str, path: str) -> None:
        if repo is None:
            return self._missing("RepoNotFound")
        commit = repo.at(revision)
        if commit is None:
            return self._missing("RevisionNotFound")
        content = repo.commits[commit].get(path)
        if content is None:
            return self._missing("EntryNotFound", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_git_sha1(content)}"', "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range")
        if wanted and wanted.startswith("bytes="):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first) if first else len(content) - int(last)
            stop = min(int(last) + 1 if first and last else len(content), len(content))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            return self._send(content[start:stop], 206, headers, "application/octet-stream")
        self._send(content, 200, headers, "application/octet-stream")

    def _missing(self, code: str, headers: Mapping[str, str] | None = None) -> None:
        self._send(b"{}", 404, {"X-Error-Code": code, **(headers or {})})

    def _json(self, content: object, status: int = 200) -> None:
        self._send(json.dumps(content).encode(), status, {})

    def _send(self, body: bytes, status: int, headers: Mapping[str, str], kind: str = "application/json") -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
