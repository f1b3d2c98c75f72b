"""What dense and SPLADE retrieval share: a corpus encoded shard by shard."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..processes import is_main_process, my_share, wait_for_all
from ..records import InputError
from .base import IndexableCorpus, check_corpus
from .index import IndexFolder, corpus_fingerprint, model_fingerprint

DTYPES = ("float32", "bfloat16", "float16")
TEXTS_A_CALL = 512  # one call of the encoder: enough to sort by length, small enough for a lively progress bar


class EncodedCorpus:
    """A corpus's encoded shards in an `IndexFolder`; each is made once, by the process whose share it is.

    Args:
        kind: "dense" or "splade".
        model: the encoder.
        corpus: the passages.
        folder: where the shards are kept; None for a temporary folder of this process, which goes with this object.
        settings: what else decides the bytes of a shard.
        shard_size: passages a shard; encoding holds one in memory.

    Raises:
        InputError: an empty corpus, a shard size below 1, a folder that holds another index.
    """

    def __init__(
        self,
        kind: str,
        model: Any,
        corpus: IndexableCorpus,
        folder: str | os.PathLike | None,
        settings: Mapping[str, Any],
        shard_size: int,
    ):
        check_corpus(corpus)
        if shard_size < 1:
            raise InputError(f"shard_size is {shard_size!r}, but must be at least 1")
        self.corpus, self.shard_size, self.alone = corpus, shard_size, folder is None
        identity = {"kind": kind, "model": model_fingerprint(model), "corpus": corpus_fingerprint(corpus)}
        self.index = IndexFolder(folder or self._temporary(), {**identity, **settings, "shard_size": shard_size})
        self.names = [f"{number:05}" for number in range(-(-len(corpus) // shard_size))]

    def encode(
        self, suffix: str, encode: Callable[[int, int, tqdm], Any], save: Callable, progress: bool
    ) -> list[Path]:
        """Make the missing shards of this process's share, wait for the others', and return the paths of all.

        Args:
            suffix: of a shard's file name.
            encode: (first passage, end, progress bar) -> what is saved.
            save: (path, what was encoded) -> file or folder at that path.
            progress: show a bar over this process's passages.
        """
        names = [name + suffix for name in (self.names if self.alone else my_share(self.names))]
        passages = sum(stop - start for start, stop in map(self._range, names))
        hidden = not progress or not is_main_process()
        with tqdm(total=passages, desc="encode", unit="passage", disable=hidden) as bar:
            for name in names:
                start, stop = self._range(name)
                before = bar.n
                if name not in self.index:
                    self.index.write(name, partial(_save, save, encode(start, stop, bar)))
                bar.update(stop - start - (bar.n - before))
        if not self.alone:
            wait_for_all()
        return [self.index.folder / (name + suffix) for name in self.names]

    def _range(self, name: str) -> tuple[int, int]:
        start = int(name[:5]) * self.shard_size
        return start, min(start + self.shard_size, len(self.corpus))

    def _temporary(self) -> str:
        folder = tempfile.mkdtemp(prefix="r2anker-index-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder


def chunks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Ranges of `TEXTS_A_CALL`, whatever the number of processes: texts that are encoded together share their padding,
    and with it the last digits of their vectors.

    >>> list(chunks(0, 600))
    [(0, 512), (512, 600)]
    """
    for first in range(start, stop, TEXTS_A_CALL):
        yield first, min(first + TEXTS_A_CALL, stop)


def _save(save: Callable, content: Any, path: Path) -> None:
    save(path, content)
