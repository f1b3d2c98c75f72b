"""Pseudo-queries come out of the corpus alone, the same ones every time, spread over all of it."""

import json

import pytest

from r2anker_hf.collection.collection import load_collection
from r2anker_hf.collection.pseudo_queries import is_pseudo, pseudo_queries, pseudo_query
from r2anker_hf.records import Document, InputError


@pytest.mark.parametrize(
    ("title", "text", "expected"),
    [
        ("How rivers flow", "They flow. Down.", "How rivers flow"),
        ("Rivers", "They flow to the sea. Always.", "They flow to the sea."),  # the title has one word
        ("", "Does it  flow\nnow? Yes it does.", "Does it flow now?"),
        ("", "They flow to the sea.", None),  # nothing would be left of the passage
        ("", "See e.g. the long river here. Then go.", "See e.g. the long river here."),  # no sentence starts small
        ("", "Short one. And more words follow here.", None),
        ("", " ".join(["word"] * 31) + ". End.", None),
        ("", "", None),
    ],
)
def test_a_title_or_a_first_sentence(title, text, expected):
    assert pseudo_query(Document("d", title, text)) == expected


def documents(size):
    """Every third passage has no usable title."""
    return [Document(f"d{n}", "" if n % 3 == 0 else f"all about number {n}", "") for n in range(size)]


def drawn(split, size=30):
    return [(query, doc_id) for query, doc_id in pseudo_queries(split, documents(size).__getitem__, size)]


def test_they_are_evenly_spaced_and_the_same_every_time():
    chosen = [doc_id for _, doc_id in drawn("pseudo.5")]
    assert chosen == ["d1", "d7", "d13", "d19", "d25"]  # the first usable one of each stretch of six
    assert drawn("pseudo.5") == drawn("pseudo.5")
    assert len(drawn("pseudo")) == len(drawn("pseudo.500")) == 20
    assert drawn("pseudo")[0] == (("pseudo-d1", "all about number 1"), "d1")


def test_few_passages_are_read():
    read = []
    given = documents(3000)
    list(pseudo_queries("pseudo.10", lambda n: read.append(n) or given[n], 3000))
    assert len(read) <= 20


def test_nothing_usable_is_an_error():
    with pytest.raises(InputError, match="no passage has a title or a first sentence of 3 to 30 words"):
        list(pseudo_queries("pseudo.5", lambda n: Document(f"d{n}", "", ""), 30))
    assert not is_pseudo("pseudo.x") and not is_pseudo("my.pseudo")


def test_they_are_a_split_of_every_collection(tmp_path):
    records = [{"_id": d, "title": title, "text": text} for d, title, text in documents(6)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    collection = load_collection(tmp_path, "pseudo.2")  # neither queries nor judgements are needed
    assert collection.queries == {"pseudo-d1": "all about number 1", "pseudo-d4": "all about number 4"}
    assert collection.qrels == {"pseudo-d1": {"d1": 1}, "pseudo-d4": {"d4": 1}} and len(collection.corpus) == 6
    assert collection.revision.startswith("sha256:") and collection.split == "pseudo.2"
    (tmp_path / "corpus.jsonl").unlink()
    (tmp_path / "collection.tsv").write_text("0\tRivers flow to the sea. Always.\n")
    assert load_collection(tmp_path, "pseudo").queries == {"pseudo-0": "Rivers flow to the sea."}
    own = load_collection("apidocs", "pseudo.3", passages=60, test=5, dev=5)
    assert len(own.queries) == 3 and all(own.positives(query_id) for query_id in own.queries)
