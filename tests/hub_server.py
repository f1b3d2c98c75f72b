"""A Hub on this machine, for unmodified clients: `with Hub() as hub: hub.commit("owner/name", {...})`.

Serves what huggingface_hub, datasets, transformers and sentence-transformers ask of repositories: files with ranges
and redirects to another origin, trees, commits, LFS uploads, branches, tags, pull requests, visibility, collections,
all behind tokens of different rights. Commits have ids of their own, so that a pinned one keeps its files when `main`
moves on. `hub.fail(...)` makes calls fail on demand. With a folder, everything outlives the process: `make hub`.

Clients read HF_ENDPOINT when they are imported: give them `hub.environment(home)` in a process of their own. Large
files go by LFS, or by Xet where the Hub has a folder for it. What passes here is necessary for the real Hub, not
sufficient: there is no scan for secrets, no quota, and cards are hardly validated.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import hub_xet
from hub_state import LFS_SUFFIXES, Blob, Commit, Repo, State, git_sha1, is_lfs, now

KINDS = {"datasets": "dataset", "models": "model", "spaces": "space"}
PREFIXES = {"dataset": "datasets/", "model": "", "space": "spaces/"}
MAIN = "refs/heads/main"
ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()


class Hub(State):
    """A server on the loopback address; `requests` logs (method, path) of every call.

    Args:
        folder: where repositories and files are kept; memory alone where None.
        port: 0 for a free one.
        xet: folder for Xet's chunks; without one, clients must have HF_HUB_DISABLE_XET=1.
    """

    def __init__(self, folder: Path | None = None, port: int = 0, xet: Path | None = None):
        super().__init__(folder)
        self.xet, self.xet_files = xet, {} if xet is None else hub_xet.files_of(xet)
        self.requests: list[tuple[str, str]] = []
        self.unverified: set[str] = set()  # LFS objects that arrived, but were not asked about yet
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"hub": self}))
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.cdn = f"http://localhost:{self.port}/cdn"  # another origin, as large files have on the real Hub

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """What a client's process needs to talk to this Hub and to keep its cache in `home`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return {
            **kept,
            **({"HF_TOKEN": token} if token else {}),
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "0" if self.xet else "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }


@dataclass
class Answer:
    """A response; `Refusal` is one that ends a call."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """A call that is answered with an error."""

    def __init__(self, status: int, message: str, code: str = "", **more: Any):
        headers = {"X-Error-Message": message.splitlines()[0]} | ({"X-Error-Code": code} if code else {})
        self.answer = Answer(json.dumps({"error": message, **more}).encode(), status, headers)
        super().__init__(message)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of ours; anything else is a fault of this file and is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


_Route = tuple[str, re.Pattern[str], Callable[["_Handler", dict[str, str]], Answer]]
ROUTES: list[_Route] = []
_PARTS = {"kind": "models|datasets|spaces", "repo": "[^/]+/[^/]+", "path": ".+", "prefix": "datasets/|spaces/|"}


def route(method: str, template: str) -> Callable[[Any], Any]:
    """Serve a path: `{repo}` stands for owner/name, `{path}` for anything, other names for one segment."""
    pattern = re.sub(r"{(\w+)}", lambda name: f"(?P<{name[1]}>{_PARTS.get(name[1], '[^/]+')})", template)

    def register(function: Any) -> Any:
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement of its head
    wbufsize = -1
    hub: Hub

    def log_message(self, *values: object) -> None:
        """Nothing on stderr: `Hub.requests` is the log."""

    def do_GET(self) -> None:
        """Every call comes by here."""
        self.raw = urlsplit(self.path).path
        path = unquote(self.raw)
        self.hub.requests.append((self.command, path))
        fault = self.hub.fault_of(self.command, path)
        if fault and fault.how == "stall":
            self.hub.closing.wait()
            self.close_connection = True
            return
        self.body = self._read_body()
        if fault and (fault.applied or fault.how in ("truncate", "corrupt")) or not fault:
            answer = self._answer()
        if fault and fault.how == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault and isinstance(fault.how, int):
            headers = {name.replace("_", "-"): value for name, value in fault.headers.items()}
            self._send(Answer(b'{"error": "on demand"}', fault.how, headers))
        else:
            self._send(answer, fault.how if fault else None)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self) -> Answer:
        method = "GET" if self.command == "HEAD" else self.command
        for of, pattern, function in ROUTES:
            match = pattern.fullmatch(self.raw) if of == method else None
            if match:
                try:
                    with self.hub.lock:
                        return function(self, {name: unquote(value) for name, value in match.groupdict().items()})
                except Refusal as refusal:
                    return refusal.answer
        code = "RepoNotFound" if re.match("/api/(models|datasets|spaces)/", self.raw) else "EntryNotFound"
        return Refusal(404, f"{self.command} {self.raw} is not served", code).answer

    def _send(self, answer: Answer, how: object = None) -> None:
        body = answer.body
        if how == "corrupt":
            body = bytes(byte ^ 1 for byte in body)
        self.send_response(answer.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if how == "truncate" else body)
        self.close_connection = self.close_connection or how == "truncate"

    # Who asks, and what for

    def user(self) -> tuple[str, str] | None:
        """Name and role of the token; a token that nobody has is refused."""
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if sent and sent not in self.hub.tokens:
            raise Refusal(401, "Invalid username or password.")
        return self.hub.tokens.get(sent)

    def may(self, namespace: str, right: Literal["read", "write"]) -> bool:
        """Whether the caller may read the private, or write, in a namespace."""
        name, role = self.user() or ("", "")
        member = self.hub.organisations.get(namespace, {namespace: "write"}).get(name)
        return bool(member) and (right == "read" or role == member == "write")

    def require(self, namespace: str) -> str:
        """The caller's name, who may write in a namespace."""
        user = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if not self.may(namespace, "write"):
            raise Refusal(403, f"You don't have the rights to write under the namespace {namespace!r}")
        return user[0]

    def repo(self, named: Mapping[str, str], write: bool = False) -> Repo:
        """The repository of a call; one that the caller may not see does not exist for him."""
        kind = KINDS[named["kind"]] if "kind" in named else KINDS.get(named["prefix"].rstrip("/"), "model")
        repo = self.hub.repos.get((kind, named["repo"]))
        owner = named["repo"].split("/")[0]
        if repo is None or (repo.private and not self.may(owner, "read")):
            raise Refusal(404 if self.user() else 401, "Repository not found", "RepoNotFound")
        if write:
            self.require(owner)
        return repo

    def commit_of(self, repo: Repo, revision: str) -> str:
        """The commit of a revision."""
        commit = repo.at(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def given(self) -> dict[str, Any]:
        """The JSON body."""
        return json.loads(self.body or b"{}")

    def query(self, name: str) -> str | None:
        """A parameter of the address."""
        return parse_qs(urlsplit(self.path).query).get(name, [None])[0]

    # Account and repositories

    @route("GET", "/api/whoami-v2")
    def whoami(self, named: dict[str, str]) -> Answer:
        user = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        organisations = [
            {"type": "org", "name": name, "roleInOrg": members[user[0]]}
            for name, members in self.hub.organisations.items()
            if user[0] in members
        ]
        token = {"displayName": "loopback", "role": user[1]}
        return _json({"type": "user", "name": user[0], "orgs": organisations, "auth": {"accessToken": token}})

    @route("POST", "/api/repos/create")
    def create_repo(self, named: dict[str, str]) -> Answer:
        given = self.given()
        kind, owner = given.get("type") or "model", given.get("organization") or (self.user() or ("",))[0]
        name = f"{owner}/{given['name']}"
        url = f"{self.hub.endpoint}/{PREFIXES[kind]}{name}"
        author = self.require(owner)
        if (kind, name) in self.hub.repos:
            raise Refusal(409, "You already created this model repo", url=url)
        repo = self.hub.repos[kind, name] = Repo(kind, name, given.get("visibility") == "private", given.get("sdk"))
        first = {".gitattributes": self.hub.store(ATTRIBUTES)}
        if kind == "space":  # the Hub starts it with a page of its own
            first |= {name: self.hub.store(b"A new Space") for name in ("README.md", "index.html", "style.css")}
        self.hub.add(repo, MAIN, Commit(first, "initial commit", author=author))
        return _json({"url": url, "name": name, "id": name})

    @route("DELETE", "/api/repos/delete")
    def delete_repo(self, named: dict[str, str]) -> Answer:
        given = self.given()
        named = {"repo": f"{given.get('organization') or (self.user() or ('',))[0]}/{given['name']}"}
        repo = self.repo({**named, "kind": f"{given.get('type') or 'model'}s"}, write=True)
        del self.hub.repos[repo.kind, repo.name]
        self.hub.save()
        return _json({})

    @route("PUT", "/api/{kind}/{repo}/settings")
    def settings(self, named: dict[str, str]) -> Answer:
        repo, given = self.repo(named, write=True), self.given()
        repo.private = given.get("visibility", "private" if repo.private else "public") == "private"
        self.hub.save()
        return _json({"private": repo.private})

    @route("GET", "/api/{kind}/{repo}/auth-check(?P<write>/write)?")
    def auth_check(self, named: dict[str, str]) -> Answer:
        self.repo({name: value for name, value in named.items() if name != "write"}, write="auth-check/w" in self.raw)
        return _json({})

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self, named: dict[str, str]) -> Answer:
        text = self.given()["content"]
        opened = text.startswith("---\n") and "\n---" not in text[3:]
        errors = [{"message": "the metadata block is not closed"}] if opened else []
        return Answer(json.dumps({"errors": errors, "warnings": []}).encode(), 400 if errors else 200)

    @route("GET", "/api/agent-harnesses")
    def harnesses(self, named: dict[str, str]) -> Answer:
        return _json({})

    # What a revision holds

    @route("GET", "/api/{kind}/{repo}")
    def info(self, named: dict[str, str]) -> Answer:
        return self.revision({**named, "revision": "main"})

    @route("GET", "/api/{kind}/{repo}/revision/{revision}")
    def revision(self, named: dict[str, str]) -> Answer:
        repo = self.repo(named)
        commit = self.commit_of(repo, named["revision"])
        files = repo.commits[commit].files
        siblings = [{"rfilename": path, "size": blob.size, "blobId": blob.git} for path, blob in files.items()]
        facts = {"id": repo.name, "author": repo.name.split("/")[0], "sha": commit, "siblings": siblings}
        facts |= {"private": repo.private, "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0}
        return _json({**facts, "lastModified": repo.commits[commit].date, "sdk": repo.sdk})

    @route("GET", "/api/{kind}/{repo}/tree/{revision}")
    def whole_tree(self, named: dict[str, str]) -> Answer:
        return self.tree({**named, "path": ""})

    @route("GET", "/api/{kind}/{repo}/tree/{revision}/{path}")
    def tree(self, named: dict[str, str]) -> Answer:
        repo = self.repo(named)
        files = repo.commits[self.commit_of(repo, named["revision"])].files
        prefix = f"{named['path']}/" if named["path"] else ""
        recursive = (self.query("recursive") or "").lower() in ("true", "1")
        below = {path: blob for path, blob in files.items() if path.startswith(prefix)}
        if prefix and not below:
            raise Refusal(404, f"{named['path']} does not exist", "EntryNotFound")
        entries, folders = [], set()
        for path, blob in below.items():
            inner = path[len(prefix) :].split("/")
            folders.update(prefix + "/".join(inner[:depth]) for depth in range(1, len(inner)))
            if recursive or len(inner) == 1:
                entries.append(blob.entry(path))
        shown = folders if recursive else {name for name in folders if "/" not in name[len(prefix) :]}
        oid = hashlib.sha1(prefix.encode()).hexdigest()
        return _json([{"type": "directory", "path": name, "size": 0, "oid": oid} for name in sorted(shown)] + entries)

    @route("POST", "/api/{kind}/{repo}/paths-info/{revision}")
    def paths_info(self, named: dict[str, str]) -> Answer:
        repo = self.repo(named)
        files = repo.commits[self.commit_of(repo, named["revision"])].files
        sent = self.body.decode()
        wanted = json.loads(sent)["paths"] if sent.startswith("{") else parse_qs(sent).get("paths", [])
        return _json([files[path].entry(path) for path in wanted if path in files])

    @route("GET", "/api/{kind}/{repo}/refs")
    def refs(self, named: dict[str, str]) -> Answer:
        refs = self.repo(named).refs

        def below(folder: str) -> list[dict[str, str]]:
            start = f"refs/{folder}/"
            chosen = {name: commit for name, commit in refs.items() if name.startswith(start)}
            return [{"name": n[len(start) :], "ref": n, "targetCommit": commit} for n, commit in chosen.items()]

        found = {"branches": below("heads"), "tags": below("tags"), "converts": []}
        return _json({**found, "pullRequests": below("pr")} if self.query("include_prs") else found)

    @route("GET", "/api/{kind}/{repo}/commits/{revision}")
    def commits(self, named: dict[str, str]) -> Answer:
        repo, listed = self.repo(named), []
        commit: str | None = self.commit_of(repo, named["revision"])
        while commit:
            one = repo.commits[commit]
            about = {"title": one.title, "message": one.description, "date": one.date}
            listed.append({"id": commit, **about, "authors": [{"user": one.author}]})
            commit = one.parent
        return _json(listed)

    @route("GET", "/{prefix}{repo}/resolve/{revision}/{path}")
    def resolve(self, named: dict[str, str]) -> Answer:
        repo = self.repo(named)
        commit = self.commit_of(repo, named["revision"])
        blob = repo.commits[commit].files.get(named["path"])
        headers = {"X-Repo-Commit": commit}
        if blob is None:
            missing = Refusal(404, "Entry not found", "EntryNotFound").answer
            return Answer(missing.body, 404, missing.headers | headers)
        if not blob.lfs:
            return self.ranged(blob, headers | {"ETag": f'"{blob.git}"'})
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
        if blob.sha256 in self.hub.xet_files:
            token = f"{self.hub.endpoint}/api/{repo.kind}s/{repo.name}/xet-read-token/{commit}"
            headers |= {"X-Xet-Hash": self.hub.xet_files[blob.sha256][0], "Link": f'<{token}>; rel="xet-auth"'}
        return Answer(b"", 302, headers | {"Location": f"{self.hub.cdn}/{blob.sha256}"})

    @route("GET", "/cdn/{sha256}")
    def cdn(self, named: dict[str, str]) -> Answer:
        blob = Blob(named["sha256"], "", len(self.hub.read(named["sha256"])))
        return self.ranged(blob, {"ETag": f'"{blob.sha256}"'})

    def ranged(self, blob: Blob, headers: dict[str, str]) -> Answer:
        """A file, or the bytes of it that were asked for."""
        content = self.hub.read(blob.sha256)
        headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        wanted = self.headers.get("Range", "")
        if not wanted.startswith("bytes="):
            return Answer(content, 200, headers)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start = int(first) if first else len(content) - int(last)
        stop = min(int(last) + 1 if first and last else len(content), len(content))
        return Answer(
            content[start:stop], 206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        )

    # Commits

    @route("POST", "/api/{kind}/{repo}/preupload/{revision}")
    def preupload(self, named: dict[str, str]) -> Answer:
        repo = self.repo(named, write=True)
        here = repo.commits[self.commit_of(repo, named["revision"])].files
        modes = []
        for file in self.given()["files"]:
            lfs, old = is_lfs(file["path"], file["size"]), here.get(file["path"])
            mode = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            modes.append(mode | ({"oid": old.sha256 if old.lfs else old.git} if old else {}))
        return _json({"files": modes})

    @route("POST", "/{prefix}{repo}\\.git/info/lfs/objects/batch")
    def lfs_batch(self, named: dict[str, str]) -> Answer:
        self.repo(named, write=True)
        objects = []
        for one in self.given()["objects"]:
            about = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] in self.hub.unverified or not self.hub.holds(one["oid"]):
                verify = {"href": f"{self.hub.endpoint}/{named['prefix']}{named['repo']}.git/info/lfs/verify"}
                about["actions"] = {"upload": {"href": f"{self.hub.cdn}/{one['oid']}"}, "verify": verify}
            objects.append(about)
        return _json({"transfer": "basic", "objects": objects})

    @route("PUT", "/cdn/{sha256}")
    def lfs_put(self, named: dict[str, str]) -> Answer:
        if hashlib.sha256(self.body).hexdigest() != named["sha256"]:
            raise Refusal(400, "the content is not what its name says")
        self.hub.store(self.body)
        self.hub.unverified.add(named["sha256"])
        return Answer()

    @route("POST", "/{prefix}{repo}\\.git/info/lfs/verify")
    def lfs_verify(self, named: dict[str, str]) -> Answer:
        self.repo(named, write=True)
        if not self.hub.holds(self.given()["oid"]):
            raise Refusal(404, "no such object")
        self.hub.unverified.discard(self.given()["oid"])
        return _json({})

    @route("POST", "/api/{kind}/{repo}/commit/{revision}")
    def commit(self, named: dict[str, str]) -> Answer:
        repo = self.repo(named, write=True)
        author = (self.user() or ("me",))[0]
        head = self.commit_of(repo, named["revision"])
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit", head) != head:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[head].files)
        for line in lines[1:]:
            self._change(files, line["key"], line["value"])
        commit = Commit(files, header["summary"], head, author, description=header.get("description", ""))
        url = f"{self.hub.endpoint}/{PREFIXES[repo.kind]}{repo.name}"
        answer = {"success": True, "hookOutput": ""}
        if self.query("create_pr"):
            number = self._open(repo, header["summary"], author, named["revision"], head)
            oid = self.hub.add(repo, f"refs/pr/{number}", commit)
            answer["pullRequestUrl"] = f"{url}/discussions/{number}"
        else:
            ref = repo.ref(named["revision"])
            if ref is None or ref.startswith("refs/tags/"):
                raise Refusal(400, f"{named['revision']} is no branch")
            oid = self.hub.add(repo, ref, commit)
        return _json(answer | {"commitOid": oid, "commitUrl": f"{url}/commit/{oid}"})

    def _change(self, files: dict[str, Blob], key: str, value: Mapping[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            files[path] = self.hub.store(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            self._fetch_by_xet(value["oid"])
            if not self.hub.holds(value["oid"]):
                raise Refusal(400, f"LFS pointer points to a file that does not exist: {path}")
            content = self.hub.read(value["oid"])
            files[path] = Blob(value["oid"], git_sha1(content), len(content), lfs=True)
        elif key in ("deletedFile", "deletedFolder"):
            gone = [name for name in files if name == path or (key == "deletedFolder" and name.startswith(path))]
            if not gone:
                raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]

    @route("GET", "/api/{kind}/{repo}/xet-(?P<way>write|read)-token/{revision}")
    def xet_token(self, named: dict[str, str]) -> Answer:
        way = named.pop("way")
        self.repo(named, write=way == "write")
        if self.hub.xet is None:
            raise Refusal(404, "this Hub has no folder for Xet")
        facts = {"casUrl": f"local://{self.hub.xet}", "exp": hub_xet.EXPIRES, "accessToken": "local"}
        names = {"casUrl": "X-Xet-Cas-Url", "exp": "X-Xet-Token-Expiration", "accessToken": "X-Xet-Access-Token"}
        answer = _json(facts)
        answer.headers = {names[name]: str(value) for name, value in facts.items()}
        return answer

    def _fetch_by_xet(self, sha256: str) -> None:
        """Take a content over that came by Xet."""
        if self.hub.xet is None or self.hub.holds(sha256):
            return
        self.hub.xet_files = hub_xet.files_of(self.hub.xet)
        if sha256 in self.hub.xet_files:
            self.hub.store(hub_xet.fetch(self.hub.xet, *self.hub.xet_files[sha256]))

    @route("POST", "/api/{kind}/{repo}/branch/{branch}")
    def create_branch(self, named: dict[str, str]) -> Answer:
        repo = self.repo(named, write=True)
        return self._point(repo, f"refs/heads/{named['branch']}", self.given().get("startingPoint") or "main")

    @route("POST", "/api/{kind}/{repo}/tag/{revision}")
    def create_tag(self, named: dict[str, str]) -> Answer:
        return self._point(self.repo(named, write=True), f"refs/tags/{self.given()['tag']}", named["revision"])

    def _point(self, repo: Repo, ref: str, revision: str) -> Answer:
        commit = self.commit_of(repo, revision)
        if ref in repo.refs:
            raise Refusal(409, f"Reference already exists: {ref}")
        repo.refs[ref] = commit
        self.hub.save()
        return _json({})

    @route("DELETE", "/api/{kind}/{repo}/(?P<of>branch|tag)/{name}")
    def delete_ref(self, named: dict[str, str]) -> Answer:
        repo = self.repo({name: value for name, value in named.items() if name not in ("of", "name")}, write=True)
        ref = f"refs/{'heads' if named['of'] == 'branch' else 'tags'}/{named['name']}"
        if repo.refs.pop(ref, None) is None:
            raise Refusal(404, f"no such reference: {ref}", "RevisionNotFound")
        self.hub.save()
        return _json({})

    # Pull requests

    def _open(self, repo: Repo, title: str, author: str, base: str, commit: str) -> int:
        number = len(repo.pulls) + 1
        about = {"num": number, "title": title, "author": {"name": author}, "createdAt": now(), "status": "open"}
        about |= {"isPullRequest": True, "repo": {"name": repo.name, "type": repo.kind}, "start": commit}
        repo.pulls.append(about | {"changes": {"base": f"refs/heads/{base}"}, "filesWithConflicts": [], "events": []})
        repo.refs[f"refs/pr/{number}"] = commit
        return number

    def _pull(self, repo: Repo, number: str) -> dict[str, Any]:
        if not number.isdigit() or not 1 <= int(number) <= len(repo.pulls):
            raise Refusal(404, f"no discussion {number}")
        return repo.pulls[int(number) - 1]

    @route("GET", "/api/{kind}/{repo}/discussions")
    def discussions(self, named: dict[str, str]) -> Answer:
        pulls = self.repo(named).pulls
        return _json({"discussions": pulls, "count": len(pulls), "start": 0})

    @route("POST", "/api/{kind}/{repo}/discussions")
    def open_discussion(self, named: dict[str, str]) -> Answer:
        repo = self.repo(named, write=True)
        number = self._open(repo, self.given()["title"], (self.user() or ("me",))[0], "main", repo.refs[MAIN])
        self.hub.save()
        return _json({"num": number})

    @route("GET", "/api/{kind}/{repo}/discussions/{number}")
    def discussion(self, named: dict[str, str]) -> Answer:
        return _json({**self._pull(self.repo(named), named["number"]), "diff": ""})

    @route("POST", "/api/{kind}/{repo}/discussions/{number}/merge")
    def merge(self, named: dict[str, str]) -> Answer:
        """Bring what the request changed onto main; files that changed on both sides are a conflict."""
        repo = self.repo(named, write=True)
        pull = self._pull(repo, named["number"])
        before = repo.commits[pull["start"]].files
        after, main = repo.files(f"refs/pr/{pull['num']}"), repo.files()
        changed = [path for path in before | after if before.get(path) != after.get(path)]
        if pull["status"] != "open" or any(
            main.get(path) not in (before.get(path), after.get(path)) for path in changed
        ):
            raise Refusal(409, "This pull request cannot be merged")
        merged = {path: blob for path, blob in main.items() if path not in changed}
        merged |= {path: after[path] for path in changed if path in after}
        pull["status"] = "merged"
        commit = Commit(merged, f"{pull['title']} (#{pull['num']})", repo.refs[MAIN])
        pull["changes"]["mergeCommitId"] = self.hub.add(repo, MAIN, commit)
        return _json({})

    @route("POST", "/api/{kind}/{repo}/discussions/{number}/status")
    def change_status(self, named: dict[str, str]) -> Answer:
        pull = self._pull(self.repo(named, write=True), named["number"])
        pull["status"] = self.given()["status"]
        self.hub.save()
        event = {"id": "0", "type": "status-change", "createdAt": now(), "data": {"status": pull["status"]}}
        return _json({"newStatus": event})

    # Collections

    @route("GET", "/api/collections")
    def list_collections(self, named: dict[str, str]) -> Answer:
        owner = self.query("owner")
        listed = [one for one in self.hub.collections.values() if owner in (None, one["owner"]["name"])]
        return _json([{name: value for name, value in one.items() if name != "position"} for one in listed])

    @route("POST", "/api/collections")
    def create_collection(self, named: dict[str, str]) -> Answer:
        given = self.given()
        self.require(given["namespace"])
        words = re.sub(r"\W+", "-", given["title"].lower()).strip("-")
        slug = f"{given['namespace']}/{words}-{hashlib.sha1(words.encode()).hexdigest()[:24]}"
        if slug in self.hub.collections:
            raise Refusal(409, "This collection exists", slug=slug)
        facts = {"slug": slug, "title": given["title"], "description": given.get("description"), "items": []}
        facts |= {"owner": {"name": given["namespace"]}, "lastUpdated": now(), "private": bool(given.get("private"))}
        self.hub.collections[slug] = facts | {"position": 0, "theme": "green", "upvotes": 0}
        self.hub.save()
        return _json(self.hub.collections[slug])

    def _collection(self, named: dict[str, str]) -> dict[str, Any]:
        facts = self.hub.collections.get(named["repo"])
        if facts is None or (facts["private"] and not self.may(facts["owner"]["name"], "read")):
            raise Refusal(404, "no such collection")
        return facts

    @route("GET", "/api/collections/{repo}")
    def collection(self, named: dict[str, str]) -> Answer:
        return _json(self._collection(named))

    @route("PATCH", "/api/collections/{repo}")
    def change_collection(self, named: dict[str, str]) -> Answer:
        facts = self._collection(named)
        self.require(facts["owner"]["name"])
        facts |= self.given()
        self.hub.save()
        return _json({"data": facts})

    @route("POST", "/api/collections/{repo}/items")
    def add_item(self, named: dict[str, str]) -> Answer:
        facts, item = self._collection(named), self.given()["item"]
        self.require(facts["owner"]["name"])
        if any((old["id"], old["type"]) == (item["id"], item["type"]) for old in facts["items"]):
            raise Refusal(409, "The item is there")
        if (item["type"], item["id"]) not in self.hub.repos:
            raise Refusal(404, "no such repository")
        position = len(facts["items"])
        facts["items"].append({"_id": f"{position:024x}", **item, "position": position})
        self.hub.save()
        return _json(facts)

    # Jobs, which are noted but not run

    @route("POST", "/api/jobs/{owner}")
    def run_job(self, named: dict[str, str]) -> Answer:
        self.require(named["owner"])
        self.hub.jobs.append(self.given())
        about = {"id": f"{len(self.hub.jobs):024x}", "status": {"stage": "SCHEDULING"}}
        about |= {"owner": {"id": "0", "name": named["owner"], "type": "user"}, "labels": self.given().get("labels")}
        return _json(about)


def _json(content: object) -> Answer:
    return Answer(json.dumps(content).encode())


def main() -> None:
    """Serve until interrupted, and say how to reach it."""
    parser = argparse.ArgumentParser(description="A Hub on this machine, to try publishing against.")
    parser.add_argument("--port", type=int, default=8765, help="0 for a free one")
    parser.add_argument("--folder", type=Path, default=None, help="where repositories are kept; default memory")
    options = parser.parse_args()
    with Hub(options.folder, options.port) as hub:
        print(f"A Hub for this machine alone{f', kept in {options.folder}' if options.folder else ''}. Elsewhere:\n")
        print(f"export HF_ENDPOINT={hub.endpoint} HF_TOKEN=hf_write HF_HUB_DISABLE_XET=1")
        print("export NO_PROXY=127.0.0.1,localhost\n")
        print("You are 'me'; hf_read may only read, hf_other is a stranger. Ctrl-C ends it.", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
