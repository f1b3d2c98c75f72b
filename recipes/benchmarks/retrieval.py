"""Bench: what each first stage costs at 10,000 to 1,000,000 synthetic passages, beside its engine called directly.

    python recipes/benchmarks/retrieval.py --output_dir D                    # all of it, some 20 minutes on two cores
    python recipes/benchmarks/retrieval.py --output_dir D --retrievers bm25 --sizes 10000 --queries 200

Each (retriever, size) runs in a process of its own, whose peak memory is measured before the engines are; all run in
it one after the other, the median of three repeats each. Passages are Zipf-distributed words (BM25: 40, SPLADE: 64),
or vectors of 384 numbers. Writes costs.json and costs.png.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from r2anker_hf.config import run_recipe

DEPTH = 1000
WORDS = 30_000
DIMENSIONS = 384
REPEATS = 3


@dataclass
class BenchConfig:
    output_dir: str = field(metadata={"help": "Folder for costs.json and costs.png."})
    retrievers: list[str] = field(default_factory=lambda: ["bm25", "dense", "splade"], metadata={"help": "Which."})
    sizes: list[int] = field(default_factory=lambda: [10_000, 100_000, 1_000_000], metadata={"help": "Passages."})
    queries: int = field(default=1000, metadata={"help": "Queries searched at depth 1000."})
    one: bool = field(default=False, metadata={"help": "Measure the first retriever and size here, print JSON."})


class SyntheticCorpus:
    """Passages of words drawn by Zipf's law, made when they are read, so that they take no memory."""

    def __init__(self, size: int, words: int):
        self.ids = [f"d{number}" for number in range(size)]
        self._words = words

    def __len__(self) -> int:
        return len(self.ids)

    def texts(self, start: int, stop: int) -> list[str]:
        """Passage n is the same whatever is read with it."""
        block = 1000
        made = [
            text
            for first in range(start // block * block, stop, block)
            for text in zipf_texts(block, self._words, seed=first)
        ]
        skipped = start % block
        return made[skipped : skipped + stop - start]


def zipf_texts(number: int, words: int, seed: int) -> list[str]:
    """Texts of that many words each."""
    generator = np.random.default_rng(seed)
    ranks = np.floor(np.exp(generator.random((number, words)) * np.log(WORDS))).astype(int) - 1
    return [" ".join([f"w{rank}" for rank in row]) for row in ranks.tolist()]


def main(config: BenchConfig) -> None:
    if config.one:
        print(json.dumps(MEASURED[config.retrievers[0]](config.sizes[0], config.queries)))
        return
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for retriever in config.retrievers:
        for size in config.sizes:
            command = [
                sys.executable,
                __file__,
                "--one",
                "--output_dir",
                str(folder),
                "--queries",
                str(config.queries),
            ]
            command += ["--retrievers", retriever, "--sizes", str(size)]
            answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            rows.append({"retriever": retriever, "passages": size, **json.loads(answer.splitlines()[-1])})
            print(json.dumps(rows[-1]), flush=True)
    (folder / "costs.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    plot(rows, folder / "costs.png")


def measure(make: Callable, queries: dict[str, str], direct: Callable[[object], Callable[[], object]]) -> dict:
    """Seconds to build, milliseconds a query of ours and of the engine, and the peak memory of ours in GiB."""
    started = time.perf_counter()
    retriever = make()
    built = time.perf_counter() - started
    retriever.search(dict(list(queries.items())[:5]), DEPTH)
    ours = timed(lambda: retriever.search(queries, DEPTH))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    engines = {name: 1000 * timed(search) / len(queries) for name, search in direct(retriever).items()}
    mine = 1000 * ours / len(queries)
    return {"build_s": built, "ours_ms": mine, "peak_gib": peak, "engines_ms": engines}


def timed(search: Callable[[], object]) -> float:
    """Median seconds of `REPEATS` repeats."""
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        search()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def bm25(size: int, queries: int) -> dict:
    from r2anker_hf.retrievers.bm25 import BM25Retriever
    from r2anker_hf.retrievers.lucene import analyze

    texts = dict(enumerate(zipf_texts(queries, 6, seed=-1 % 2**32)))

    def direct(retriever):
        def search():
            terms = [analyze(text) for text in texts.values()]
            retriever._index.retrieve(terms, k=min(DEPTH, size), show_progress=False)

        return {"bm25s": search}

    with tempfile.TemporaryDirectory() as folder:
        make = lambda: BM25Retriever.build(SyntheticCorpus(size, 40), folder=f"{folder}/index", progress=False)  # noqa: E731
        return measure(make, texts, direct)


def dense(size: int, queries: int) -> dict:
    import faiss
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from r2anker_hf.retrievers.dense import DenseRetriever

    weights = np.random.default_rng(0).normal(size=(WORDS + 1, DIMENSIONS)).astype(np.float32)
    module = StaticEmbedding(tokenizer(), embedding_weights=weights)
    model = SentenceTransformer(modules=[module], device="cpu", similarity_fn_name="cosine")
    texts = dict(enumerate(zipf_texts(queries, 6, seed=2**31)))

    def direct(retriever):
        index = faiss.IndexFlatIP(DIMENSIONS)
        for shard in retriever._shards:
            index.add(np.ascontiguousarray(shard))

        def search():  # as the other side, from texts
            index.search(retriever._encode_queries(list(texts), list(texts.values())), min(DEPTH, size))

        return {"faiss": search}

    with tempfile.TemporaryDirectory() as folder:
        make = lambda: DenseRetriever(model, SyntheticCorpus(size, 8), folder=f"{folder}/index", progress=False)  # noqa: E731
        return measure(make, texts, direct)


def splade(size: int, queries: int) -> dict:
    """Engines: sentence-transformers' own search over the same vectors, and numpy term by term."""
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding
    from sentence_transformers.util import semantic_search
    from transformers import PreTrainedTokenizerFast

    from r2anker_hf.retrievers.splade import SpladeRetriever

    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer(), pad_token="[UNK]", unk_token="[UNK]")
    weights = torch.rand(WORDS + 1, generator=torch.Generator().manual_seed(0)) + 0.1
    model = SparseEncoder(modules=[SparseStaticEmbedding(words, weights, frozen=True)], device="cpu")
    texts = dict(enumerate(zipf_texts(queries, 24, seed=2**31)))

    def direct(retriever):
        encoded = retriever._encode("query", list(texts), list(texts.values()))
        engines = {
            "scipy alone": lambda: [encoded[n : n + 32] @ s for n in range(0, queries, 32) for s in retriever._shards]
        }
        few = min(queries, 20)
        if size <= 100_000:
            passages = SyntheticCorpus(size, 64).texts(0, size)
            corpus = model.encode_document(passages, batch_size=512, convert_to_sparse_tensor=True)
            vectors = model.encode_query(list(texts.values())[:few], convert_to_sparse_tensor=True)
            search = lambda: semantic_search(vectors, corpus, top_k=DEPTH, score_function=model.similarity)  # noqa: E731
            engines["sentence-transformers, times queries"] = lambda: [search() for _ in range(queries // few)]
        engines["numpy by term"] = lambda: by_term(encoded, retriever._shards)
        engines |= optional_engines(encoded, retriever._shards)
        return engines

    with tempfile.TemporaryDirectory() as folder:
        make = lambda: SpladeRetriever(model, SyntheticCorpus(size, 64), folder=f"{folder}/index", progress=False)  # noqa: E731
        return measure(make, texts, direct)


def by_term(encoded, shards) -> None:
    """Scores of all documents, one posting list after the other."""
    for row in range(encoded.shape[0]):
        terms = slice(encoded.indptr[row], encoded.indptr[row + 1])
        for shard in shards:
            scores = np.zeros(shard.shape[1], np.float32)
            for term, weight in zip(encoded.indices[terms], encoded.data[terms], strict=True):
                found = slice(shard.indptr[term], shard.indptr[term + 1])
                scores[shard.indices[found]] += weight * shard.data[found]
            np.partition(scores, -min(DEPTH, len(scores)))


def optional_engines(encoded, shards) -> dict[str, Callable[[], object]]:
    """Engines that are not required, where they are installed."""
    try:
        from sparse_dot_topn import sp_matmul_topn
    except ImportError:
        return {}
    from scipy.sparse import csr_matrix

    def in_memory(matrix):  # it takes indices and pointers of one type, from arrays that could be written
        parts = matrix.data.copy(), matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
        return csr_matrix(parts, shape=matrix.shape)

    left, right = in_memory(encoded), [in_memory(shard) for shard in shards]
    return {"sparse_dot_topn": lambda: [sp_matmul_topn(left, s, top_n=DEPTH, sort=True, n_threads=1) for s in right]}


def tokenizer():
    """Words as they are written."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"[UNK]": 0, **{f"w{number}": number + 1 for number in range(WORDS)}}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


MEASURED = {"bm25": bm25, "dense": dense, "splade": splade}


def plot(rows: list[dict], path: Path) -> None:
    """Build time and query time against corpus size, with a line of slope 1 beside them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    panels = [("build_s", "index, seconds"), ("ours_ms", "query, milliseconds"), ("peak_gib", "peak memory, GiB")]
    for axis, (key, title) in zip(axes, panels, strict=True):
        for name in dict.fromkeys(row["retriever"] for row in rows):
            points = [(row["passages"], row[key]) for row in rows if row["retriever"] == name]
            axis.loglog(*zip(*points, strict=True), marker="o", label=name)
        sizes = sorted({row["passages"] for row in rows})
        top = max(row[key] for row in rows)
        axis.loglog(sizes, [top * size / sizes[-1] for size in sizes], color="0.7", linestyle="--", label="linear")
        axis.set(title=title, xlabel="passages")
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    run_recipe(main)
