"""Held-out queries are not trained on, are the same in any order of the rows, and are measured by their labels."""

import pytest
from datasets import Dataset

from r2anker_hf.collection.collection import Corpus
from r2anker_hf.negatives.candidates import Candidates
from r2anker_hf.negatives.holdout import hold_out, without
from r2anker_hf.records import Document, InputError


def candidates(order=range(40)):
    rows = [
        {
            "query_id": f"q{n}",
            "query": f"text of q{n}",
            "positive_ids": [f"d{n}"],
            "candidates": [
                {"retriever": "bm25", "doc_ids": [f"d{n + 1}", f"d{n}"], "scores": [2.0, 1.0]},
                {"retriever": "dense", "doc_ids": [f"d{n}"], "scores": [0.5]},
            ],
        }
        for n in order
    ]
    corpus = Corpus.from_documents(Document(f"d{n}", "", f"passage {n}") for n in range(41))
    return Candidates(Dataset.from_list(rows), corpus, {"collection": {"name": "toy", "revision": "0" * 40}})


def test_no_query_is_both_held_out_and_trained_on():
    rest, collection, run = hold_out(candidates(), 7)
    trained = set(rest.rows["query_id"])
    assert len(collection.queries) == 7 and len(trained) == 33
    assert trained | collection.queries.keys() == {f"q{n}" for n in range(40)}
    assert collection.queries.keys() == collection.qrels.keys() == run.keys()
    assert (collection.name, collection.split) == ("toy", "train, held out")


def test_another_set_of_the_same_queries_is_not_trained_on_either():
    _, held, _ = hold_out(candidates(), 7)
    rest = without(candidates(reversed(range(40))), held.queries.values())
    assert len(rest.rows) == 33 and held.queries.keys().isdisjoint(rest.rows["query_id"])
    with pytest.raises(InputError, match="none but held-out queries"):
        without(rest, rest.rows["query"])


def test_labels_texts_and_lists_are_the_rows_own():
    for name, length in ((None, 2), ("bm25", 2), ("dense", 1)):
        _, collection, run = hold_out(candidates(), 5, name)
        for query_id in collection.queries:
            number = int(query_id[1:])
            assert collection.qrels[query_id] == {f"d{number}": 1}
            assert collection.queries[query_id] == f"text of {query_id}"
            assert run[query_id][-1].doc_id == f"d{number}" and len(run[query_id]) == length
    assert collection.corpus.text("d3") == "passage 3"


def test_the_choice_depends_on_the_query_ids_alone():
    chosen = hold_out(candidates(), 7)[1].queries.keys()
    assert hold_out(candidates(reversed(range(40))), 7)[1].queries.keys() == chosen
    fewer = [n for n in range(40) if n % 5 or f"q{n}" in chosen]
    assert hold_out(candidates(fewer), 7)[1].queries.keys() == chosen
    assert chosen <= hold_out(candidates(), 12)[1].queries.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((0,), "held_out is 0, but must be at least 1 and below the 40 training queries"),
        ((40,), "held_out is 40"),
        ((5, "splade"), "no retriever 'splade'; choices: bm25, dense"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        hold_out(candidates(), *options)
