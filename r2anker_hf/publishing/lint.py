"""What must not be published, looked for in every byte: pickles, code, tokens, local paths, training rows."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..endings import first_line
from ..records import InputError

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
SUFFIXES = (".json", ".safetensors", ".onnx", ".md", ".txt", ".png", ".gz", ".parquet", ".yaml", ".model")
# Text or numbers that somebody else wrote: a word there may be a machine's name, and "/home/..." an example.
DATA_SUFFIXES = (".parquet", ".safetensors", ".onnx", ".gz", ".model", ".png")
DATA_NAMES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
ONNX_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
TOKENS = {
    "a Hugging Face token": rb"\b(?:hf|api_org)_([A-Za-z0-9]{30,})",
    "a GitHub token": rb"\b(?:gh[pousr]_|github_pat_)([A-Za-z0-9_]{36,})",
    "an AWS key": rb"\b(?:AKIA|ASIA)([0-9A-Z]{16})\b",
    "an API key": rb"\bsk-([A-Za-z0-9_-]{32,})",
    "a private key": rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----",
}
# Folders below which people and jobs keep their files; not after a word, colon or slash, as in a URL.
LOCAL_PATH = re.compile(
    rb"(?<![\w.:/@%-])(?:file:/+|/(?:home|Users|root|tmp|var|mnt|media|scratch|work|workspace|opt|srv|private|Volumes"
    rb"|content|gpfs|lustre|data|out)/[\w.~-]|[A-Z]:\\\\?(?:Users|[\w.-]+\\))"
)
UNPACKED = 100  # a run is some 5 times its packed size, and the densest archive 1,000 times
_PACKED = {".gz": "gzip", ".parquet": "Parquet", ".png": "PNG"}
_PIECE, _OVERLAP = 1 << 22, 1 << 12
_PLACEHOLDER = 8  # a "token" of fewer different characters is hf_xxx...
_FEWEST_WORDS, _FEWEST_CHARACTERS = 5, 24  # of a training text that is looked for; shorter ones are said by anybody
_PROBE_WORDS = 12  # words of a longer text that are looked for


@dataclass(frozen=True)
class Machine:
    """What would give this machine away.

    Attributes:
        paths: folders of at least two parts.
        host: its name; None where it is too short, or too usual, to be looked for.
        secrets: tokens by what they are called.
    """

    paths: tuple[str, ...] = ()
    host: str | None = None
    secrets: dict[str, str] = field(default_factory=dict)


def this_machine(*folders: str | os.PathLike) -> Machine:
    """The machine that this runs on, with the folders that are being published."""
    import huggingface_hub

    places = [Path.home(), Path.cwd(), *map(Path, folders)]
    found = dict.fromkeys(str(place.resolve()) for place in places if len(place.resolve().parts) > 2)
    host = socket.gethostname().partition(".")[0]
    token = huggingface_hub.get_token()
    return Machine(
        tuple(found),
        host if len(host) > 3 and host != "localhost" else None,
        {"your Hub token": token} if token else {},
    )


def findings(
    folder: str | os.PathLike,
    machine: Machine | None = None,
    training: Iterable[str] = (),
    quoting: Collection[str] = (),
    links: bool = False,
    suffixes: Sequence[str] = SUFFIXES,
    besides: Collection[str] = (),
) -> list[str]:
    """Everything in a folder that must not be published.

    Args:
        folder: what is to be published, whole.
        machine: what gives it away; default this one.
        training: texts of training rows, none of which may stand in a card or a configuration; read once.
        quoting: files that quote passages, in which "/home/..." is an example, as it is in data.
        links: whether a link may stand for a file, as in the cache that the Hub's files are downloaded into.
        suffixes: of files that are published.
        besides: files that were not published, in which only pickles are looked for.

    Returns:
        One line for each finding, "file: finding"; no line, nothing found. Tokens are not repeated.
    """
    folder = Path(folder)
    machine = machine or this_machine(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    found = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        is_data = _is_data(path) or name in quoting
        lines: Iterable[str] = ["is a link"]
        if name in besides:
            lines = [PICKLE] if _is_pickle(path) else []
        elif links or not path.is_symlink():
            lines = _of_file(path, machine, is_data, suffixes)
        found += [f"{name}: {line}" for line in lines]
    return found + _training_rows(folder, [path for path in paths if path.is_file()], training)


def refuse(found: list[str]) -> None:
    """Raise InputError with the first finding, and how many more there are."""
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise InputError(found[0] + more)


def refuse_pickles(folder: str | os.PathLike) -> None:
    """Refuse a source folder that holds pickles: they can run code and hold secrets, whatever else lies there.

    Raises:
        InputError: names the first one.
    """
    folder = Path(folder)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if _is_pickle(path):
            raise InputError(f"{path}: {PICKLE}; save the weights as safetensors, or remove it")


PICKLE = "is a pickle or an archive that may hold one, which can run code when it is loaded"


def _of_file(path: Path, machine: Machine, is_data: bool, suffixes: Sequence[str]) -> Iterator[str]:
    if _is_pickle(path):
        yield PICKLE
    elif path.suffix not in suffixes:
        yield f"is no file that is published; those end in {', '.join(suffixes)}"
    else:
        yield from _malformed(path, machine)
        yield from _content(path, machine, is_data)


def _content(path: Path, machine: Machine, is_data: bool) -> Iterator[str]:
    """What stands in the pieces of a file, each once; a file that ends as none of its kind is said to be none."""
    found: dict[str, None] = {}
    try:
        for piece in _pieces(path):
            found |= dict.fromkeys(_in_piece(piece, machine, is_data))
    except InputError as error:
        found[str(error)] = None
    except Exception as error:  # of gzip, zlib, Arrow and PIL, each with errors of its own
        what = f"is no {_PACKED[path.suffix]} file" if path.suffix in _PACKED else "cannot be read"
        found[f"{what} ({first_line(error)})"] = None
    yield from found


def _is_pickle(path: Path) -> bool:
    if path.suffix in PICKLE_SUFFIXES:
        return True
    with open(path, "rb") as file:
        head = file.read(4)
    return head == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and len(head) > 1)


def _malformed(path: Path, machine: Machine) -> Iterator[str]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np") as weights:
                yield from _in_piece(json.dumps(weights.metadata()).encode(), machine, is_data=False)
        except (SafetensorError, OSError) as error:
            yield f"is no safetensors file ({error})"
    elif path.suffix == ".onnx":
        yield from _of_onnx(path, machine)
    elif path.suffix == ".json":
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            yield f"is no JSON ({error})"
            return
        if isinstance(content, dict) and "auto_map" in content:
            yield "has auto_map, which makes loaders run code of the repository"


def _of_onnx(path: Path, machine: Machine) -> Iterator[str]:
    """Weights in other files, operators that need a library, and names; only where `onnx` is installed."""
    try:
        import onnx
    except ImportError:  # verify.py says that it is not checked; publish.py exports with it
        return
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors are of its own
        yield f"is no ONNX file ({str(error).splitlines()[0]})"
        return
    parts = list(_messages(model))
    tensors = [part for part in parts if isinstance(part, onnx.TensorProto)]
    if outside := [tensor.name for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]:
        yield f"keeps the weights {outside[0]!r} in another file"
    operators = {(part.domain, part.op_type) for part in parts if isinstance(part, onnx.NodeProto)}
    for domain, name in sorted(operators - {(one.domain, one.name) for one in model.functions}):
        if domain not in ONNX_DOMAINS:
            yield f"has the operator {domain}.{name}, for which onnxruntime loads a library"
    for tensor in tensors:  # what is left is names and notes
        tensor.ClearField("raw_data")
    yield from _in_piece(model.SerializeToString(), machine, is_data=False)


def _messages(message: Any) -> Iterator[Any]:
    """All that a protobuf message is made of, whatever it is nested in."""
    for field_, value in message.ListFields():
        if field_.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield part
                yield from _messages(part)


def _is_data(path: Path) -> bool:
    return path.suffix in DATA_SUFFIXES or path.name in DATA_NAMES


def _pieces(path: Path) -> Iterator[bytes]:
    """A file's content in pieces that overlap; what is compressed comes unpacked as well."""
    yield from _overlapping(open(path, "rb"))
    if path.suffix == ".gz":
        left = UNPACKED * path.stat().st_size
        for piece in _overlapping(gzip.open(path)):
            left -= len(piece)
            if left < 0:  # a small file must not keep a reader busy without end
                raise InputError(f"unpacks to more than {UNPACKED} times its size")
            yield piece
    elif path.suffix == ".parquet":
        yield from _parquet_texts(path)
    elif path.suffix == ".png":
        from PIL import Image

        with Image.open(path) as image:
            image.load()  # texts may stand behind the picture
            yield "\n".join(f"{key} {value}" for key, value in image.info.items()).encode()


def _overlapping(file) -> Iterator[bytes]:
    with file:
        tail = b""
        while piece := file.read(_PIECE):
            yield tail + piece
            tail = piece[-_OVERLAP:]


def _parquet_texts(path: Path) -> Iterator[bytes]:
    """Texts of all columns, a batch at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(1000):
        for column in batch.columns:
            waiting = [column]
            while waiting:
                array = waiting.pop()
                if pa.types.is_struct(array.type):
                    waiting.extend(array.flatten())
                elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
                    waiting.append(array.flatten())
                elif pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
                    yield "\n".join(text for text in array.to_pylist() if text).encode()


def _in_piece(piece: bytes, machine: Machine, is_data: bool) -> Iterator[str]:
    for name, pattern in TOKENS.items():
        for match in re.finditer(pattern, piece):
            if len(set(match[1])) >= _PLACEHOLDER:
                yield f"holds {name}"
    for name, secret in machine.secrets.items():
        if secret.encode() in piece:
            yield f"holds {name}"
    for place in machine.paths:
        if is_data and place.count("/") < 3:  # /home/user stands in many a manual
            continue
        if re.search(re.escape(place.encode()) + rb"(?![\w-])", piece):
            yield f"holds a path of this machine, {place}"
    if is_data:
        return
    if local := LOCAL_PATH.search(piece):
        yield f"holds a local path, {_shown(piece, local.start())!r}"
    if machine.host and re.search(rb"(?<![\w-])" + re.escape(machine.host.encode()) + rb"(?![\w-])", piece):
        yield f"holds this machine's name, {machine.host!r}"


def _shown(piece: bytes, start: int) -> str:
    return re.split(rb"[\s\"'`)|,<]", piece[start : start + 80])[0].decode("utf-8", "replace")


def _training_rows(folder: Path, paths: list[Path], training: Iterable[str]) -> list[str]:
    """Training texts in the files that somebody reads; long ones are looked for by their first words."""
    suffixes = (".md", ".json", ".yaml", ".txt")
    readable = [path for path in paths if not _is_data(path) and path.suffix in suffixes]
    texts = {path: _words(path.read_text(encoding="utf-8", errors="replace")) for path in readable}
    openings = {opening for words in texts.values() for opening in _openings(words)}
    for text in training:
        probe = " ".join(_words(text[: 40 * _PROBE_WORDS])[:_PROBE_WORDS])
        if len(probe) < _FEWEST_CHARACTERS or " ".join(probe.split()[:_FEWEST_WORDS]) not in openings:
            continue
        for path, words in texts.items():
            if f" {probe} " in f" {' '.join(words)} ":
                return [f"{path.relative_to(folder).as_posix()}: holds a training row, {probe[:60]!r}"]
    return []


def _openings(words: list[str]) -> Iterator[str]:
    """Every run of so many words as a text that is looked for must begin with."""
    return (" ".join(words[start : start + _FEWEST_WORDS]) for start in range(len(words) - _FEWEST_WORDS + 1))


def _words(text: str) -> list[str]:
    """Words in lower case; JSON's escapes are no words."""
    return re.findall(r"\w+", re.sub(r"\\[nt\"]", " ", text).casefold())
