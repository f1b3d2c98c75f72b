"""Publishing as a transaction: a prepared folder becomes the Hub's main branch as a whole, or main stays as it was."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar

from ..files import sha256_file
from ..records import InputError

MARK = "r2anker_hf:"  # how the titles of our commits begin: whose repository it is, and what it holds
HUBS_OWN = {".gitattributes"}  # files that the Hub keeps by itself
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses of a call that may succeed later
_VERSION = re.compile(r"v?(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)")
_SHOWN = 3  # paths that an error names
_T = TypeVar("_T")


class PublishingError(InputError):
    """Nothing, or not everything, was published; main is entirely the old one or entirely the new one."""


class LocalFile(NamedTuple):
    """A file to publish by its size in bytes and its hashes: the content's, and that of a git blob of it."""

    bytes: int
    sha256: str
    git_sha1: str


@dataclass(frozen=True)
class Limits:
    """How long to wait for the Hub, in seconds.

    Attributes:
        timeout: for a connection, and for each next piece of an answer.
        deadline: for the whole publication; calls that run then are waited for, no new one is made.
        attempts: how often a call is made that fails for reasons that pass (no connection, 429, 5xx).
        first_wait: before the second attempt; doubled with each.
        longest_wait: between two attempts, unless the Hub asks for more.
    """

    timeout: float = 60.0
    deadline: float = 4 * 3600.0
    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0


@dataclass(frozen=True)
class Receipt:
    """What stands on the Hub after publishing.

    Attributes:
        repo_id: owner/name.
        repo_type: model, dataset or space.
        kind: what it holds, such as ranker.
        version: the tag.
        commit: the tag's commit.
        private: who may read it.
        url: the page of the commit.
        new: False where everything stood there before.
        files: path to `bytes` and `sha256`.
    """

    repo_id: str
    repo_type: str
    kind: str
    version: str
    commit: str
    private: bool
    url: str
    new: bool
    files: Mapping[str, Mapping[str, Any]]

    def write(self, path: str | os.PathLike) -> None:
        """As JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def local_files(folder: str | os.PathLike) -> dict[str, LocalFile]:
    """Every file of a folder by its path in the repository, sorted.

    Raises:
        PublishingError: no such folder, nothing in it, or a link: its target might be anything.
    """
    folder = Path(folder)
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise PublishingError(f"{path}: is a link; only files are published")
        if path.is_file():
            size = path.stat().st_size
            found[path.relative_to(folder).as_posix()] = LocalFile(size, sha256_file(path), _git_sha1(path, size))
    if not found:
        raise PublishingError(f"{folder}: holds nothing to publish")
    return found


def version_tag(version: str) -> str:
    """The tag of a version.

    Raises:
        PublishingError: not of the form 1.2.3.

    >>> version_tag("1.2.3")
    'v1.2.3'
    """
    match = _VERSION.fullmatch(version)
    if not match:
        raise PublishingError(f"version {version!r} is not of the form 1.2.3")
    return f"v{match[1]}"


def publish(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    kind: str,
    repo_type: str = "model",
    version: str = "1.0.0",
    private: bool = True,
    checks: Callable[[Path], None] | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    limits: Limits | None = None,
) -> Receipt:
    """Publish every file of a folder, and nothing else, under a version's tag.

    1. Refused early: no token, one that may not write there, a repository of other content, a public one where a
       private one was asked for, a version that is taken by other files.
    2. The files go in one commit to a branch of their own. A new repository is private until the end.
    3. That commit is downloaded into an empty cache, every file's sha256 compared, and `checks` called with it.
    4. One commit brings the same contents to main, on condition that main did not move since 1; then come the tag, and
       last the visibility.

    Files that main holds and the folder lacks are deleted by the same commit. When an answer is lost, the repository
    is read and compared with the folder, and only what is missing is done again. So it is after a kill: the same call
    goes on. Where everything is published already, nothing is sent.

    Args:
        folder: what is in it is published as it lies.
        repo_id: owner/name.
        kind: ranker, negatives, retriever; a repository never changes its kind.
        repo_type: model, dataset or space (a static one).
        version: 1.2.3, tagged v1.2.3. A tag is never moved.
        private: True refuses a public repository; False makes a private one public at the end.
        checks: of a folder of what was downloaded, such as loading it and scoring; raises what should stop all.
        token: of the Hub; default HF_TOKEN or who is logged in.
        endpoint: of the Hub; default HF_ENDPOINT or huggingface.co.
        limits: timeouts and attempts.

    Raises:
        PublishingError: one line that says what was refused or did not answer. Main is the old or the new one, whole.
    """
    tag, files = version_tag(version), local_files(folder)
    with _timeouts((limits or Limits()).timeout):
        calls = _Calls(repo_id, repo_type, token, endpoint, limits or Limits())
        publication = _Publication(calls, Path(folder), files, kind, tag)
        return publication.run(private, checks)


def check_rights(repo_id: str, repo_type: str = "model", *, limits: Limits | None = None) -> None:
    """Refuse early what `publish` would refuse after hours of work: no token, or one that may not write there.

    Args:
        repo_id: owner/name of the repository to be.
        repo_type: model, dataset or space.
        limits: timeouts and attempts.

    Raises:
        PublishingError: whose token it is, and what it lacks.
    """
    limits = limits or Limits()
    with _timeouts(limits.timeout):
        _Calls(repo_id, repo_type, None, None, limits).check_rights()


def link(
    title: str,
    repos: Sequence[tuple[str, str]],
    *,
    private: bool = True,
    token: str | None = None,
    endpoint: str | None = None,
    limits: Limits | None = None,
) -> str:
    """Put repositories into the collection of that title, made where it is missing; returns its address.

    Args:
        title: of the collection, in the namespace of the first repository.
        repos: (owner/name, type) of each; those that stand in it already are left.
        private: of a new collection.
        token: as in `publish`, like the rest.
        endpoint: likewise.
        limits: likewise.

    Raises:
        PublishingError: the Hub refused, or did not answer.
    """
    limits, namespace = limits or Limits(), repos[0][0].split("/")[0]
    with _timeouts(limits.timeout):
        calls = _Calls(*repos[0], token, endpoint, limits)

        def slug() -> str | None:
            owned = calls.api.list_collections(owner=namespace)
            return next((one.slug for one in owned if one.title == title), None)

        make = partial(calls.api.create_collection, title, namespace=namespace, private=private, exists_ok=True)
        found = calls.read("looking for the collection", slug)
        found = found or calls.write(f"making the collection {title!r}", lambda: make().slug, slug)
        for repo_id, repo_type in repos:
            kind: Any = repo_type  # a literal to huggingface_hub
            add = partial(calls.api.add_collection_item, found, repo_id, kind, exists_ok=True)
            calls.read(f"linking {repo_id}", add)  # with exists_ok, adding twice is adding once
        return calls.read("reading the collection", lambda: calls.api.get_collection(found).url)


class _Publication:
    """One folder on its way to one repository."""

    def __init__(self, calls: _Calls, folder: Path, files: Mapping[str, LocalFile], kind: str, tag: str):
        self.calls, self.folder, self.files, self.kind, self.tag = calls, folder, files, kind, tag
        listing = "".join(f"{file.sha256}  {path}\n" for path, file in files.items())
        self.branch = f"publish-{hashlib.sha256(listing.encode()).hexdigest()[:16]}"

    def run(self, private: bool, checks: Callable[[Path], None] | None) -> Receipt:
        """All steps of `publish`."""
        calls = self.calls
        calls.check_rights()
        info = calls.info()
        if info is None:
            calls.create_repo()
            info = calls.made("main")
        if private and not info.private:
            raise PublishingError(f"{calls.name} is public, but private was asked for; say public, or make it private")
        head, main = info.sha, calls.tree(info.sha)
        self._check_owner(head, main)
        refs = calls.refs()
        commit, new = refs.tags.get(self.tag), False
        if commit is None:
            new = not self._equal(main)
            commit = self._to_main(head, checks) if new else self._verified(head, checks)
            calls.create_tag(self.tag, commit)
        elif differing := self._differing(calls.tree(commit)):
            raise PublishingError(
                f"{calls.name}: {self.tag} is published with other files ({_some(differing)}); choose another version"
            )
        calls.delete_branch(self.branch, known=None if new else refs.branches)
        if not private and info.private:
            calls.make_public()
        return self._receipt(commit, private, new)

    def _check_owner(self, head: str, main: Mapping[str, Any]) -> None:
        """A repository that holds something must be one that was published from here, of the same kind."""
        if not main.keys() - HUBS_OWN:
            return
        titles = [title.split() for title in self.calls.titles(head)]
        if self.calls.repo_type == "space" and titles == [["initial", "commit"]]:
            return  # the page that the Hub puts into every new Space
        kinds = {words[1] for words in titles if len(words) > 1 and words[0] == MARK}
        if not kinds:
            holds = _some(sorted(main.keys() - HUBS_OWN))
            raise PublishingError(
                f"{self.calls.name} exists and was not published from here (it holds {holds}); choose another name"
            )
        if self.kind not in kinds:
            held = _some(sorted(kinds))
            raise PublishingError(f"{self.calls.name} holds a {held}, no {self.kind}; choose another name")

    def _to_main(self, head: str, checks: Callable[[Path], None] | None) -> str:
        self.calls.create_branch(self.branch, head)
        on_branch = self._commit(self.branch, self.calls.made(self.branch).sha)
        return self._commit("main", head, verified=self._verified(on_branch, checks))

    def _commit(self, branch: str, parent: str, verified: str | None = None) -> str:
        """The commit after which a branch holds the files and nothing else.

        Args:
            branch: the branch.
            parent: its commit; the Hub refuses where it has another one by then.
            verified: a commit whose large files are known to be right and are taken over on the Hub's side.

        Raises:
            PublishingError: the branch moved, or the Hub refused.
        """
        here = self.calls.tree(parent)
        if self._equal(here):
            return parent
        operations = self._operations(here, verified)
        message = f"{MARK} {self.kind} {self.tag}"

        def send() -> str:
            return self.calls.commit(operations, branch, parent, message)

        def settled() -> str | None:
            info = self.calls.info(branch)
            return info.sha if info and self._equal(self.calls.tree(info.sha)) else None

        commit = self.calls.write(f"committing to {branch}", send, settled)
        if differing := self._differing(self.calls.tree(commit)):
            raise PublishingError(f"{self.calls.name}@{commit}: differs from what was sent: {_some(differing)}")
        return commit

    def _operations(self, here: Mapping[str, Any], verified: str | None) -> list[Any]:
        """What turns a tree into the files; small files are sent, since the commit itself carries them."""
        from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

        there = self.calls.tree(verified) if verified else {}
        operations: list[Any] = []
        for path in self._differing(here):
            if path not in self.files:
                operations.append(CommitOperationDelete(path, is_folder=False))
            elif path in there and there[path].lfs:
                operations.append(CommitOperationCopy(path, path, src_revision=verified))
            else:
                operations.append(CommitOperationAdd(path, self.folder / path))
        return operations

    def _verified(self, commit: str, checks: Callable[[Path], None] | None) -> str:
        """The commit, once its download equals the folder and passed the checks."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = self.calls.download(commit, scratch)
            got = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
            differing = sorted((got.keys() - HUBS_OWN) ^ (self.files.keys() - HUBS_OWN))
            both = self.files.keys() & got.keys()
            differing += sorted(path for path in both if sha256_file(got[path]) != self.files[path].sha256)
            if differing:
                raise PublishingError(
                    f"{self.calls.name}@{commit}: what was downloaded differs from {self.folder}: {_some(differing)}"
                )
            if checks:
                checks(self._plain(got, Path(scratch) / "plain"))
        return commit

    def _plain(self, got: Mapping[str, Path], folder: Path) -> Path:
        """What was downloaded as a folder of files; a cache is one of links, beside which the Hub's own lie."""
        for path in self.files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            os.link(got[path].resolve(), folder / path)
        return folder

    def _equal(self, tree: Mapping[str, Any]) -> bool:
        return not self._differing(tree)

    def _differing(self, tree: Mapping[str, Any]) -> list[str]:
        """Paths at which a tree of the Hub and the files differ."""
        extra = sorted(tree.keys() - self.files.keys() - HUBS_OWN)
        return [path for path, file in self.files.items() if not _same(tree.get(path), file)] + extra

    def _receipt(self, commit: str, private: bool, new: bool) -> Receipt:
        calls = self.calls
        prefix = "" if calls.repo_type == "model" else f"{calls.repo_type}s/"
        return Receipt(
            calls.repo_id,
            calls.repo_type,
            self.kind,
            self.tag,
            commit,
            private,
            f"{calls.api.endpoint}/{prefix}{calls.repo_id}/tree/{commit}",
            new,
            {path: {"bytes": file.bytes, "sha256": file.sha256} for path, file in self.files.items()},
        )


class _Refs(NamedTuple):
    branches: Mapping[str, str]
    tags: Mapping[str, str]


class _Repository(TypedDict):
    repo_id: str
    repo_type: str


class _Calls:
    """Calls of one repository: each is made again for reasons that pass, and fails with one line."""

    def __init__(self, repo_id: str, repo_type: str, token: str | None, endpoint: str | None, limits: Limits):
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.utils import HFValidationError, validate_repo_id

        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise PublishingError(f"repo_id {repo_id!r}: {str(error).splitlines()[0]}") from error
        if repo_id.count("/") != 1:
            raise PublishingError(f"repo_id {repo_id!r} is not of the form owner/name")
        token = token or get_token()
        if not token:
            raise PublishingError("no token: set HF_TOKEN, or log in with `hf auth login`")
        self.repo_id, self.repo_type, self.limits = repo_id, repo_type, limits
        self.name = f"{repo_type} {repo_id}"
        self.api = HfApi(endpoint, token)
        self.started = time.monotonic()
        self.on: _Repository = {"repo_id": repo_id, "repo_type": repo_type}

    def read(self, what: str, call: Callable[[], _T]) -> _T:
        """The answer of a call that changes nothing, or nothing more when it is made twice."""
        return self.write(what, call, lambda: None)

    def write(self, what: str, call: Callable[[], _T], settled: Callable[[], _T | None]) -> _T:
        """The answer of a call, which is made again only where `settled` finds no trace of it.

        Args:
            what: for the error.
            call: the call; safe to repeat where it left no trace.
            settled: what the answer would have been, where the change stands on the Hub; else None.

        Raises:
            PublishingError: refused, no attempts or no time left.
        """
        wait = self.limits.first_wait
        for attempt in range(1, self.limits.attempts + 1):
            try:
                return call()
            except _call_errors() as error:
                if isinstance(error, PublishingError):
                    raise
                answer = settled()
                if answer is not None:
                    return answer
                pause = max(min(wait, self.limits.longest_wait), _asked_wait(error))
                left = self.limits.deadline - (time.monotonic() - self.started) - pause
                if not _passes(error) or attempt == self.limits.attempts or left < 0:
                    raise PublishingError(f"{self.name}: {what}: {_line(error)}") from error
            time.sleep(pause)
            wait *= 2
        raise AssertionError("unreachable")

    def check_rights(self) -> None:
        """Refuse a token that cannot write where the repository is to be.

        Raises:
            PublishingError: whose token it is, and what it lacks.
        """
        who = self.read("asking whose token this is", self.api.whoami)
        name, owner = who["name"], self.repo_id.split("/")[0]
        token = (who.get("auth") or {}).get("accessToken") or {}
        if token.get("role") == "read":
            raise PublishingError(f"the token of {name} may only read; make one that may write")
        roles = {org["name"]: org.get("roleInOrg") for org in who.get("orgs") or ()}
        may = [name, *(org for org, role in roles.items() if role != "read")]
        if owner not in may:
            raise PublishingError(f"{self.repo_id}: {name} may not publish there, only under {', '.join(may)}")
        scopes = (token.get("fineGrained") or {}).get("scoped")
        if scopes is not None and not any(
            scope["entity"].get("name") in (owner, self.repo_id) and "repo.write" in scope["permissions"]
            for scope in scopes
        ):
            raise PublishingError(f"the token of {name} has no permission repo.write for {self.repo_id}")

    def info(self, revision: str = "main") -> Any:
        """Commit and visibility of a revision; None where there is none."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        def ask() -> Any:
            try:
                return self.api.repo_info(**self.on, revision=revision)
            except (RepositoryNotFoundError, RevisionNotFoundError):
                return None

        return self.read("reading the repository", ask)

    def made(self, revision: str) -> Any:
        """The same of a revision that was just made; what is not there yet is waited for."""

        def ask() -> Any:
            info = self.info(revision)
            if info is None:
                raise ConnectionError(f"{revision} was made, but is not there")
            return info

        return self.read(f"reading {revision}", ask)

    def tree(self, commit: str) -> dict[str, Any]:
        """Files of a commit by path."""

        def ask() -> dict[str, Any]:
            listed = self.api.list_repo_tree(**self.on, revision=commit, recursive=True)
            return {one.path: one for one in listed if hasattr(one, "blob_id")}

        return self.read("listing files", ask)

    def refs(self) -> _Refs:
        """Commits of branches and tags."""
        refs = self.read("reading branches and tags", partial(self.api.list_repo_refs, **self.on))
        return _Refs(*({ref.name: ref.target_commit for ref in kind} for kind in (refs.branches, refs.tags)))

    def titles(self, commit: str) -> list[str]:
        """Of a commit and those before it."""
        listed = self.read("reading the history", partial(self.api.list_repo_commits, **self.on, revision=commit))
        return [one.title for one in listed]

    def create_repo(self) -> None:
        """Make it, private."""
        sdk = "static" if self.repo_type == "space" else None
        call = partial(self.api.create_repo, **self.on, private=True, exist_ok=False, space_sdk=sdk)
        self.write("making the repository", call, self.info)

    def create_branch(self, branch: str, commit: str) -> None:
        """A branch at a commit; one that is there stays where it is."""
        call = partial(self.api.create_branch, **self.on, branch=branch, revision=commit, exist_ok=True)
        self.read(f"making branch {branch}", call)

    def delete_branch(self, branch: str, known: Mapping[str, str] | None = None) -> None:
        """Remove a branch that has done its work; one that stays does no harm."""
        if known is not None and branch not in known:
            return
        call = partial(self.api.delete_branch, **self.on, branch=branch)
        try:
            self.write(f"removing branch {branch}", call, lambda: None if branch in self.refs().branches else True)
        except PublishingError as error:
            warnings.warn(f"everything is published, but {error}", stacklevel=2)

    def commit(self, operations: Sequence[Any], branch: str, parent: str, message: str) -> str:
        """Send one commit; returns its id."""
        answer = self.api.create_commit(
            **self.on, operations=operations, commit_message=message, revision=branch, parent_commit=parent
        )
        return answer.oid

    def create_tag(self, tag: str, commit: str) -> None:
        """A tag, which must not stand elsewhere."""
        call = partial(self.api.create_tag, **self.on, tag=tag, revision=commit)
        self.write(f"making tag {tag}", call, lambda: True if self.refs().tags.get(tag) == commit else None)

    def make_public(self) -> None:
        """Let everyone read it."""

        def settled() -> bool | None:
            info = self.info()
            return True if info and not info.private else None

        self.write("making it public", partial(self.api.update_repo_settings, **self.on, private=False), settled)

    def download(self, commit: str, folder: str) -> Path:
        """A commit's files, fetched into an empty cache."""
        call = partial(self.api.snapshot_download, **self.on, revision=commit, cache_dir=folder)
        return Path(self.read("downloading what was sent", call))


@contextmanager
def _timeouts(seconds: float) -> Iterator[None]:
    """Within this block, no call of huggingface_hub waits longer for the next sign of the Hub.

    Its own client has no timeout, and some calls switch it off once more where they are made.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import httpx
    from huggingface_hub.utils._http import default_client_factory

    def limit(request: Any) -> None:
        given = request.extensions.get("timeout") or {}
        longest = httpx.Timeout(seconds).as_dict()
        request.extensions["timeout"] = {
            part: longest[part] if given.get(part) is None else min(given[part], longest[part]) for part in longest
        }

    def factory() -> Any:
        client = default_client_factory()
        client.event_hooks = {**client.event_hooks, "request": [*client.event_hooks["request"], limit]}
        return client

    set_client_factory(factory)
    try:
        yield
    finally:
        set_client_factory(default_client_factory)


def _call_errors() -> tuple[type[Exception], ...]:
    """What a call of huggingface_hub raises where the Hub or the way to it is the cause."""
    from huggingface_hub.utils import httpx

    return (OSError, ValueError, RuntimeError, httpx.HTTPError)


def _passes(error: BaseException) -> bool:
    """Whether a call that failed so may succeed later."""
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    for one in _chain(error):
        if isinstance(one, OfflineModeIsEnabled):
            return False
        status = _status(one)
        if status is not None:
            return status in _PASSING
        if isinstance(one, httpx.TransportError | ConnectionError | TimeoutError | json.JSONDecodeError):
            return True
    return False


def _asked_wait(error: BaseException) -> float:
    """Seconds that the Hub asks to wait, as `Retry-After` or `RateLimit`."""
    for one in _chain(error):
        headers = getattr(getattr(one, "response", None), "headers", None) or {}
        asked = str(headers.get("Retry-After") or "")
        limit = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", str(headers.get("RateLimit") or ""))
        if limit or asked.isdigit():
            return float(limit[1] if limit else asked)
    return 0.0


def _line(error: BaseException) -> str:
    """The reason, in one line."""
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        return " ".join(str(error).split())  # what the Hub finds wrong with a card, among others
    for one in _chain(error):
        status = _status(one)
        if status is not None:
            said = getattr(one, "server_message", None) or str(one).split("\n")[0]
            return f"the Hub answered {status}: {' '.join(said.split())}"
    last = list(_chain(error))[-1]
    return " ".join(str(last).split()) or type(last).__name__


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _same(entry: Any, file: LocalFile) -> bool:
    """Whether an entry of a tree has a file's content."""
    if entry is None or entry.size != file.bytes:
        return False
    return entry.lfs.sha256 == file.sha256 if entry.lfs else entry.blob_id == file.git_sha1


def _git_sha1(path: Path, size: int) -> str:
    digest = hashlib.sha1(f"blob {size}\0".encode())
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _some(paths: Sequence[str]) -> str:
    rest = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + rest
