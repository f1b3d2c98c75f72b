"""What the loopback Hub holds: repositories with their commits, contents by their hashes, collections, faults."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

LFS_SUFFIXES = (".safetensors", ".parquet", ".gz", ".bin", ".pt", ".npy", ".zip", ".arrow")
REGULAR_LIMIT = 10 * 2**20  # bytes of a file that is kept outside LFS
# token -> user, and what the token may do
TOKENS = {"hf_write": ("me", "write"), "hf_read": ("me", "read"), "hf_other": ("them", "write")}


@dataclass(frozen=True)
class Blob:
    """A file's content by its hashes; `lfs` says on which way it came."""

    sha256: str
    git: str
    size: int
    lfs: bool = False

    def entry(self, path: str) -> dict[str, Any]:
        """As trees and paths-info tell of it."""
        if not self.lfs:
            return {"type": "file", "path": path, "size": self.size, "oid": self.git}
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()
        lfs = {"oid": self.sha256, "size": self.size, "pointerSize": len(pointer)}
        return {"type": "file", "path": path, "size": self.size, "oid": git_sha1(pointer), "lfs": lfs}


@dataclass
class Commit:
    """The files as they stood, and the commit before."""

    files: dict[str, Blob]
    title: str = "commit"
    parent: str | None = None
    author: str = "me"
    date: str = field(default_factory=lambda: now())
    description: str = ""


@dataclass
class Repo:
    """Commits by id, and what branches, tags and pull requests point to."""

    kind: str
    name: str
    private: bool = False
    sdk: str | None = None
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pulls: list[dict[str, Any]] = field(default_factory=list)

    def ref(self, revision: str) -> str | None:
        """The full name of a branch, a tag or a pull request."""
        names = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        return next((name for name in names if name in self.refs), None)

    def at(self, revision: str) -> str | None:
        """The commit of a branch, a tag, a pull request or a commit id."""
        name = self.ref(revision)
        return self.refs[name] if name else revision if revision in self.commits else None

    def files(self, revision: str = "main") -> dict[str, Blob]:
        """What a revision holds; nothing where it does not exist."""
        commit = self.at(revision)
        return self.commits[commit].files if commit else {}


@dataclass
class Fault:
    """What goes wrong with calls whose method and path match, `times` times.

    how: a status to answer instead of doing anything, or
        stall: no answer, ever;
        drop: the connection ends without an answer;
        truncate, corrupt: half of the body, or a body of the same size with other bytes.
    applied: do what was asked before a status or drop.
    """

    method: str
    path: re.Pattern[str]
    how: int | Literal["stall", "drop", "truncate", "corrupt"]
    times: float = 1
    applied: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class State:
    """Everything but the serving; in memory, or in a folder that outlives the process.

    Attributes:
        repos: by kind and name.
        collections: by slug, as the Hub tells of them.
        jobs: what was asked to run, as it came.
        tokens: user and role of each.
        organisations: the roles of their members.
        faults: what goes wrong next.
    """

    def __init__(self, folder: Path | None = None):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.jobs: list[dict[str, Any]] = []
        self.tokens: dict[str, tuple[str, str]] = dict(TOKENS)
        self.organisations: dict[str, dict[str, str]] = {"lab": {"me": "write"}, "guests": {"me": "read"}}
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self._blobs: dict[str, bytes] = {}
        self._serial = 0
        self._folder = folder
        if folder and (folder / "state.json").exists():
            self._load(json.loads((folder / "state.json").read_text(encoding="utf-8")))

    def commit(self, name: str, files: Mapping[str, bytes] | Path, kind: str = "dataset", branch: str = "main") -> str:
        """Replace a branch's files by these, or by a folder's; returns the commit's id. A new repository is public."""
        with self.lock:
            repo = self.repos.setdefault((kind, name), Repo(kind, name))
            if isinstance(files, Path):
                found = sorted(path for path in files.rglob("*") if path.is_file())
                files = {path.relative_to(files).as_posix(): path.read_bytes() for path in found}
            blobs = {path: self.store(content, is_lfs(path, len(content))) for path, content in files.items()}
            return self.add(repo, f"refs/heads/{branch}", Commit(blobs, parent=repo.at(branch)))

    def add(self, repo: Repo, ref: str, commit: Commit) -> str:
        """Let a ref point to a new commit; returns its id, which no other commit ever had."""
        self._serial += 1
        digest = hashlib.sha1(f"{repo.kind} {repo.name} {self._serial} {commit.date}".encode())
        for path, blob in commit.files.items():
            digest.update(f"{path} {blob.sha256}".encode())
        repo.commits[digest.hexdigest()] = commit
        repo.refs[ref] = digest.hexdigest()
        self.save()
        return digest.hexdigest()

    def content(self, name: str, kind: str = "model", revision: str = "main") -> dict[str, bytes]:
        """The files of a revision, without what the Hub itself put there; none where there is no such thing."""
        repo = self.repos.get((kind, name), Repo(kind, name))
        return {
            path: self.read(blob.sha256) for path, blob in repo.files(revision).items() if path != ".gitattributes"
        }

    def fail(self, call: str, how: Any, times: float = 1, applied: bool = False, **headers: str) -> Fault:
        """Let calls like "POST /api/models/.*/commit/main" fail; see `Fault`. A path matches as a whole."""
        method, path = call.split(" ", 1)
        fault = Fault(method, re.compile(path), how, times, applied, headers)
        self.faults.append(fault)
        return fault

    def fault_of(self, method: str, path: str) -> Fault | None:
        """The fault that hits a call, counted down."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and fault.path.fullmatch(path):
                    fault.times -= 1
                    return fault
        return None

    def store(self, content: bytes, lfs: bool = False) -> Blob:
        """Keep a content."""
        blob = Blob(hashlib.sha256(content).hexdigest(), git_sha1(content), len(content), lfs)
        if self._folder:
            path = self._folder / "blobs" / blob.sha256
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, content)
        else:
            self._blobs[blob.sha256] = content
        return blob

    def holds(self, sha256: str) -> bool:
        """Whether a content is here."""
        return (self._folder / "blobs" / sha256).exists() if self._folder else sha256 in self._blobs

    def read(self, sha256: str) -> bytes:
        """A content by its hash."""
        return (self._folder / "blobs" / sha256).read_bytes() if self._folder else self._blobs[sha256]

    def save(self) -> None:
        """Write the state, where there is a folder for it."""
        if self._folder:
            repos = [asdict(repo) for repo in self.repos.values()]
            state = {"serial": self._serial, "repos": repos, "collections": self.collections}
            self._folder.mkdir(parents=True, exist_ok=True)
            replace(self._folder / "state.json", json.dumps(state, indent=1).encode())

    def _load(self, state: Mapping[str, Any]) -> None:
        self._serial, self.collections = state["serial"], state["collections"]
        for facts in state["repos"]:
            for commit_id, one in facts["commits"].items():
                files = {path: Blob(**blob) for path, blob in one["files"].items()}
                facts["commits"][commit_id] = Commit(**{**one, "files": files})
            self.repos[facts["kind"], facts["name"]] = Repo(**facts)


def git_sha1(content: bytes) -> str:
    """The name that git gives a content."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def is_lfs(path: str, size: int) -> bool:
    """Whether a file goes by LFS."""
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > REGULAR_LIMIT)


def now() -> str:
    """The time as the Hub writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def replace(path: Path, content: bytes) -> None:
    """Write a whole file or nothing."""
    writing = path.with_name(f"{path.name}.{threading.get_ident()}.writing")
    writing.write_bytes(content)
    os.replace(writing, path)
