"""A stage of a recipe: one new folder, written beside its place and renamed at the end, with its provenance."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .config import CONFIG_FILE, save_config
from .files import check_output, sha256_file
from .processes import processes
from .records import InputError
from .revisions import commit_of

PROVENANCE_FILE = "provenance.json"
PACKAGES = (
    *("r2anker_hf", "torch", "transformers", "datasets", "huggingface-hub", "accelerate", "peft"),
    *("sentence-transformers", "faiss-cpu", "faiss-gpu", "bm25s", "evaluate", "ir_measures", "numpy"),
)


def run_stage(
    config: Any,
    output_dir: str | os.PathLike,
    inputs: Mapping[str, str | Path],
    work: Callable[[Path], None],
    free: Collection[str] = (),
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

    Raises:
        InputError: `output_dir` holds another stage's result; nothing is overwritten.
    """
    state = processes()
    final = Path(output_dir)
    check_output(final, [value for value in inputs.values() if isinstance(value, Path)])
    partial = final.with_name(f".{final.name}.partial")
    digests = {name: digest_of(value) for name, value in inputs.items()}
    if final.exists():
        if not _is_of(final, config, digests, free):
            raise InputError(f"{final}: exists, with another configuration or input; remove it or choose another name")
        if state.is_main_process:
            print(f"{final}: finished before, nothing to do")
        return
    started = time.time()
    if state.is_main_process:
        _prepare(partial, config, digests, free)
    state.wait_for_everyone()
    work(partial)
    state.wait_for_everyone()
    if state.is_main_process:
        _write_provenance(partial, config, digests, time.time() - started)
        os.replace(partial, final)
    state.wait_for_everyone()


def pinned(config: Any, name: str, kind: str = "model") -> str | Path:
    """An input that a configuration names, as a stage records it: a local folder, or a Hub id with its commit.

    Of a Hub id without a commit the newest one is taken and put into the configuration, so that what the stage loads,
    what it records and what a later launch goes on with are the same.

    Args:
        config: has the attributes `name` and `name`_revision.
        name: of the attribute, such as "model".
        kind: "model" or "dataset".

    >>> from types import SimpleNamespace
    >>> pinned(SimpleNamespace(model="owner/name", model_revision="0123456789" * 4), "model")
    'owner/name@0123456789012345678901234567890123456789'
    """
    source, revision = getattr(config, name), getattr(config, f"{name}_revision")
    if Path(source).exists():
        return Path(source)
    commit = commit_of(source, revision, kind)
    setattr(config, f"{name}_revision", commit)
    return f"{source}@{commit or 'main'}"


def recorded_inputs(folder: Path) -> dict[str, str]:
    """Hashes and revisions of a stage's inputs, as its provenance has them from the start."""
    return json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8"))["inputs"]


def _prepare(partial: Path, config: Any, digests: Mapping[str, str], free: Collection[str]) -> None:
    if partial.exists() and not _is_of(partial, config, digests, free):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    save_config(config, partial)
    _write_json(partial / PROVENANCE_FILE, {"inputs": dict(digests)})


def _is_of(folder: Path, config: Any, digests: Mapping[str, str], free: Collection[str]) -> bool:
    """Whether a folder was begun with this configuration, free options aside, and these inputs."""
    import tempfile

    import yaml

    def decisive(path: Path) -> dict[str, Any]:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {name: value for name, value in settings.items() if name not in free}

    try:
        inputs = recorded_inputs(folder)
        with tempfile.TemporaryDirectory() as scratch:
            same = decisive(save_config(config, scratch)) == decisive(folder / CONFIG_FILE)
    except (OSError, ValueError, KeyError, AttributeError, yaml.YAMLError):
        return False
    return same and inputs == dict(digests)


def _write_provenance(folder: Path, config: Any, digests: Mapping[str, str], seconds: float) -> None:
    parts = config if isinstance(config, tuple) else (config,)
    seeds = [part.seed for part in parts if hasattr(part, "seed")]
    _write_json(
        folder / PROVENANCE_FILE,
        {
            "inputs": dict(digests),
            "seed": seeds[0] if seeds else None,
            "recipe": Path(sys.argv[0]).name,
            "packages": {name: found for name in PACKAGES if (found := _version(name))},
            "python": platform.python_version(),
            "git_commit": _git_commit(),
            "hardware": _hardware(),
            "seconds_of_last_launch": round(seconds, 1),
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
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "--verify", "-q", "HEAD"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
