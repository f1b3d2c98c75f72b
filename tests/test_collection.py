"""A collection is read whole or refused in one line; what can be lived with is counted in a warning."""

import json
import warnings

import pytest

from r2anker_hf.collection.collection import Corpus, load_collection, read_qrels
from r2anker_hf.records import Document, InputError

CORPUS = [{"_id": "d1", "title": "Rivers", "text": "They flow."}, {"_id": "d2", "title": "", "text": "Stone house"}]
QUERIES = [{"_id": "q1", "text": "what flows"}, {"_id": "q2", "text": "stone"}]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\nq2\td1\t0\n"


@pytest.fixture
def folder(tmp_path):
    def write(corpus=CORPUS, queries=QUERIES, qrels=QRELS, split="test"):
        (tmp_path / "qrels").mkdir(exist_ok=True)
        for name, records in (("corpus", corpus), ("queries", queries)):
            lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
            (tmp_path / f"{name}.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape") + b"\n")
        (tmp_path / "qrels" / f"{split}.tsv").write_text(qrels)
        return tmp_path

    return write


def test_a_sound_folder(folder):
    collection = load_collection(folder(), "test")
    assert collection.corpus.ids == ["d1", "d2"]
    assert collection.corpus.texts(0, 2) == ["Rivers They flow.", "Stone house"]
    assert collection.corpus.text("d1") == "Rivers They flow."
    assert list(collection.corpus.texts_of(["d2", "d1", "d2"], at_once=2)) == collection.corpus.texts(1, 2) + [
        "Rivers They flow.",
        "Stone house",
    ]
    assert collection.queries == {"q1": "what flows", "q2": "stone"}
    assert collection.qrels == {"q1": {"d1": 1}, "q2": {"d2": 2, "d1": 0}}
    assert collection.positives("q2") == ["d2"]
    assert collection.revision.startswith("sha256:")


def test_titles_can_be_left_out_and_a_change_changes_the_revision(folder):
    first = load_collection(folder(), "test", use_titles=False)
    assert first.corpus.texts() == ["They flow.", "Stone house"]
    changed = [{**CORPUS[0], "text": "They flow on."}, CORPUS[1]]
    second = load_collection(folder(corpus=changed), "test", use_titles=False)
    assert second.corpus.texts() == ["They flow on.", "Stone house"]
    assert first.revision != second.revision


def test_written_as_beir_it_reads_back(folder, tmp_path):
    collection = load_collection(folder(), "test")
    collection.write_beir(tmp_path / "copy")
    again = load_collection(tmp_path / "copy", "test")
    assert list(again.corpus.documents()) == list(collection.corpus.documents())
    assert (again.queries, again.qrels) == (collection.queries, collection.qrels)


def test_an_ms_marco_folder_as_released(tmp_path):
    (tmp_path / "collection.tsv").write_text("0\tRivers flow.\n1\tStone house\n")
    (tmp_path / "queries.dev.tsv").write_text("7\twhat flows\n8\tanother\n")
    (tmp_path / "qrels.dev.small.tsv").write_text("7\t0\t0\t1\n")
    (tmp_path / "qrels.train.tsv").write_text("9\t0\t1\t1\n")
    collection = load_collection(tmp_path, "dev.small")
    assert list(collection.corpus.documents()) == [Document("0", "", "Rivers flow."), Document("1", "", "Stone house")]
    assert (collection.queries, collection.qrels) == ({"7": "what flows"}, {"7": {"0": 1}})
    with pytest.raises(InputError, match=r"qrels.test.tsv: no such file; splits there: dev.small, train"):
        load_collection(tmp_path, "test")
    with pytest.raises(InputError, match=r"queries.train.tsv: no such file"):
        load_collection(tmp_path, "train")
    (tmp_path / "queries.dl20.tsv").write_text("5\tstones\n6\tnot judged\n")  # as recipes/msmarco/README.md says
    (tmp_path / "qrels.dl20.tsv").write_text("5 0 1 3\n5 0 0 0\n")
    deep_learning = load_collection(tmp_path, "dl20")
    assert (deep_learning.queries, deep_learning.qrels) == ({"5": "stones"}, {"5": {"1": 3, "0": 0}})
    (tmp_path / "collection.tsv").write_text("0\tRivers\tflow.\n")
    with pytest.raises(InputError, match=r"collection.tsv, line 1: 3 columns, but here are 2 \(id, text\): '0"):
        load_collection(tmp_path, "dev.small")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"corpus": [*CORPUS, CORPUS[0]]}, r"corpus.jsonl, line 3: document 'd1' was given on line 1 already"),
        ({"corpus": [*CORPUS, "{oops"]}, r"corpus.jsonl, line 3: not JSON .*'{oops'"),
        ({"corpus": [*CORPUS, "[1]"]}, r"corpus.jsonl, line 3: not a JSON object: '\[1\]'"),
        ({"corpus": [*CORPUS, {"text": "x"}]}, r"corpus.jsonl, line 3: '_id' must be .* but is None"),
        ({"corpus": [*CORPUS, {"_id": "a b", "text": "x"}]}, r"corpus.jsonl, line 3: '_id' must be .* but is 'a b'"),
        ({"corpus": [*CORPUS, {"_id": "d3"}]}, r"corpus.jsonl, line 3: 'text' must be a string, but is None"),
        ({"corpus": [*CORPUS, {"_id": "d3", "text": 7}]}, r"corpus.jsonl, line 3: 'text' must be a string, but is 7"),
        ({"corpus": ['{"_id": "d1", "text": "\udcff"}']}, r"line 1: byte 0xff at column 24 is not UTF-8"),
        ({"corpus": []}, r"corpus.jsonl: holds no documents"),
        ({"queries": [*QUERIES, QUERIES[1]]}, r"queries.jsonl, line 3: query 'q2' was given on line 2 already"),
        ({"queries": [*QUERIES, {"_id": "q3", "text": " "}]}, r"queries.jsonl, line 3: query 'q3' has no text"),
        ({"qrels": QRELS + "q9\td1\t1\n"}, r"test.tsv, line 5: query 'q9' is not among the 2 queries"),
        ({"qrels": QRELS + "q1\td9\t1\n"}, r"test.tsv, line 5: document 'd9' is not among the 2 documents"),
        ({"qrels": QRELS + "q1\td2\n"}, r"test.tsv, line 5: 2 columns, but .*'q1\\td2'"),
        ({"qrels": QRELS + "q1\td2\tyes\n"}, r"test.tsv, line 5: the grade 'yes' is not an integer"),
        ({"qrels": QRELS + "q1\td1\t2\n"}, r"test.tsv, line 5: a second grade for query 'q1', document 'd1'"),
        ({"qrels": "query-id\tcorpus-id\tscore\n"}, r"test.tsv: holds no judgements"),
    ],
)
def test_malformed_input_gets_one_line_with_file_line_and_value(folder, what, message):
    with pytest.raises(InputError, match=message) as caught:
        load_collection(folder(**what), "test")
    assert "\n" not in str(caught.value)


def test_a_missing_split_names_those_there(folder):
    with pytest.raises(InputError, match=r"dev.tsv: no such file; splits there: test"):
        load_collection(folder(), "dev")


@pytest.mark.parametrize("source", ["/nowhere/at/all", "./missing", "missing"])
def test_a_source_that_is_nothing_is_refused(source):
    with pytest.raises(InputError, match="no such folder"):
        load_collection(source, "test")


def test_oddities_are_counted_in_warnings(folder):
    corpus = [*CORPUS, {"_id": "d3", "title": "", "text": "  "}]
    queries = [*QUERIES, {"_id": "q3", "text": "nobody judged me"}]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        collection = load_collection(folder(corpus=corpus, queries=queries, qrels=QRELS + "q1\td1\t1\n"), "test")
    messages = [str(warning.message) for warning in caught if "jsonl" in str(warning.message)]
    assert [message.split(": ", 1)[1] for message in messages] == [
        "1 passages are empty; no retriever can find them",
        "1 queries have no judgement and are left out",
    ]
    assert list(collection.queries) == ["q1", "q2"]


def test_trec_qrels_read_like_beir_ones(tmp_path):
    (tmp_path / "trec").write_text("q1 0 d1 1\nq1 Q0 d2 0\n")
    (tmp_path / "beir").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\n")
    assert read_qrels(tmp_path / "trec") == read_qrels(tmp_path / "beir") == {"q1": {"d1": 1, "d2": 0}}


def test_a_repository_in_the_layout_of_mteb(tmp_path, monkeypatch):
    """datasets reads a local folder with a card like a repository; the Hub's protocol has tests of its own."""
    (tmp_path / "owner" / "name").mkdir(parents=True)
    home = tmp_path / "owner" / "name"
    for config, rows in {
        "corpus": CORPUS,
        "queries": QUERIES,
        "default": [{"query-id": "q1", "corpus-id": "d1", "score": 1.0}],
    }.items():
        (home / f"{config}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    header = "\n".join(
        f"- config_name: {config}\n  data_files:\n  - split: {split}\n    path: {config}.jsonl"
        for config, split in (("corpus", "corpus"), ("queries", "queries"), ("default", "test"))
    )
    (home / "README.md").write_text(f"---\nconfigs:\n{header}\n---\n")
    monkeypatch.chdir(tmp_path)
    from r2anker_hf.collection import collection as module

    loaded = module._load_hub("owner/name", "test", "0" * 40, True)
    assert loaded.queries == {"q1": "what flows"} and loaded.qrels == {"q1": {"d1": 1}}
    assert loaded.corpus.texts() == ["Rivers They flow.", "Stone house"] and loaded.revision == "0" * 40


def test_a_corpus_names_the_document_it_lacks():
    corpus = Corpus.from_documents([Document("a", "", "x")])
    assert "a" in corpus and "b" not in corpus
    with pytest.raises(InputError, match="document 'b' is not in the corpus of 1 documents"):
        corpus.text("b")


def test_real_collections_have_their_published_sizes(shared_data):
    sizes = {"scifact": (5183, 300), "nfcorpus": (3633, 323), "msmarco-dl19-pool": (14581, 43)}
    for name, size in sizes.items():
        collection = load_collection(shared_data / name, "test")
        assert (len(collection.corpus), len(collection.queries)) == size
