"""Every figure of the audit is arithmetic on lists written out, and the card shows what audit.json holds."""

import json
import re
from pathlib import Path

import pytest
import yaml

from r2anker_hf.collection.collection import Collection, Corpus
from r2anker_hf.negatives.audit import audit, audit_folder, jaccard, overlap, shingles, suspicious_markdown
from r2anker_hf.negatives.candidates import Mining, write_corpus, write_manifest, write_shards
from r2anker_hf.negatives.card import draw_plots, write_card
from r2anker_hf.records import Document, InputError
from r2anker_hf.run import Run

TEXTS = {
    "p": "The quick brown fox jumps over the lazy dog near the old stone bridge today",
    "same": "the quick, brown fox JUMPS over the lazy dog; near the old stone bridge today!",
    "near": "The quick brown fox jumps over the lazy dog near the old stone bridge again",
    "a": "A passage about cats",
    "b": "A passage about birds and their songs",
    "c": "Nothing of the kind",
    "r": "Rivers run to the sea",
    "s": "Stones do not",
}


def row(query_id, positives, bm25, dense, ranker=()):
    def ranked(key, name, ids):
        return {key: name, "doc_ids": list(ids), "scores": [float(10 - i) for i, _ in enumerate(ids)]}

    made = {"query_id": query_id, "query": f"query {query_id}", "positive_ids": list(positives)}
    made["candidates"] = [ranked("retriever", "bm25", bm25), ranked("retriever", "dense", dense)]
    if ranker:
        made["rankings"] = [ranked("ranker", "judge", ranker)]
    return made


@pytest.fixture
def rows():
    return [
        # a stands above p in both lists, b in bm25 alone; same and near are copies of p
        row("q1", ["p"], ["a", "b", "p", "same", "c"], ["a", "p", "near", "b"], ["same", "p", "a", "b", "c", "near"]),
        # dense does not list r: its whole list stands above, but bm25 puts r first
        row("q2", ["r"], ["r", "s", "a"], ["s", "b"], ["r", "s", "a", "b"]),
    ]


def test_overlap_and_jaccard_by_hand():
    assert overlap(["a", "b", "c"], ["c", "a"], 2) == 1 / 2 and overlap(["a", "b", "c"], ["c", "a"], 200) == 2 / 3
    assert overlap([], [], 10) == 0 == overlap(["a"], [], 10)
    # 13 shingles of three words each; one word changed at the end changes one of them: 12 of 14
    assert len(shingles(TEXTS["p"])) == 13 and jaccard(shingles(TEXTS["p"]), shingles(TEXTS["near"])) == 12 / 14
    assert shingles("") == frozenset() and jaccard(frozenset(), frozenset()) == 0


def test_figures_by_hand(rows):
    found = audit(rows, TEXTS.get)
    bm25, dense = found["retrievers"]["bm25"], found["retrievers"]["dense"]
    # bm25: q1 a b same c, q2 s a; dense: q1 a near b, q2 s b
    assert (bm25["negatives"], dense["negatives"]) == (6, 5)
    assert bm25["above_positive_share"] == round(2 / 6, 6)  # a and b of q1
    assert dense["above_positive_share"] == round(3 / 5, 6)  # a of q1, all of q2
    assert bm25["alone_share"] == round(3 / 6, 6)  # same and c of q1, a of q2
    assert dense["alone_share"] == round(2 / 5, 6)  # near of q1, b of q2
    assert (bm25["duplicates"], bm25["near_duplicates"]) == (1, 0)
    assert (dense["duplicates"], dense["near_duplicates"]) == (0, 1)
    assert (bm25["suspected"], dense["suspected"]) == (2, 2)  # a and same, a and near
    assert bm25["positive_within"] == {"1": 0.5, "2": 0.5, "5": 1.0}
    assert dense["positive_within"] == {"1": 0.0, "2": 0.5, "5": 0.5}
    (pair,) = found["pairs"]
    # top 10: q1 shares a b p of 5, q2 shares s of 3
    assert pair["overlap"]["10"] == round((3 / 5 + 1 / 3) / 2, 6)
    # negatives by query: q1 a b (2) same c near (1), q2 s (2) a b (1)
    assert found["found_by"] == {"1": round(5 / 8, 6), "2": round(3 / 8, 6)}
    assert (found["queries"], found["queries_with_a_duplicate"], found["queries_with_a_suspect"]) == (2, 1, 1)
    assert found["by_rank"][0]["from"] == 1 and found["by_rank"][0]["retrievers"]["bm25"]["negatives"] == 6


def test_suspicious_negatives_come_with_ranks_reasons_and_texts(rows):
    found = audit(rows, TEXTS.get)["suspicious"]
    (copy,) = found["duplicates"]
    assert (copy["doc_id"], copy["positive_id"], copy["reason"]) == ("same", "p", "same text")
    assert copy["ranks"] == {"bm25": 4, "dense": None} and copy["positive_ranks"] == {"bm25": 3, "dense": 2}
    (leading,) = found["leading"]
    assert leading["doc_id"] == "a" and leading["text"] == TEXTS["a"] and leading["positive_text"] == TEXTS["p"]
    told = suspicious_markdown(audit(rows, TEXTS.get))
    assert "same (same text; bm25 rank 4, dense not listed)" in told and TEXTS["a"] in told
    assert audit(rows, TEXTS.get, with_texts=False)["suspicious"]["leading"][0]["text"] is None


def test_a_ranker_judges_in_place_of_the_retrievers(rows):
    found = audit(rows, TEXTS.get, judged_by="judge")
    # it puts same above p; a, in which both retrievers agree, it does not
    assert found["retrievers"]["bm25"]["suspected"] == 1 and found["retrievers"]["dense"]["suspected"] == 1
    # of 5 scored negatives of q1 and 3 of q2, one is as high
    assert found["judged"]["judge"] == {
        "negatives": 8,
        "at_or_above_positive": 1,
        "at_or_above_positive_share": round(1 / 8, 6),
    }
    with pytest.raises(InputError, match="no ranker 'onion'; choices: judge"):
        audit(rows, TEXTS.get, judged_by="onion")
    with pytest.raises(InputError, match="split 'train' has no rows"):
        audit([], TEXTS.get)


def test_the_same_queries_are_chosen_whatever_the_order(rows):
    many = [{**rows[0], "query_id": f"q{i}"} for i in range(400)]
    chosen = audit(many, TEXTS.get, queries_in_split=400, max_queries=100)
    again = audit(many[::-1], TEXTS.get, queries_in_split=400, max_queries=100)
    assert chosen == again and 70 < chosen["queries"] < 130 and chosen["queries_in_split"] == 400
    other = audit(many, TEXTS.get, queries_in_split=400, max_queries=100, seed=7)
    assert other["suspicious"] != chosen["suspicious"]


@pytest.fixture
def folder(rows, tmp_path):
    corpus = Corpus.from_documents(Document(doc_id, "", text) for doc_id, text in TEXTS.items())
    qrels = {"q1": {"p": 1}, "q2": {"r": 1}}
    collection = Collection("them/toy", "0" * 40, "train", corpus, {q: f"what | about *{q}*?" for q in qrels}, qrels)
    runs = {}
    for index, name in enumerate(("bm25", "dense")):
        lists = {one["query_id"]: one["candidates"][index] for one in rows}
        runs[name] = Run({q: zip(x["doc_ids"], x["scores"], strict=True) for q, x in lists.items()}, name)
    write_shards(tmp_path, Mining(collection, runs))
    return tmp_path, Mining(collection, runs)


def test_the_card_shows_the_audit(folder):
    path, mining = folder
    write_corpus(path, mining.collection.corpus)
    write_manifest(path, [mining])
    assert "## Audit" not in (path / "README.md").read_text()
    found = audit_folder(path, mining.collection.corpus.text)
    write_card(path)
    card = (path / "README.md").read_text()
    assert found == json.loads((path / "audit.json").read_text())
    assert "| bm25 | 6 | 33.3% | 50.0% | 1 | 0 | 2 (33.3%) |" in card
    assert r"what \| about \*q1\*?" in card and TEXTS["same"].split("!")[0][:30] in card
    for link in re.findall(r"\]\((plots/[^)]+)\)", card):
        assert (path / link).read_bytes().startswith(b"\x89PNG")
    assert len(re.findall(r"\]\((plots/[^)]+)\)", card)) == 4
    yaml.safe_load(card.split("---\n")[1])
    assert 'load_dataset("me/toy", "candidates", split="train")' in write_card(path, "me/toy").read_text()
    for line in card.splitlines():
        assert not line.endswith("undefined") and "{{" not in line


def test_where_copies_are_forbidden_no_text_leaves_for_the_card(folder):
    path, mining = folder
    write_manifest(path, [mining])
    audit_folder(path, mining.collection.corpus.text)
    write_card(path)
    for name in ("README.md", "audit.json"):
        assert "quick" not in (path / name).read_text(), name
    assert "quick" in (path / "suspicious.md").read_text()
    assert "suspicious.md" not in json.loads((path / "manifest.json").read_text())["files"]


def test_equal_audits_draw_equal_pictures(rows, tmp_path):
    found = audit(rows, TEXTS.get)
    one, two = draw_plots(found, tmp_path / "one"), draw_plots(found, tmp_path / "two")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert {path.stem for path in one} == {"positives", "overlap", "agreement", "suspects"}


def test_one_retriever_alone_is_audited_too(tmp_path):
    alone = row("q", ["p"], ["a", "p", "same"], [])
    alone["candidates"] = alone["candidates"][:1]
    found = audit([alone], TEXTS.get)
    assert found["pairs"] == [] and found["retrievers"]["bm25"]["suspected"] == 1
    assert all(Path(path).stat().st_size > 1000 for path in draw_plots(found, tmp_path))
