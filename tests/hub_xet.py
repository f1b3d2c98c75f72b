"""Xet for the loopback Hub: clients write chunks into a folder, by the `local://` store that hf_xet itself contains.

The client chunks, deduplicates and reassembles as it does over the network; only the wire is a folder. The Hub's part
is to know which file a commit means by its sha256, which stands in the shards beside the xet hash (hf_xet 1.8).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

HEADER = ENTRY = 48  # bytes of a shard's header, and of each entry after it
END = b"\xff" * 32
VERIFICATION, METADATA = 1 << 31, 1 << 30  # flags of a file: which entries follow
EXPIRES = int(time.time()) + 10**7


def files_of(folder: Path) -> dict[str, tuple[str, int]]:
    """Xet hash and size of every file in the store, by sha256."""
    found = {}
    for path in (folder / "xet").rglob("shards/*.mdb"):
        found.update(_files_of_shard(path.read_bytes()))
    return found


def fetch(folder: Path, xet_hash: str, size: int) -> bytes:
    """A file's content."""
    import hf_xet

    with tempfile.TemporaryDirectory() as scratch:
        options = {"endpoint": f"local://{folder}", "token": "local", "token_expiry_unix_secs": EXPIRES}
        with hf_xet.XetSession().new_file_download_group(**options) as group:
            group.start_download_file(hf_xet.XetFileInfo(xet_hash, size), f"{scratch}/file")
        return Path(scratch, "file").read_bytes()


def _files_of_shard(shard: bytes) -> dict[str, tuple[str, int]]:
    found, at = {}, HEADER
    while shard[at : at + 32] != END:
        xet_hash, flags, segments = _hex(shard[at:]), _number(shard[at + 32 :]), _number(shard[at + 36 :])
        size = sum(_number(shard[at + ENTRY * (1 + index) + 36 :]) for index in range(segments))
        at += ENTRY * (1 + segments * (2 if flags & VERIFICATION else 1))
        if flags & METADATA:
            found[_hex(shard[at:])] = (xet_hash, size)
            at += ENTRY
    return found


def _hex(raw: bytes) -> str:
    """A hash as hf_xet writes it: four little-endian words."""
    return b"".join(raw[start : start + 8][::-1] for start in range(0, 32, 8)).hex()


def _number(raw: bytes) -> int:
    return int.from_bytes(raw[:4], "little")
