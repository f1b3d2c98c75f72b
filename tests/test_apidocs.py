"""The embedded collection is deterministic, and every passage is the one positive of one query."""

import pytest

from r2anker_hf.collection.apidocs import apidocs, split_docstring
from r2anker_hf.collection.collection import load_collection
from r2anker_hf.records import InputError

SIZES = {"passages": 120, "test": 15, "dev": 10}


@pytest.fixture(scope="module")
def small():
    return apidocs(**SIZES)


def test_sizes_and_splits(small):
    corpus, queries, qrels = small
    assert len(corpus) == 120
    assert {split: len(found) for split, found in queries.items()} == {"test": 15, "dev": 10, "train": 95}
    judged = [qrel.doc_id for split in qrels.values() for qrel in split]
    assert sorted(judged) == [document.doc_id for document in corpus]


def test_equal_arguments_give_equal_collections_and_another_seed_another(small):
    assert apidocs(**SIZES) == small
    assert apidocs(**SIZES, seed=1) != small


def test_a_query_is_no_part_of_its_passage_and_stands_once(small):
    corpus, queries, _ = small
    texts = {document.doc_id: document.text for document in corpus}
    all_queries = [query for split in queries.values() for query in split]
    assert len({query.text.lower() for query in all_queries}) == len(all_queries)
    assert len(set(texts.values())) == len(texts)
    for query in all_queries:
        assert not texts[query.query_id.removeprefix("q:")].startswith(query.text)


def test_a_docstring_is_split_after_its_first_sentence():
    rest = "word " * 20
    assert split_docstring(f"Return the sum of values. {rest}\n\nMore.") == (
        "Return the sum of values",
        f"{rest.strip()} More.",
    )
    assert split_docstring(f"x (`int`): the number of things there. {rest}") is None
    assert split_docstring("") is None
    assert len(split_docstring(f"Return the sum of values.\n\n{'word ' * 500}")[1].split()) == 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passages": 20, "test": 15, "dev": 5}, "leave no training queries"),
        ({"passages": 10**6, "packages": ()}, "but only"),
    ],
)
def test_sizes_that_cannot_be_had_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        apidocs(**options)


def test_as_a_collection():
    collection = load_collection("apidocs", "dev", **SIZES)
    assert len(collection.queries) == 10 and len(collection.corpus) == 120
    with pytest.raises(InputError, match="no split 'validation'; choices: test, dev, train"):
        load_collection("apidocs", "validation", **SIZES)
    with pytest.raises(InputError, match="unknown option 'size'; choices: passages"):
        load_collection("apidocs", "dev", size=3)
