"""No name leaves its folder, and every id that is let in comes back from the files it is written into."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2anker_hf.collection.collection import read_qrels
from r2anker_hf.names import checked_id, checked_ids, checked_name
from r2anker_hf.records import InputError
from r2anker_hf.run import Run, RunFile

NAMES = [
    "bm25",
    "tas-b",
    "msmarco-MiniLM-L-6-v3",
    "co-condenser-margin_mse-sym_mnrl",
    "dev.small",
    "a" * 100,
    "_x",
    "3+1",
]
NO_NAMES = [
    "",
    ".",
    "..",
    "../../escaped",
    "/etc/x",
    "a/b",
    "a\\b",
    ".hidden",
    "-x",
    "a b",
    "a\n",
    "a\0",
    "é",
    "a" * 101,
]
NO_NAMES += [None, 7, True, ["bm25"]]
NO_IDS = [
    "",
    " ",
    "a b",
    " a",
    "a ",
    "a\tb",
    "a\nb",
    "a\u2028b",
    "a\xa0b",
    "a\x1cb",
    "\ufeffa",
    "\ud800",
    None,
    1.0,
    True,
    ["a"],
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_published_systems_are_let_in(name):
    assert checked_name(name, "retriever") == name


@pytest.mark.parametrize("name", NO_NAMES, ids=repr)
def test_what_is_no_file_s_name_is_refused(name):
    with pytest.raises(InputError, match="^retriever .* is no name of 1 to 100 ASCII letters, digits"):
        checked_name(name, "retriever")


@pytest.mark.parametrize("value", NO_IDS, ids=repr)
def test_what_cannot_be_read_back_is_no_id(value):
    with pytest.raises(InputError, match="^'_id' must be a string without spaces, or an integer, but is "):
        checked_id(value, "'_id'")
    with pytest.raises(InputError, match="^'_id' must be a string without spaces, or an integer, but is "):
        checked_ids(["good", value], "'_id'")


def test_good_ids_stay_as_they_are():
    assert checked_ids(["a", 7, "b\ufeff"], "id") == ["a", "7", "b\ufeff"]
    assert checked_ids((), "id") == []


def accepted(value) -> bool:
    try:
        return bool(checked_id(value, "id"))
    except InputError:
        return False


@given(ids=st.lists(st.text(max_size=4).filter(accepted) | st.integers(), min_size=2, max_size=4, unique_by=str))
def test_every_id_comes_back_from_runs_and_judgements(tmp_path_factory, ids):
    query_id, *doc_ids = checked_ids(ids, "id")
    folder = tmp_path_factory.mktemp("ids")
    Run({query_id: [(doc_id, -rank) for rank, doc_id in enumerate(doc_ids)]}).write_trec(folder / "run.trec")
    for run in (Run.read_trec(folder / "run.trec"), RunFile(folder / "run.trec")):
        assert {query: [d.doc_id for d in run[query]] for query in run} == {query_id: doc_ids}
    lines = "".join(f"{query_id}\t{doc_id}\t1\n" for doc_id in doc_ids)
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines, encoding="utf-8", newline="\n")
    assert read_qrels(folder / "qrels.tsv") == {query_id: dict.fromkeys(doc_ids, 1)}
