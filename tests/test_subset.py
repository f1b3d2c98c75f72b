"""Protects query subsets: what is done for some queries is what a whole split gets, and a wrong file is named."""

import json

import pytest
from published_toy import run, write_collection

from r2anker_hf.collection.collection import load_collection
from r2anker_hf.collection.subset import named, only
from r2anker_hf.publishing.evidence import _qrels
from r2anker_hf.records import InputError
from r2anker_hf.run import Run

QUERIES = {"q1": "red", "q2": "blue", "q3": "green"}


@pytest.mark.parametrize("content", ["q3\nq1\n", "\ufeffq3\r\n\r\nq1\tthe text", " q1 \nq3"])
def test_named_queries_come_in_the_split_s_order(tmp_path, content):
    (tmp_path / "ids.txt").write_text(content, encoding="utf-8")
    assert list(named(tmp_path / "ids.txt", QUERIES, "test").items()) == [("q1", "red"), ("q3", "green")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("q1\nq9\n", "ids.txt, line 2: query 'q9' is not among the 3 queries of split 'test'"),
        ("q1\nq2\nq1\n", "ids.txt, line 3: query 'q1' stands on line 1 already"),
        ("\n", "ids.txt: names no query"),
        (None, "ids.txt: no such file"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path, content, told):
    if content is not None:
        (tmp_path / "ids.txt").write_text(content)
    with pytest.raises(InputError, match=told):
        named(tmp_path / "ids.txt", QUERIES, "test")


def lines_of(path):
    """The lines of a table below its head."""
    return path.read_text().splitlines()[1:]


def test_recipes_do_for_some_queries_what_they_do_for_all(tiny_model, tmp_path):
    write_collection(tmp_path / "toy")
    collection = load_collection(tmp_path / "toy", "test")
    chosen = list(collection.queries)[1::3]
    (tmp_path / "ids.txt").write_text("\n".join(reversed(chosen)))
    found = {}
    for name, options in {"all": {}, "some": {"query_ids": tmp_path / "ids.txt"}}.items():
        common = {"collection": tmp_path / "toy", **options}
        run("retrieve", "RetrievalConfig", **common, depth=5, output_dir=tmp_path / name / "bm25")
        first = {"first_stage": tmp_path / "all" / "bm25" / "run.trec", "ranker": tiny_model}
        run("rerank", "RerankingConfig", **common, **first, max_length=32, output_dir=tmp_path / name / "ranker")
        runs = [f"{one}={tmp_path / 'all' / one / 'run.trec'}" for one in ("bm25", "ranker")]
        run("score", "ScoringConfig", **common, runs=runs, resamples=10, output_dir=tmp_path / name / "report")
        found[name] = {one: Run.read_trec(tmp_path / name / one / "run.trec") for one in ("bm25", "ranker")}
    assert found["some"]["bm25"] == {query_id: found["all"]["bm25"][query_id] for query_id in chosen}
    assert list(found["some"]["ranker"]) == chosen
    for query_id in chosen:
        whole = {document.doc_id: document.score for document in found["all"]["ranker"][query_id]}
        assert {d.doc_id: d.score for d in found["some"]["ranker"][query_id]} == pytest.approx(whole, abs=1e-4)
    measured = {
        name: {line.split()[0] for line in lines_of(tmp_path / name / "report/per_query.tsv")} for name in found
    }
    assert measured == {"all": set(collection.queries), "some": set(chosen)}
    assert "test, ids.txt" in (tmp_path / "some/report/report.md").read_text()
    for stage in ("bm25", "ranker", "report"):
        stated = json.loads((tmp_path / "some" / stage / "provenance.json").read_text())["inputs"]
        assert stated["queries"].startswith("sha256:")


def test_a_subset_keeps_corpus_and_judgements(tmp_path):
    write_collection(tmp_path / "toy")
    collection = load_collection(tmp_path / "toy", "test")
    chosen = list(collection.queries)[2:4]
    part = only(collection, chosen)
    assert part.corpus is collection.corpus and list(part.queries) == chosen == list(part.qrels)
    assert all(part.positives(query_id) == collection.positives(query_id) for query_id in chosen)


def test_a_report_of_some_queries_is_not_published(tmp_path):
    keys = ("runs", "qrels", "collection", "split", "revision", "use_titles")
    (tmp_path / "config.yaml").write_text(json.dumps({**dict.fromkeys(keys), "query_ids": "ids.txt"}))
    with pytest.raises(InputError, match="measures only the queries of ids.txt"):
        _qrels(tmp_path)
