"""Retrieve: let a first stage fetch candidates for every query of a split. Writes run.trec.

    accelerate launch recipes/retrieve.py --collection C --split test --retriever bm25 --depth 1000 --output_dir D

BM25 takes seconds for 10,000 passages. Dense retrieval encodes the corpus: with MiniLM some 100 passages a second
on two CPU cores; the vectors are kept in --index and found again there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from r2anker_hf.collection import Collection, load_collection
from r2anker_hf.config import run_recipe
from r2anker_hf.records import InputError
from r2anker_hf.retrievers.base import Retriever
from r2anker_hf.stage import reference, run_stage


@dataclass
class RetrievalConfig:
    collection: str = field(metadata={"help": "BEIR folder, Hub repository, or 'apidocs'."})
    output_dir: str = field(metadata={"help": "New folder for run.trec."})
    split: str = field(default="test", metadata={"help": "train, dev or test, as the collection names them."})
    revision: str | None = field(default=None, metadata={"help": "Commit of a Hub collection."})
    use_titles: bool = field(default=True, metadata={"help": "Passages are title and text, or text alone."})
    collection_options: dict[str, int] = field(
        default_factory=dict, metadata={"help": "Sizes of 'apidocs', such as passages=300 test=20 dev=20."}
    )
    retriever: Literal["bm25", "dense"] = field(default="bm25", metadata={"help": "bm25 or dense."})
    depth: int = field(default=1000, metadata={"help": "Documents kept a query."})
    preset: str = field(default="lucene", metadata={"help": "BM25: lucene (k1 .9, b .4) or msmarco-tuned (.82, .68)."})
    k1: float | None = field(default=None, metadata={"help": "BM25: overrides the preset."})
    b: float | None = field(default=None, metadata={"help": "BM25: overrides the preset."})
    model: str | None = field(default=None, metadata={"help": "Dense: SentenceTransformer, a folder or Hub id."})
    model_revision: str | None = field(default=None, metadata={"help": "Commit of a Hub model."})
    batch_size: int = field(default=64, metadata={"help": "Dense: texts encoded at once."})
    dtype: str | None = field(default=None, metadata={"help": "Dense: bfloat16 encodes faster; default float32."})
    index: str | None = field(default=None, metadata={"help": "Dense: folder that keeps vectors for other splits."})


def main(config: RetrievalConfig) -> None:
    collection = load_collection(
        config.collection, config.split, config.revision, config.use_titles, **config.collection_options
    )
    inputs: dict[str, str | Path] = {"collection": f"{collection.name}@{collection.revision}"}
    if config.retriever == "dense":
        if not config.model:
            raise InputError("--model is needed for dense retrieval: a SentenceTransformer's folder or Hub id")
        inputs["model"] = reference(config.model, config.model_revision)
    run_stage(config, config.output_dir, inputs, partial(retrieve, config, collection))


def retrieve(config: RetrievalConfig, collection: Collection, folder: Path) -> None:
    """Search and write run.trec; on several processes the main one works (sharding is the index's business)."""
    from accelerate import PartialState

    if PartialState().is_main_process:
        retriever = build_retriever(config, collection, folder)
        retriever.search(collection.queries, config.depth).write_trec(folder / "run.trec")


def build_retriever(config: RetrievalConfig, collection: Collection, folder: Path) -> Retriever:
    """The first stage that a configuration describes, over the collection's corpus."""
    if config.retriever == "bm25":
        from r2anker_hf.retrievers.bm25 import BM25Retriever

        return BM25Retriever.build(collection.corpus, config.preset, config.k1, config.b)
    from r2anker_hf.retrievers.dense import DenseRetriever

    return DenseRetriever(
        config.model,
        collection.corpus,
        revision=config.model_revision,
        folder=config.index or folder / "index",
        batch_size=config.batch_size,
        dtype=config.dtype,
    )


if __name__ == "__main__":
    run_recipe(main, RetrievalConfig)
