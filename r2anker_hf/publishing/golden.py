"""Golden pairs: texts with the scores that a published model gives them, so that anyone can check what was loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_json
from ..records import InputError

FORMAT = "r2anker_hf.golden/1"
GOLDEN_FILE = "eval/golden.json"
ONNX_TOLERANCE = {"onnx": 1e-3, "onnx-int8": 0.05}  # of the torch model's scores; of int8's own, by CPUs
TOLERANCE = 1e-4  # absolute and relative: what float32 leaves open between machines

# Written for this purpose, so that no collection's texts are published with a model. Short, long beyond any limit,
# empty, without a word in common, in another script, and two that differ in one word.
PAIRS = (
    ("how do tides work", "The moon pulls the oceans towards it, and the earth turns beneath the bulge of water."),
    ("how do tides work", "A tide table lists the hours of high and low water for a harbour."),
    ("how do tides work", "Bread rises because yeast makes gas, which the dough holds."),
    ("remove an item from a list", "list.remove(x) deletes the first item whose value is equal to x."),
    ("remove an item from a list", "list.insert(i, x) puts an item before the given position."),
    ("what is a coral reef", "A reef is built by colonies of small animals. " * 60),
    ("what is a coral reef", ""),
    ("Größe eines Atoms", "Атом водорода имеет радиус около пятидесяти пикометров; 原子很小。"),
)


def score_ranker(
    folder: str | os.PathLike, pairs: Sequence[tuple[str, str]] = PAIRS, backend: str = "torch"
) -> np.ndarray:
    """[pairs] logits of a ranker's folder, in float32 on the CPU; of one window, which every loader reads."""
    from ..rankers.ranker import CrossEncoderRanker

    return CrossEncoderRanker.from_pretrained(folder, device="cpu", max_windows=1, backend=backend).score(pairs)


def score_retriever(folder: str | os.PathLike, pairs: Sequence[tuple[str, str]] = PAIRS) -> np.ndarray:
    """[pairs] similarities of a dense or SPLADE retriever's folder, by its own prompts, in float32 on the CPU."""
    model = load_retriever(folder)
    queries, documents = zip(*pairs, strict=True)
    options = {"convert_to_tensor": True, "show_progress_bar": False}
    a, b = model.encode_query(list(queries), **options), model.encode_document(list(documents), **options)
    return model.similarity_pairwise(a, b).float().numpy()


def load_retriever(folder: str | os.PathLike) -> Any:
    """A SentenceTransformer or a SparseEncoder, as its files say; no code of the folder is run."""
    import sentence_transformers

    from ..retrievers.encoders import load_encoder

    make = sentence_transformers.SparseEncoder if is_sparse(folder) else sentence_transformers.SentenceTransformer
    return load_encoder(make, folder, device="cpu")


def is_sparse(folder: str | os.PathLike) -> bool:
    """Whether a sentence-transformers folder is a SPLADE model.

    Raises:
        InputError: it is no such folder.
    """
    path = Path(folder) / "modules.json"
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path}: no such file; a retriever is a folder that sentence-transformers saved") from None
    return any(module["type"].endswith(".SpladePooling") for module in modules)


SCORERS = {"ranker": score_ranker, "retriever": score_retriever}


def write_golden(folder: Path, kind: str) -> None:
    """Score the pairs with the model of a folder, and its ONNX files; write `eval/golden.json` into it.

    Raises:
        InputError: the float32 ONNX file scores a pair otherwise than the model.
    """
    scores = SCORERS[kind](folder)
    pairs = [
        {"query": query, "document": document, "score": round(float(score), 6)}
        for (query, document), score in zip(PAIRS, scores, strict=True)
    ]
    content: dict[str, Any] = {"format": FORMAT, "kind": kind, "tolerance": TOLERANCE, "pairs": pairs}
    if kind == "ranker" and (made := onnx_scores(folder)):
        content["onnx"] = {
            backend: {"tolerance": ONNX_TOLERANCE[backend], "scores": [round(float(score), 6) for score in found]}
            for backend, found in made.items()
        }
        apart = float(np.abs(made["onnx"] - scores).max())
        if not apart <= ONNX_TOLERANCE["onnx"] * max(1.0, float(np.abs(scores).max())):
            raise InputError(f"{folder}: the ONNX file and torch score the same pair {apart:.2g} apart")
    path = folder / GOLDEN_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def onnx_scores(folder: Path, pairs: Sequence[tuple[str, str]] = PAIRS) -> dict[str, np.ndarray]:
    """[pairs] logits of each ONNX file of a ranker's folder, by its backend."""
    from ..rankers.onnx_files import FILES

    backends = [backend for backend, name in FILES.items() if (folder / name).exists()]
    return {backend: score_ranker(folder, pairs, backend) for backend in backends}


def check_golden_onnx(folder: Path) -> list[str] | None:
    """`check_golden` for the ONNX files; None where onnxruntime is not installed."""
    from ..rankers.onnx_files import FILES

    if find_spec("onnx") is None or find_spec("onnxruntime") is None:
        return None
    golden = read_json(folder / GOLDEN_FILE)
    made = onnx_scores(folder, [(pair["query"], pair["document"]) for pair in golden["pairs"]])
    stated = golden.get("onnx", {})
    if set(stated) != set(made):
        return [f"{GOLDEN_FILE}: has scores of {', '.join(stated) or 'no ONNX file'}, not of {', '.join(made)}"]
    wrong = []
    for backend, found in made.items():
        tolerance = ONNX_TOLERANCE[backend]
        torch = np.array([pair["score"] for pair in golden["pairs"]])
        expected = torch if backend == "onnx" else np.array(stated[backend]["scores"])
        apart = np.flatnonzero(~np.isclose(found, expected, rtol=tolerance, atol=tolerance))
        wrong += [
            f"{FILES[backend]}: golden pair {index + 1} scores {found[index]:.6f}, not {expected[index]:.6f}"
            for index in apart
        ]
    return wrong


def check_golden(folder: Path, kind: str) -> list[str]:
    """Score the golden pairs again; a line for each pair that another score comes out for.

    The pairs must be `PAIRS`: with fewer or others, a forger could leave out what weights give away.
    """
    golden = read_json(folder / GOLDEN_FILE, "pairs")
    pairs = [(pair["query"], pair["document"]) for pair in golden["pairs"]]
    if pairs != list(PAIRS):
        return [f"{GOLDEN_FILE}: holds other pairs than the {len(PAIRS)} that are published with every model"]
    expected = np.array([pair["score"] for pair in golden["pairs"]])
    found = SCORERS[kind](folder, pairs)
    wrong = np.flatnonzero(~np.isclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE))
    return [
        f"{GOLDEN_FILE}: pair {index + 1} ({pairs[index][0]!r}) scores {found[index]:.6f}, not {expected[index]:.6f}"
        for index in wrong
    ]
