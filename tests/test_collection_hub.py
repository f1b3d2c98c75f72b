"""Collections load from a Hub in the layouts that people publish: NanoBEIR, MTEB, languages, stored rankings."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = {"d1": "Rivers flow.", "d2": "A stone house. It stands.", "d3": "A wooden boat."}
QUERIES = {"q1": "what flows", "q2": "house of stone", "q3": "nobody judged me"}
PAIRS = [("q1", "d1"), ("q2", "d2")]

SUBSETS = "them/languages: holds several subsets; give the split"

CLIENT = """
import json, sys, warnings
from r2anker_hf.collection.collection import load_collection, load_ranking
from r2anker_hf.records import InputError

warnings.simplefilter("ignore")
told = []
for repo, split, ranking in json.loads(sys.argv[1]):
    try:
        found = load_collection(repo, split)
        corpus = {document.doc_id: [document.title, document.text] for document in found.corpus.documents()}
        one = {"corpus": corpus, "queries": found.queries, "qrels": found.qrels, "place": found.corpus_place}
        if ranking:
            run = load_ranking(found, ranking, 2)
            one["ranking"] = {query_id: [d.doc_id for d in run[query_id]] for query_id in run}
        told.append(one | {"split": found.split, "revision": found.revision})
    except InputError as error:
        told.append(str(error))
print(json.dumps(told))
"""


def parquet(rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def repository(configs):
    """Files of a repository whose card declares configurations: name -> split -> rows."""
    card, files = ["---", "configs:"], {}
    for name, splits in configs.items():
        card += [f"- config_name: {name}", "  data_files:"]
        for split, rows in splits.items():
            card += [f"  - split: {split}", f"    path: {name}/{split}-*"]
            files[f"{name}/{split}-00000-of-00001.parquet"] = parquet(rows)
    return files | {"README.md": "\n".join([*card, "---", ""]).encode()}


def texts(by_id, key="_id", **more):
    return [{key: i, "text": text, **more} for i, text in by_id.items()]


def qrels(pairs=PAIRS, **score):
    return [{"query-id": query_id, "corpus-id": doc_id, **score} for query_id, doc_id in pairs]


def ranking(query_ids=("q1", "q2", "q3")):
    return [{"query-id": query_id, "corpus-ids": ["d3", "d1", "d2"]} for query_id in query_ids]


def other(by_id):
    return {key: f"anders: {text}" for key, text in by_id.items()}


# zeta-alpha-ai/NanoNFCorpus: one split called train, no score, no title
NANO = {"corpus": {"train": texts(DOCUMENTS)}, "qrels": {"train": qrels()}, "queries": {"train": texts(QUERIES)}}
# sentence-transformers/NanoBEIR-en: collections as splits; the translated ones hold all ids of a query in a list
NANO_BEIR = {
    "corpus": {"NanoFEVER": texts(other(DOCUMENTS)), "NanoNFCorpus": texts(DOCUMENTS)},
    "queries": {"NanoFEVER": texts(other(QUERIES)), "NanoNFCorpus": texts(QUERIES)},
    "qrels": {
        "NanoFEVER": [{"query-id": "q1", "corpus-id": "d3"}],
        "NanoNFCorpus": qrels(),
    },
    "bm25": {"NanoFEVER": ranking(), "NanoNFCorpus": ranking()},
}
LISTED = NANO | {"qrels": {"train": [{"query-id": "q1", "corpus-id": ["d1", "d2"]}]}}
# mteb/SciFact and its like after their last conversion: id in place of _id; a title may be null; numbers as ids
MTEB = {
    "corpus": {"corpus": [{"id": i, "title": None, "text": t} for i, t in enumerate(DOCUMENTS.values(), 1)]},
    "queries": {"queries": [{"id": i, "text": t} for i, t in enumerate(QUERIES.values(), 1)]},
    "default": {
        "test": [{"query-id": 1, "corpus-id": 2, "score": 1.0}, {"query-id": 1, "corpus-id": 3, "score": 0.0}]
    },
}
# mteb/MultiLongDocRetrieval, mteb/XGlueWPRReranking: subsets, each with splits of its own in every configuration
LANGUAGES = {
    f"{language}-{part}": {split: rows for split in ("validation", "test")}
    for language, change in (("de", other), ("fr", dict))
    for part, rows in (
        ("corpus", texts(change(DOCUMENTS), "id", title="T")),
        ("queries", texts(change(QUERIES), "id")),
        ("qrels", qrels(score=2)),
        ("top_ranked", ranking(["q1"])),
    )
}
# judgements in a configuration named by the language only
PLAIN = {name: splits for name, splits in LANGUAGES.items() if name.startswith("de-") and "qrels" not in name}
PLAIN |= {"de": {"test": qrels(score=1)}}


@pytest.fixture(scope="module")
def hub():
    with Hub() as server:
        for name, configs in {
            "nano": NANO,
            "nano-beir": NANO_BEIR,
            "listed": LISTED,
            "mteb": MTEB,
            "languages": LANGUAGES,
            "plain": PLAIN,
            "other": {"triplets": {"train": [{"query": "a", "positive": "b"}]}},
            "no-id": NANO | {"corpus": {"train": [{"key": "d1", "text": "x"}]}},
        }.items():
            server.commit(f"them/{name}", repository(configs))
        yield server


@pytest.fixture(scope="module")
def told(hub, tmp_path_factory):
    """What a process of its own, with the clients as installed, loads or is refused."""
    asked = {
        "nano": ("them/nano", "train", None),
        "nano-beir": ("them/nano-beir", "NanoNFCorpus", "bm25"),
        "listed": ("them/listed", "train", None),
        "mteb": ("them/mteb", "test", None),
        "de": ("them/languages", "de.test", "top_ranked"),
        "fr": ("them/languages", "fr.validation", None),
        "plain": ("them/plain", "de.test", None),
        "pseudo": ("them/mteb", "pseudo.2", None),
        "no subset": ("them/languages", "test", None),
        "no split": ("them/nano", "test", None),
        "no collection in it": ("them/nano-beir", "test", None),
        "no configuration": ("them/other", "train", None),
        "no ranking": ("them/nano-beir", "NanoFEVER", "dense"),
        "no column": ("them/no-id", "train", None),
        "no language": ("them/languages", "it.test", None),
    }
    environment = hub.environment(tmp_path_factory.mktemp("home")) | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", CLIENT, json.dumps(list(asked.values()))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(zip(asked, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.hub
@pytest.mark.parametrize("name", ["nano", "nano-beir"])
def test_nano_beir_has_no_score_and_no_title(told, name):
    found = told[name]
    assert found["corpus"] == {doc_id: ["", text] for doc_id, text in DOCUMENTS.items()}
    assert found["queries"] == {query_id: QUERIES[query_id] for query_id in ("q1", "q2")}
    assert found["qrels"] == {"q1": {"d1": 1}, "q2": {"d2": 1}}


@pytest.mark.hub
def test_a_collection_as_split_is_named_with_its_corpus_and_its_stored_first_stage(told):
    found = told["nano-beir"]
    assert (found["split"], found["place"]) == ("NanoNFCorpus", {"config": "corpus", "split": "NanoNFCorpus"})
    assert found["ranking"] == {"q1": ["d3", "d1"], "q2": ["d3", "d1"]}  # depth 2; q3 is of no judged query


@pytest.mark.hub
def test_a_list_of_judged_documents_is_a_row_of_each(told):
    assert told["listed"]["qrels"] == {"q1": {"d1": 1, "d2": 1}}


@pytest.mark.hub
def test_mteb_with_id_columns_that_are_numbers_and_without_titles(told):
    found = told["mteb"]
    assert found["corpus"] == {str(i): ["", text] for i, text in enumerate(DOCUMENTS.values(), 1)}
    assert (found["queries"], found["qrels"]) == ({"1": QUERIES["q1"]}, {"1": {"2": 1, "3": 0}})
    assert found["place"] == {"config": "corpus"}
    assert told["pseudo"]["queries"] == {"pseudo-2": "A stone house."}


@pytest.mark.hub
def test_a_subset_has_its_own_corpus_queries_judgements_and_rankings(told):
    german, french = told["de"], told["fr"]
    assert german["corpus"] == {doc_id: ["T", text] for doc_id, text in other(DOCUMENTS).items()}
    assert german["queries"]["q1"] == other(QUERIES)["q1"] and french["queries"]["q1"] == QUERIES["q1"]
    assert german["qrels"] == french["qrels"] == {"q1": {"d1": 2}, "q2": {"d2": 2}}
    assert german["place"] == {"config": "de-corpus", "split": "test"} and german["split"] == "de.test"
    assert german["ranking"] == {"q1": ["d3", "d1"], "q2": []}  # counted in a warning, as a first stage without match
    assert told["plain"]["qrels"] == {"q1": {"d1": 1}, "q2": {"d2": 1}}


@pytest.mark.hub
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no subset",
            "them/languages: holds several subsets; give the split as SUBSET.test, with SUBSET one of: de, fr",
        ),
        ("no split", "them/nano, configuration 'qrels': no split 'test'; splits there: train"),
        (
            "no collection in it",
            "them/nano-beir: configuration 'corpus' has no split 'test'; splits there: NanoFEVER, NanoNFCorpus",
        ),
        ("no configuration", "them/other: no configuration 'corpus'; configurations there: triplets"),
        ("no ranking", "them/nano-beir: no ranking 'dense'; configurations there: bm25"),
        ("no column", "them/no-id, configuration 'corpus': no column '_id' or 'id'; columns there: key, text"),
        ("no language", f"{SUBSETS} as SUBSET.it.test, with SUBSET one of: de, fr"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line_with_what_is(told, name, message):
    assert told[name] == message


@pytest.mark.hub
def test_retrieve_writes_a_stored_ranking_as_a_run(hub, tmp_path):
    environment = hub.environment(tmp_path / "home") | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "recipes/retrieve.py"), "--collection", "them/nano-beir"]
    command += ["--split", "NanoNFCorpus", "--retriever", "stored", "--ranking", "bm25", "--depth", "2"]
    command += ["--output_dir", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = (tmp_path / "run" / "run.trec").read_text().splitlines()
    expected = [f"{q} Q0 {d} {rank} {-float(rank)} bm25" for q in ("q1", "q2") for rank, d in ((1, "d3"), (2, "d1"))]
    assert lines == expected
