"""Retrieve: let a first stage fetch candidates for every query of a split. Writes run.trec.

    accelerate launch recipes/retrieve.py --collection C --split test --retriever bm25 --depth 1000 --output_dir D

BM25 takes seconds for 10,000 passages. Dense and SPLADE retrieval encode the corpus, with MiniLM some 100 passages a
second on two CPU cores. The index stays in --index for the next split. Several processes share the work and write the
same bytes; after a kill the same command goes on at the first missing shard or part of the queries.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from r2anker_hf.collection.collection import Collection, load_ranking
from r2anker_hf.collection.options import CollectionOptions
from r2anker_hf.collection.subset import named, only
from r2anker_hf.config import run_recipe
from r2anker_hf.files import check_output
from r2anker_hf.processes import is_main_process
from r2anker_hf.records import InputError
from r2anker_hf.retrievers.base import IndexableCorpus, Retriever
from r2anker_hf.retrievers.languages import check_language
from r2anker_hf.retrievers.parts import QUERIES_A_PART, search_in_parts
from r2anker_hf.retrievers.planning import describe, plan
from r2anker_hf.stage import pinned, run_stage

QUERIES_FOR_RECALL = 200


@dataclass
class RetrievalConfig(CollectionOptions):
    output_dir: str = field(metadata={"help": "New folder for run.trec."})
    split: str = field(default="test", metadata={"help": "train, dev or test, as the collection names them."})
    query_ids: str | None = field(
        default=None, metadata={"help": "File of query ids, one per line: only these queries of the split."}
    )
    retriever: Literal["bm25", "dense", "splade", "stored"] = field(
        default="bm25", metadata={"help": "First stage; stored is one that the collection's repository holds."}
    )
    depth: int = field(default=1000, metadata={"help": "Documents kept per query."})
    index: str | None = field(default=None, metadata={"help": "Folder that keeps the index for other splits."})
    preset: str = field(default="lucene", metadata={"help": "BM25: lucene (k1 .9, b .4) or msmarco-tuned (.82, .68)."})
    k1: float | None = field(default=None, metadata={"help": "BM25: overrides the preset."})
    b: float | None = field(default=None, metadata={"help": "BM25: overrides the preset."})
    language: str = field(
        default="english", metadata={"help": "BM25: text analysis, such as german (stems) or chinese (characters)."}
    )
    ranking: str | None = field(
        default=None, metadata={"help": "Stored: its configuration, such as top_ranked (MTEB) or bm25 (NanoBEIR)."}
    )
    model: str | None = field(
        default=None, metadata={"help": "Dense: SentenceTransformer; SPLADE: SparseEncoder; a folder or Hub id."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Commit of a Hub model."})
    batch_size: int = field(default=64, metadata={"help": "Dense, SPLADE: texts encoded at once."})
    dtype: Literal["float32", "bfloat16", "float16"] | None = field(
        default=None, metadata={"help": "Dense, SPLADE: bfloat16 is faster; default float32."}
    )
    queries_a_part: int = field(
        default=QUERIES_A_PART, metadata={"help": "Queries searched together; a finished part survives a kill."}
    )
    shard_size: int = field(default=100_000, metadata={"help": "Dense, SPLADE: passages of a shard, held in memory."})
    search: Literal["flat", "ivf", "hnsw"] = field(
        default="flat", metadata={"help": "Dense: flat is exact; ivf and hnsw are faster and state their recall."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Say what would be read, computed and stored, after a short trial."}
    )

    def __post_init__(self):
        if self.search != "flat" and self.retriever != "dense":
            raise InputError(f"search is {self.search!r}, which is for dense retrieval; {self.retriever} is exact")
        if self.model and self.retriever not in ("dense", "splade"):
            raise InputError(f"model is {self.model!r}, which {self.retriever} does not read; add --retriever dense")
        check_language(self.language)
        if (self.ranking is not None) != (self.retriever == "stored"):
            raise InputError(f"ranking is {self.ranking!r}: --retriever stored needs one, and no other takes one")
        if self.retriever == "stored" and self.dry_run:
            raise InputError("dry_run: a stored ranking costs nothing but its download")
        if self.index:
            check_output(self.index, option="index")


def main(config: RetrievalConfig) -> None:
    collection = config.load(config.split)
    inputs: dict[str, str | Path] = {"collection": f"{collection.name}@{collection.revision}"}
    if config.query_ids:
        collection = only(collection, named(config.query_ids, collection.queries, config.split))
        inputs["queries"] = Path(config.query_ids)
    if config.retriever in ("dense", "splade"):
        if not config.model:
            raise InputError(f"--model is needed for {config.retriever} retrieval: its folder or Hub id")
        config, model = pinned(config, model="model")
        inputs |= model
    if config.dry_run:
        make = partial(build_retriever, config)
        estimate = plan(config.retriever, make, collection.corpus, collection.queries, config.depth, config.shard_size)
        print(f"{config.retriever} over {collection.name}, split {config.split}, for one process:")
        print(describe(estimate))
        return
    run_stage(config, config.output_dir, inputs, partial(retrieve, config, collection))


def retrieve(config: RetrievalConfig, collection: Collection, folder: Path) -> None:
    """Search and write run.trec. Several processes share the encoding, the indexing of text, and the search."""
    if config.ranking is not None:
        if is_main_process():
            load_ranking(collection, config.ranking, config.depth).write_trec(folder / "run.trec")
        return
    retriever = build_retriever(config, collection.corpus, config.index or folder / "index")
    search_in_parts(retriever, collection.queries, config.depth, folder, config.queries_a_part)
    if config.search != "flat":
        sample = dict(islice(collection.queries.items(), QUERIES_FOR_RECALL))
        recall = {"recall_against_exact": retriever.recall(sample, config.depth), "queries": len(sample)}
        print(f"{config.search}: recall of the exact top {config.depth} {recall['recall_against_exact']:.4f}")
        (folder / "recall.json").write_text(json.dumps(recall, indent=2) + "\n", encoding="utf-8")


def build_retriever(config: RetrievalConfig, corpus: IndexableCorpus, index: str | Path) -> Retriever:
    """The first stage that a configuration describes, over a corpus, with its index in that folder."""
    if config.retriever == "bm25":
        from r2anker_hf.retrievers.bm25 import BM25Retriever

        return BM25Retriever.build(corpus, config.preset, config.k1, config.b, index, language=config.language)
    from accelerate import PartialState

    options = {"revision": config.model_revision, "folder": index, "batch_size": config.batch_size}
    options |= {"dtype": config.dtype, "device": str(PartialState().device), "shard_size": config.shard_size}
    if config.retriever == "splade":
        from r2anker_hf.retrievers.splade import SpladeRetriever

        return SpladeRetriever.build(corpus, config.model, **options)
    from r2anker_hf.retrievers.dense import DenseRetriever

    return DenseRetriever.build(corpus, config.model, search=config.search, **options)


if __name__ == "__main__":
    run_recipe(main)
