"""A stage of a recipe: one new folder, written beside its place and renamed at the end, with its provenance."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from enum import Enum
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from .config import CONFIG_FILE, defaults_of, save_config, with_names_of_today
from .files import check_output, remove, sha256_file, write_whole
from .processes import gather, processes
from .records import InputError
from .revisions import commit_of

Config = TypeVar("Config")

PROVENANCE_FILE = "provenance.json"
ROUND_FILE = "training_round.json"
"""In a retriever's folder inside a stage's: which round of that stage's training it comes from."""
HASHED_UP_TO = 16 * 2**20
"""Bytes of a written file up to which a later launch compares its hash; of larger ones the size."""
PACKAGES = (
    *("r2anker_hf", "torch", "transformers", "datasets", "huggingface-hub", "accelerate", "peft"),
    *("sentence-transformers", "faiss-cpu", "faiss-gpu", "bm25s", "evaluate", "ir_measures", "numpy"),
)


def run_stage(
    config: Any,
    output_dir: str | os.PathLike,
    inputs: Mapping[str, str | Path],
    work: Callable[[Path], None],
    *,
    free: Collection[str] = (),
    scratch: Sequence[str] = (),
) -> None:
    """Do a stage's work in `.NAME.partial` beside `output_dir`, and rename it once everything is written.

    A killed stage leaves nothing that looks finished. The same command again goes on in the partial folder, where
    `work` may find what it wrote before; another configuration or input starts afresh. A finished stage is not done
    twice. Every process of a distributed launch calls this; the main one alone touches the folders.

    Args:
        config: dataclass, or a tuple of them, saved as `config.yaml`.
        output_dir: the stage's folder.
        inputs: what the stage reads: a path (hashed), or a text such as a revision.
        work: writes the stage's files into the folder that it is given.
        free: options that decide how fast or in how much memory, not what is written; with another value the work
            goes on all the same.
        scratch: patterns of names in that folder which nobody needs once the work is done; removed only then.

    Raises:
        InputError: `output_dir` holds another stage's result, or one whose files have changed since; an input has
            changed since its own stage finished it; another launch is writing there; the partial folder is not one
            that a stage began. Nothing is overwritten.
    """
    state, final = processes(), Path(output_dir)
    check_output(final, [value for value in inputs.values() if isinstance(value, Path)])
    partial = final.with_name(f".{final.name}.partial")
    with ExitStack() as held:
        left = _agreed(lambda: _begin(config, final, partial, inputs, free, held))
        if left is _Left.NOTHING:
            return
        if left is _Left.WORK:
            started = time.time()
            work(partial)
            state.wait_for_everyone()
        if state.is_main_process:
            if left is _Left.WORK:
                _write_provenance(partial, config, time.time() - started, scratch)
            for path in _passing(partial, scratch):
                remove(path)
            os.replace(partial, final)
        state.wait_for_everyone()


def pinned(config: Config, **kinds: str) -> tuple[Config, dict[str, str | Path]]:
    """The configuration with commits, and the inputs that it names, as a stage records them.

    An input is a local folder, or a Hub id with its commit. A Hub id without a commit gets the newest one. So the
    stage loads what it records, and a later launch goes on with the same.

    Args:
        config: has the attributes NAME and NAME_revision of each input; it stays as it is.
        kinds: "model" or "dataset" by NAME; inputs that are None or empty are left out.

    >>> from types import SimpleNamespace
    >>> config = SimpleNamespace(model="owner/name", model_revision="0123456789" * 4, teacher=None)
    >>> pinned(config, model="model", teacher="model")[1]
    {'model': 'owner/name@0123456789012345678901234567890123456789'}
    """
    config = copy(config)
    inputs: dict[str, str | Path] = {}
    for name, kind in kinds.items():
        source, revision = getattr(config, name), f"{name}_revision"
        if not source:
            continue
        if Path(source).exists():
            inputs[name] = Path(source)
        else:
            commit = commit_of(source, getattr(config, revision), kind)
            setattr(config, revision, commit)
            inputs[name] = f"{source}@{commit or 'main'}"
    return config, inputs


def recorded_inputs(folder: Path) -> dict[str, str]:
    """Hashes and revisions of a stage's inputs, as its provenance has them from the start."""
    return json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8"))["inputs"]


class _Left(Enum):
    """What a launch has to do."""

    WORK, RENAMING, NOTHING = range(3)


def _agreed(decide: Callable[[], Any]) -> Any:
    """What the main process decides, or why it could not: every process of the launch returns or raises the same."""
    answer = None
    if processes().is_main_process:
        try:
            answer = decide()
        except (InputError, OSError) as error:
            answer = error
    answer = gather(answer)[0]
    if isinstance(answer, Exception):
        raise answer
    return answer


def _begin(
    config: Any,
    final: Path,
    partial: Path,
    inputs: Mapping[str, str | Path],
    free: Collection[str],
    held: ExitStack,
) -> _Left:
    """Find out what is left to do; until `held` is closed, no other launch does it."""
    digests = {}
    for name, value in inputs.items():
        if isinstance(value, Path):
            _refuse_changed(value, "make it again with its recipe")
        digests[name] = digest_of(value)
    if _is_finished(final, config, digests, free):
        return _Left.NOTHING
    held.enter_context(_sole_writer(partial, final))
    if _is_finished(final, config, digests, free):  # by a launch that let go of the lock just now
        return _Left.NOTHING
    return _prepare(partial, config, digests, free)


def _is_finished(final: Path, config: Any, digests: Mapping[str, str], free: Collection[str]) -> bool:
    if not final.exists():
        return False
    if not _is_of(final, config, digests, free):
        raise InputError(f"{final}: exists, with another configuration or input; remove it or choose another name")
    _refuse_changed(final, "remove the folder to make it again, or choose another name")
    print(f"{final}: finished before, nothing to do")
    return True


def _prepare(partial: Path, config: Any, digests: Mapping[str, str], free: Collection[str]) -> _Left:
    if os.path.lexists(partial):
        if _is_of(partial, config, digests, free):
            if _outputs(partial):
                return _Left.RENAMING
            write_whole(partial / CONFIG_FILE, lambda path: path.write_bytes(_as_yaml(config)))  # free options differ
            return _Left.WORK
        if not _was_begun(partial, config):
            raise InputError(f"{partial}: is in the way, and is no unfinished stage; move it or choose another name")
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    _write_json(partial / PROVENANCE_FILE, {"inputs": dict(digests)})
    write_whole(partial / CONFIG_FILE, lambda path: path.write_bytes(_as_yaml(config)))
    return _Left.WORK


def _was_begun(partial: Path, config: Any) -> bool:
    """Whether a stage began this folder: it says so, or holds nothing but what a kill left of saying so."""
    if partial.is_symlink() or not partial.is_dir():
        return False
    if isinstance(_record(partial).get("inputs"), dict) and (partial / CONFIG_FILE).is_file():
        return True
    names = {path.name for path in partial.iterdir() if not path.name.endswith(".partial")}
    begun = (partial / CONFIG_FILE).read_bytes() if CONFIG_FILE in names else b""
    return names <= {CONFIG_FILE, PROVENANCE_FILE} and _as_yaml(config).startswith(begun)


@contextmanager
def _sole_writer(partial: Path, final: Path) -> Iterator[None]:
    """Hold the lock of a partial folder. The system lets go of it when the process ends, however that happens.

    Raises:
        InputError: another process holds it.
    """
    path = partial.with_name(f"{partial.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        while True:
            file = opened.enter_context(open(path, "a+"))
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, not passed on to a loader's workers
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    file.seek(0)
                    writer = f"process {number}" if (number := file.read()) else "another process"
                    raise InputError(
                        f"{final}: is being written by {writer}; wait for it, or choose another name"
                    ) from None
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise  # but where a file system has no locks, work goes on without
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break  # else its holder removed it between our opening and our locking
        file.truncate(0)
        print(os.getpid(), end="", file=file, flush=True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _is_of(folder: Path, config: Any, digests: Mapping[str, str], free: Collection[str]) -> bool:
    """Whether a folder was begun with this configuration, free options aside, and these inputs.

    An option that is younger than the folder had no other value there than its default.
    """
    import yaml

    parts = config if isinstance(config, tuple) else (config,)
    defaults = {name: value for part in parts for name, value in defaults_of(type(part)).items()}

    def decisive(text: bytes) -> dict[str, Any]:
        values = {**defaults, **with_names_of_today(yaml.safe_load(text), *map(type, parts))}
        return {name: value for name, value in values.items() if name not in free}

    try:
        same = decisive((folder / CONFIG_FILE).read_bytes()) == decisive(_as_yaml(config))
    except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError):
        return False
    return same and _record(folder).get("inputs") == dict(digests)


def _as_yaml(config: Any) -> bytes:
    """What `config.yaml` holds."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        return save_config(config, scratch).read_bytes()


def _record(folder: Path) -> dict[str, Any]:
    """A folder's provenance; empty where there is none that can be read."""
    try:
        record = json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _outputs(folder: Path) -> dict[str, dict[str, Any]]:
    """The files that a finished stage recorded, by their path in its folder; none of an unfinished one."""
    return _record(folder).get("outputs") or {}


def _refuse_changed(place: Path, remedy: str) -> None:
    """Refuse a finished stage's folder, or a file or folder in one, where anything is not as the stage left it.

    Large files are compared by their size only. What was added since does not matter.

    Raises:
        InputError: names the first file.
    """
    for folder in (place, place.parent):
        for name, was in _outputs(folder).items():
            path = folder / name
            if place in (path, *path.parents) and not (path.is_file() and _facts(path, "sha256" in was) == was):
                found = "has changed since its stage finished" if path.is_file() else "is missing"
                raise InputError(f"{path}: {found}; {remedy}")


def _facts(path: Path, hashed: bool) -> dict[str, Any]:
    size = {"bytes": path.stat().st_size}
    return {**size, "sha256": sha256_file(path)} if hashed else size


def _passing(folder: Path, scratch: Sequence[str]) -> list[Path]:
    """What a finished stage does not keep: its scratch, and leftovers of processes that were killed."""
    own = [path for path in folder.iterdir() if any(fnmatch(path.name, pattern) for pattern in scratch)]
    return [*own, *folder.rglob("*.partial")]


def _write_provenance(folder: Path, config: Any, seconds: float, scratch: Sequence[str]) -> None:
    parts = config if isinstance(config, tuple) else (config,)
    seeds = [part.seed for part in parts if hasattr(part, "seed")]
    passing = set(_passing(folder, scratch))
    kept = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != PROVENANCE_FILE and passing.isdisjoint((path, *path.parents))
    ]
    _write_json(
        folder / PROVENANCE_FILE,
        {
            "inputs": recorded_inputs(folder),
            "seed": seeds[0] if seeds else None,
            "recipe": Path(sys.argv[0]).name,
            "packages": {name: found for name in PACKAGES if (found := _version(name))},
            "python": platform.python_version(),
            "git_commit": _git_commit(),
            "hardware": _hardware(),
            "seconds_of_last_launch": round(seconds, 1),
            "outputs": {
                path.relative_to(folder).as_posix(): _facts(path, path.stat().st_size <= HASHED_UP_TO) for path in kept
            },
        },
    )


def digest_of(value: str | Path) -> str:
    """What provenance records of an input: the sha256 of a file, or of a folder's files; a text stands for itself."""
    if not isinstance(value, Path):
        return value
    if value.is_file():
        return f"sha256:{sha256_file(value)}"
    if not value.is_dir():
        raise InputError(f"{value}: no such file or folder")
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(p for p in value.rglob("*") if p.is_file() and p.name != PROVENANCE_FILE):
        digest.update(f"{path.relative_to(value).as_posix()} {sha256_file(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _hardware() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"machine": platform.machine(), "cpus": os.cpu_count(), "gpus": gpus}


def _git_commit() -> str | None:
    """The commit of the clone that this package lies in; None where it is installed, maybe inside another clone."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    except FileNotFoundError:  # no git
        return None
    return answer[1] if len(answer) == 2 and Path(answer[0]) == here.parent else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, lambda partial: partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8"))
