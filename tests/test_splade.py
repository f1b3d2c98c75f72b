"""Protects SPLADE retrieval: exact products, shards that do not show, and agreement with sentence-transformers."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2anker_hf.collection.collection import Corpus
from r2anker_hf.records import Document, InputError
from r2anker_hf.retrievers.splade import SpladeRetriever
from r2anker_hf.run import Run

WORDS = "red blue fish bird whale tail deep sea coral wave sand shell".split()


def corpus_of(passages):
    return Corpus.from_documents([Document(doc_id, "", text) for doc_id, text in passages.items()])


def make_model(weights=None):
    """A real SparseEncoder that weighs each word of a text by a number of its own, whatever stands beside it."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    import torch

    weights = weights or {word: 1.0 + number / 4 for number, word in enumerate(WORDS)}
    values = torch.tensor([weights.get(word, 0.0) for word in words])
    return SparseEncoder(modules=[SparseStaticEmbedding(fast, values, frozen=True)], device="cpu")


@pytest.fixture(scope="module")
def model():
    return make_model()


def make_passages(number):
    generator = np.random.default_rng(1)
    return {f"d{index:03}": " ".join(generator.choice(WORDS, size=4)) for index in range(number)}


def retrieve(model, passages, queries, depth, **options):
    return SpladeRetriever(model, corpus_of(passages), progress=False, **options).search(queries, depth)


def test_a_score_is_the_product_of_the_weights():
    model = make_model({"red": 2.0, "fish": 0.5, "sea": 3.0})
    run = retrieve(model, {"d1": "red fish", "d2": "fish sea", "d3": "blue"}, {"q": "red fish", "none": "blue"}, 9)
    assert dict(run["q"]) == {"d1": 2.0 * 2.0 + 0.5 * 0.5, "d2": 0.5 * 0.5}
    assert run["none"] == () and list(run) == ["q", "none"] and run.name == "splade"


def test_scores_are_those_of_sentence_transformers(model):
    passages, queries = make_passages(50), {"q1": "red whale", "q2": "deep sea sand"}
    ours = retrieve(model, passages, queries, 50, shard_size=17)
    products = model.similarity(
        model.encode_query(list(queries.values())), model.encode_document(list(passages.values()))
    )
    for row, query_id in enumerate(queries):
        expected = {d: s for d, s in zip(passages, products[row].tolist(), strict=True) if s > 0}
        assert dict(ours[query_id]) == pytest.approx(expected)


@settings(max_examples=15, deadline=None)
@given(shard_size=st.integers(1, 90), depth=st.integers(1, 90))
def test_neither_shards_nor_depth_show(model, shard_size, depth):
    passages, queries = make_passages(80), {"q1": "red whale", "q2": "deep sea sand", "q3": "unknown"}
    whole = retrieve(model, passages, queries, 80)
    assert retrieve(model, passages, queries, depth, shard_size=shard_size) == whole.top(depth)


def test_blocks_of_queries_do_not_show(model, monkeypatch):
    passages = make_passages(40)
    queries = {f"q{number}": " ".join(pair) for number, pair in enumerate(itertools.combinations(WORDS, 2))}
    expected = retrieve(model, passages, queries, 7)
    monkeypatch.setattr("r2anker_hf.retrievers.splade._QUERIES_A_BLOCK", 5)
    assert retrieve(model, passages, queries, 7) == expected and list(expected) == list(queries)


@pytest.mark.parametrize("shard_size", [7, 1000])
def test_ties_at_the_cut_follow_runs_order(model, shard_size):
    equal = {f"d{number * 7 % 300:03}": "red fish" for number in range(300)}
    run = retrieve(model, {"x": "sand", **equal}, {"q": "red fish"}, 5, shard_size=shard_size)
    assert run["q"] == Run({"q": [(doc_id, run["q"][0].score) for doc_id in equal]})["q"][:5]


def test_the_index_is_kept_and_refused_for_something_else(model, tmp_path):
    passages, queries = make_passages(30), {"q": "red whale"}
    first = retrieve(model, passages, queries, 5, folder=tmp_path, shard_size=10)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert retrieve(model, passages, queries, 5, folder=tmp_path, shard_size=10) == first
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InputError, match="an index of corpus"):
        retrieve(model, make_passages(31), queries, 5, folder=tmp_path, shard_size=10)
    with pytest.raises(InputError, match="an index of model"):
        retrieve(make_model({"red": 7.0}), passages, queries, 5, folder=tmp_path, shard_size=10)


def test_statistics_count_terms_and_bytes(model):
    retriever = SpladeRetriever(model, corpus_of({"d1": "red fish", "d2": "sea"}), progress=False)
    assert retriever.statistics()["terms_per_passage"] == 1.5
    assert retriever.statistics()["bytes"] >= 3 * (4 + 4)


def test_bad_input_is_named(model):
    with pytest.raises(InputError, match="document 'd0' the weight nan"):
        retrieve(make_model({"red": float("nan")}), {"d0": "red"}, {"q": "sea"}, 5)
    with pytest.raises(InputError, match="query 'q' the weight -1.0"):
        retrieve(make_model({"red": -1.0, "sea": 1.0}), {"d0": "sea"}, {"q": "red"}, 5)
    with pytest.raises(InputError, match="/nowhere/at/all: no such folder"):
        retrieve("/nowhere/at/all", {"d0": "sea"}, {"q": "sea"}, 5)
    with pytest.raises(InputError, match="corpus is empty"):
        retrieve(model, {}, {"q": "sea"}, 5)
    with pytest.raises(InputError, match="depth is 0"):
        retrieve(model, {"d0": "sea"}, {"q": "sea"}, 0)
