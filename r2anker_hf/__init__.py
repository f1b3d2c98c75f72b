"""Robust rankers for text retrieval, from a collection to the Hugging Face Hub (R2ANKER).

The names of `__all__` are loaded when they are first asked for, so that importing the package loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import processes as processes  # whatever of us a launch imports, it leaves its group at the end

if TYPE_CHECKING:
    from .collection.collection import load_collection
    from .evaluation.evaluation import evaluate
    from .evaluation.fusion import fuse
    from .negatives.candidates import load_candidates
    from .rankers.collator import GroupedListwiseCollator
    from .rankers.listwise import ListwiseConfig, ListwiseTrainer
    from .rankers.ranker import CrossEncoderRanker
    from .retrievers.bm25 import BM25Retriever
    from .retrievers.dense import DenseRetriever
    from .retrievers.splade import SpladeRetriever
    from .run import Run

__version__ = "0.1.0"

# The same imports as above, for the interpreter; a test compares both.
_MODULES = {
    "BM25Retriever": "retrievers.bm25",
    "CrossEncoderRanker": "rankers.ranker",
    "DenseRetriever": "retrievers.dense",
    "GroupedListwiseCollator": "rankers.collator",
    "ListwiseConfig": "rankers.listwise",
    "ListwiseTrainer": "rankers.listwise",
    "Run": "run",
    "SpladeRetriever": "retrievers.splade",
    "evaluate": "evaluation.evaluation",
    "fuse": "evaluation.fusion",
    "load_candidates": "negatives.candidates",
    "load_collection": "collection.collection",
}
__all__ = [
    "BM25Retriever",
    "CrossEncoderRanker",
    "DenseRetriever",
    "GroupedListwiseCollator",
    "ListwiseConfig",
    "ListwiseTrainer",
    "Run",
    "SpladeRetriever",
    "evaluate",
    "fuse",
    "load_candidates",
    "load_collection",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
