"""Protects BM25: Lucene's formula, one order of ties, and Anserini's published figures."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2anker_hf.collection.collection import Corpus
from r2anker_hf.records import Document, InputError
from r2anker_hf.retrievers.bm25 import PRESETS, BM25Retriever, resolve_parameters
from r2anker_hf.retrievers.lucene import analyze
from r2anker_hf.run import Run

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def corpus_of(passages):
    return Corpus.from_documents([Document(doc_id, "", text) for doc_id, text in passages.items()])


def build(passages, **options):
    return BM25Retriever.build(corpus_of(passages), progress=False, **options)


def ranking(run, query_id="q"):
    return [document.doc_id for document in run[query_id]]


# --- arithmetic


def test_scores_are_lucenes_formula():
    retriever = build({"d1": "red fish", "d2": "red red bird tail", "d3": "blue whale"})
    # 3 documents of 2, 4 and 2 terms: avgdl 8/3. "red" stands in 2 of them.
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    d1 = idf * 1 / (1 + 0.9 * (1 - 0.4 + 0.4 * 2 / (8 / 3)))
    d2 = idf * 2 / (2 + 0.9 * (1 - 0.4 + 0.4 * 4 / (8 / 3)))
    run = retriever.search({"q": "red"}, depth=10)
    assert dict(run["q"]) == pytest.approx({"d1": d1, "d2": d2}, rel=1e-6)
    assert run.name == "bm25"


def test_a_repeated_query_term_counts_again():
    retriever = build({"d1": "red fish", "d2": "fish bird"})
    once, twice = retriever.search({"once": "red", "twice": "red, reds"}, 5).values()
    assert twice[0].score == pytest.approx(2 * once[0].score, rel=1e-6)


def test_empty_documents_count_neither_for_n_nor_for_avgdl():
    passages = {"d1": "red fish", "d2": "red red bird tail", "d3": "blue whale"}
    padded = {"e1": "", **passages, "e2": "the of", "e3": "..."}
    assert build(padded).search({"q": "red whale"}, 9) == build(passages).search({"q": "red whale"}, 9)


# --- order and edges


def test_ties_at_the_cut_follow_runs_order():
    ties = [f"d{number * 7 % 30:02}" for number in range(30)]
    retriever = build({doc_id: "red fish" for doc_id in ties} | {"best": "red red", "other": "blue"})
    whole = ranking(retriever.search({"q": "red"}, 100))
    assert whole == ["best"] + ranking(Run({"q": [(doc_id, 1.0) for doc_id in ties]}))
    for depth in (1, 2, 7, 30, 31):
        assert ranking(retriever.search({"q": "red"}, depth)) == whole[:depth]


def test_only_documents_with_a_query_term_are_found():
    run = build({"d1": "red fish", "d2": "blue whale"}).search({"hit": "Red", "unknown": "zebra", "empty": ""}, 10)
    assert {query_id: ranking(run, query_id) for query_id in run} == {"hit": ["d1"], "unknown": [], "empty": []}
    assert list(run) == ["hit", "unknown", "empty"]


words = st.lists(st.sampled_from("red blue fish bird whale tail deep sea".split()), min_size=1, max_size=6)


@settings(deadline=None)
@given(st.lists(words, min_size=1, max_size=12), st.lists(words, min_size=1, max_size=4), st.integers(1, 8))
def test_each_query_alone_gives_what_all_together_give(documents, queries, depth):
    retriever = build({f"d{number}": " ".join(document) for number, document in enumerate(documents)})
    queries = {f"q{number}": " ".join(query) for number, query in enumerate(queries)}
    together = retriever.search(queries, depth)
    for query_id, text in queries.items():
        assert retriever.search({query_id: text}, depth)[query_id] == together[query_id]
        assert together[query_id] == retriever.search({query_id: text}, 1000)[query_id][:depth]


def test_reading_in_chunks_changes_nothing(monkeypatch):
    passages = {f"d{number}": f"red fish {number % 7} whale {'sea ' * (number % 3)}" for number in range(50)}
    whole = build(passages).search({"q": "fish sea 3"}, 20)
    monkeypatch.setattr("r2anker_hf.retrievers.bm25._PASSAGES_A_CHUNK", 7)
    assert build(passages).search({"q": "fish sea 3"}, 20) == whole


# --- oracle


def test_scores_equal_bm25s_called_directly():
    import bm25s

    texts = [f"red fish {number % 7} whale {'sea ' * (number % 3)} {'bird ' * (number % 5)}" for number in range(60)]
    queries = ["fish sea 3", "bird bird whale 6", "sea"]
    retriever = build({f"d{number:02}": text for number, text in enumerate(texts)}, k1=1.2, b=0.75)
    oracle = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    oracle.index([analyze(text) for text in texts], show_progress=False)
    for query in queries:
        scores = oracle.get_scores(analyze(query))
        expected = {f"d{number:02}": float(score) for number, score in enumerate(scores) if score > 0}
        assert dict(retriever.search({"q": query}, 100)["q"]) == pytest.approx(expected, rel=1e-6)


# --- files


PASSAGES = {"d1": "red fish", "d0": "the", "d2": "red bird caf\u00e9", "d\u00e9": "blue"}


def test_an_index_on_disk_searches_the_same(tmp_path):
    queries = {"q1": "red birds", "q2": "BLUE caf\u00e9"}
    expected = build(PASSAGES, preset="msmarco-tuned").search(queries, 5)
    built = build(PASSAGES, preset="msmarco-tuned", folder=tmp_path / "index")
    loaded = BM25Retriever.load(tmp_path / "index", corpus_of(PASSAGES), progress=False)
    assert built.search(queries, 5) == loaded.search(queries, 5) == expected
    assert loaded.parameters == PRESETS["msmarco-tuned"]
    assert {path.name for path in (tmp_path / "index").iterdir()} == {"index.json", "bm25s"}


def test_a_killed_build_goes_on_with_the_next_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr("r2anker_hf.retrievers.bm25._PASSAGES_A_CHUNK", 2)
    analysed = []

    def analyse_two_chunks(text):
        if len(analysed) == 3:
            raise KeyboardInterrupt
        analysed.append(text)
        return analyze(text)

    monkeypatch.setattr("r2anker_hf.retrievers.languages.analyze", analyse_two_chunks)
    with pytest.raises(KeyboardInterrupt):
        build(PASSAGES, folder=tmp_path)
    with pytest.raises(InputError, match="no finished BM25 index"):
        BM25Retriever.load(tmp_path, corpus_of(PASSAGES))
    analysed.clear()
    monkeypatch.setattr("r2anker_hf.retrievers.languages.analyze", lambda text: analysed.append(text) or analyze(text))
    retriever = build(PASSAGES, folder=tmp_path)
    assert analysed == list(PASSAGES.values())[2:]
    assert retriever.search({"q": "red"}, 5) == build(PASSAGES).search({"q": "red"}, 5)


def test_an_index_of_something_else_is_refused(tmp_path):
    build(PASSAGES, folder=tmp_path / "index")
    for changed in ({**PASSAGES, "d1": "green"}, {"x": "red"}, dict(reversed(PASSAGES.items()))):
        with pytest.raises(InputError, match=r"index: an index of corpus 'sha256:.*, not 'sha256"):
            BM25Retriever.load(tmp_path / "index", corpus_of(changed))
    with pytest.raises(InputError, match=r"an index of k1 0.9, not 1.2; choose another folder"):
        build(PASSAGES, folder=tmp_path / "index", k1=1.2)
    (tmp_path / "index" / "bm25s" / "params.index.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="a broken BM25 index"):
        BM25Retriever.load(tmp_path / "index", corpus_of(PASSAGES))
    with pytest.raises(InputError, match="holds files but no index.json"):
        build(PASSAGES, folder=tmp_path)


# --- malformed input


def test_presets_and_their_replacement():
    assert resolve_parameters("lucene") == (0.9, 0.4)
    assert resolve_parameters("msmarco-tuned") == (0.82, 0.68)
    assert resolve_parameters("lucene", k1=0, b=1) == (0, 1)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"preset": "lucen"}, "unknown BM25 preset 'lucen'; choose from lucene, msmarco-tuned"),
        ({"k1": -0.1}, "k1 is -0.1"),
        ({"k1": math.nan}, "k1 is nan"),
        ({"k1": math.inf}, "k1 is inf"),
        ({"b": 1.5}, "b is 1.5"),
    ],
)
def test_bad_parameters_are_named(options, message):
    with pytest.raises(InputError, match=message):
        build({"d1": "red"}, **options)


def test_a_corpus_without_words_is_refused():
    with pytest.raises(InputError, match="corpus is empty"):
        build({})
    with pytest.raises(InputError, match="none of the 2 passages has a word"):
        build({"d1": "the", "d2": ""})


@pytest.mark.parametrize("depth", [0, -1, 1.5, True, "10"])
def test_a_bad_depth_is_refused(depth):
    with pytest.raises(InputError, match="depth is"):
        build({"d1": "red"}).search({"q": "red"}, depth)


# --- the bar: Anserini's figures for title and text in one field


def _read_beir(folder):
    def read(name):
        with open(folder / name, encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    passages = {row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in read("corpus.jsonl")}
    texts = {row["_id"]: row["text"] for row in read("queries.jsonl")}
    qrels = {}
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query_id, doc_id, grade = line.split("\t")
        qrels.setdefault(query_id, {})[doc_id] = int(grade)
    return passages, {query_id: texts[query_id] for query_id in qrels}, qrels


def _ndcg_at_10(run, qrels):
    """Mean over all judged queries, 0 for a query without a hit; linear gain, as trec_eval."""
    total = 0.0
    for query_id, grades in qrels.items():
        gains = [grades.get(document.doc_id, 0) for document in run[query_id][:10]]
        ideal = sorted(grades.values(), reverse=True)[:10]
        dcg, best = (sum(g / math.log2(rank + 1) for rank, g in enumerate(list_, 1)) for list_ in (gains, ideal))
        total += dcg / best
    return total / len(qrels)


@pytest.mark.skipif(not SHARED.exists(), reason="no ../shared/data")
@pytest.mark.parametrize("name, anserini", [("scifact", 0.679), ("nfcorpus", 0.322)])
def test_ndcg_is_anserinis(name, anserini):
    passages, queries, qrels = _read_beir(SHARED / name)
    run = build(passages).search(queries, 100)
    assert _ndcg_at_10(run, qrels) == pytest.approx(anserini, abs=0.003)
