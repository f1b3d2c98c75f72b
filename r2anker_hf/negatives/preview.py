"""A few training groups as texts, which the Hub's viewer shows and any trainer reads, beside the lists of ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..records import InputError
from .candidates import Candidates, load_candidates
from .card import PREVIEW, preview_files
from .sampling import draw_group

ROWS, NEGATIVES = 100, 7
_SEED = 42  # the trainer's default
_ASKED = b"r2anker_hf.negatives"  # key of Parquet's metadata: how many were drawn per row


def preview_rows(candidates: Candidates, rows: int = ROWS, negatives: int = NEGATIVES) -> Iterator[dict[str, Any]]:
    """Groups of evenly spaced queries: `query`, `positive` and `negatives` (a list), all texts.

    The negatives are drawn by the paper's policy, as the first epoch of a training draws them.

    Args:
        candidates: with texts.
        rows: how many at most.
        negatives: per row, at most.
    """
    text, size = candidates.corpus.text, len(candidates.rows)
    for place in range(min(rows, size)):
        row = candidates.rows[place * size // min(rows, size)]
        positive, drawn = draw_group(row, negatives, _SEED, 0)
        yield {"query": row["query"], "positive": text(positive), "negatives": [text(doc_id) for doc_id in drawn]}


def write_preview(source: Path, folder: Path, split: str) -> str:
    """Write the preview of a split of finished candidates as Parquet; equal candidates give equal bytes.

    Args:
        source: the folder that `mine.py` finished, with its corpus.
        folder: below which it is written.
        split: of the candidates.

    Returns:
        The file's path below the folder.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    schema = pa.schema(
        [("query", text), ("positive", text), ("negatives", pa.list_(text))], {_ASKED: str(NEGATIVES).encode()}
    )
    rows = list(preview_rows(load_candidates(source, split)))
    name = f"{PREVIEW}/{split}-00000-of-00001.parquet"
    (folder / PREVIEW).mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / name, compression="zstd")
    return name


def preview_differences(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What a published preview says otherwise than the candidates that it was drawn from, one line per split.

    Raises:
        InputError: candidates or corpus cannot be read.
    """
    import pyarrow.parquet as pq

    found = []
    for split, name in preview_files(manifest).items():
        table = pq.read_table(folder / name)
        asked = (table.schema.metadata or {}).get(_ASKED)
        if asked is None:
            raise InputError(f"{name}: does not say how many negatives were drawn per row")
        stated = table.to_pylist()
        drawn = list(preview_rows(load_candidates(folder, split), len(stated), int(asked)))
        wrong = next(
            (place for place, pair in enumerate(zip(stated, drawn, strict=False)) if pair[0] != pair[1]), None
        )
        if wrong is not None or len(stated) != len(drawn):
            found.append(f"{name}: row {len(drawn) if wrong is None else wrong} is not what the candidates give")
    return found
