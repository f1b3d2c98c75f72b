"""Bench: what a reranking holds and does beside its model, at many pairs. The model is not run: all scores are 0.

    python recipes/benchmarks/pairs.py --output_dir D --queries 200 --depth 1000 --passages 100000

A synthetic collection and first stage are written to D, then the stage is done as rerank.py does it: the run is read
and checked, texts are tokenised, pairs sorted into shards, and the new run written. Prints JSON: seconds of each part,
and GiB and bytes per pair above what the process held before.
"""

from __future__ import annotations

import json
import resource
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from r2anker_hf.config import run_recipe


@dataclass
class PairsConfig:
    output_dir: str = field(metadata={"help": "Folder for the synthetic files, and the new run."})
    queries: int = field(default=200, metadata={"help": "Queries."})
    depth: int = field(default=1000, metadata={"help": "Documents per query."})
    passages: int = field(default=100_000, metadata={"help": "Passages of 40 words, which the run draws from."})


def main(config: PairsConfig) -> None:
    from retrieval import SyntheticCorpus, zipf_texts

    from r2anker_hf.collection.collection import Collection, Corpus
    from r2anker_hf.records import Document
    from r2anker_hf.run import RunFile, check_run

    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    made = SyntheticCorpus(config.passages, 40)
    texts = made.texts(0, config.passages)
    corpus = Corpus.from_documents(Document(doc_id, "", text) for doc_id, text in zip(made.ids, texts, strict=True))
    corpus.text("d0")
    queries = {f"q{n}": text for n, text in enumerate(zipf_texts(config.queries, 6, seed=1))}
    collection = Collection("synthetic", "none", "test", corpus, queries, {})
    write_run(folder / "first.trec", config)
    ranker = no_model(folder / "model")
    held, seconds = peak_gib(), {}
    with timed(seconds, "read and check"):
        first = RunFile(folder / "first.trec")
        check_run(first, queries, "first.trec", "test", corpus, depth=config.depth)
    with timed(seconds, "rerank"):
        run = ranker.rerank(first, collection, config.depth)
    with timed(seconds, "write"):
        run.write_trec(folder / "run.trec")
    above, pairs = peak_gib() - held, config.queries * config.depth
    print(json.dumps({"pairs": pairs, "seconds": seconds, "gib": above, "bytes_a_pair": above * 2**30 / pairs}))


def write_run(path: Path, config: PairsConfig) -> None:
    """A first stage in which every passage is drawn as often as any other."""
    generator = np.random.default_rng(0)
    with open(path, "w", encoding="utf-8") as file:
        for query in range(config.queries):
            chosen = generator.choice(config.passages, config.depth, replace=False).tolist()
            file.writelines(f"q{query} Q0 d{doc} {n + 1} {1 / (n + 1)!r} first\n" for n, doc in enumerate(chosen))


def no_model(folder: Path):
    """A ranker with a tiny model that it never runs."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    from r2anker_hf.rankers.ranker import CrossEncoderRanker

    class WithoutModel(CrossEncoderRanker):
        def _best(self, sizes, *_):
            return np.zeros(len(sizes), np.float32)

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "w", *(f"##{n}" for n in range(1000)), *"0123456789"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertForSequenceClassification(BertConfig(vocab_size=len(vocabulary), num_labels=1, **sizes)).save_pretrained(
        folder
    )
    BertTokenizer(vocab=vocabulary, model_max_length=128).save_pretrained(folder)
    return WithoutModel.from_pretrained(folder, device="cpu")


@contextmanager
def timed(seconds: dict[str, float], name: str):
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 2)


def peak_gib() -> float:
    """Resident memory at its highest so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    run_recipe(main)
