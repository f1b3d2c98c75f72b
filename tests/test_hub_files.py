"""Negatives of others are imported from their Hub repositories: the named files, at one commit, and no others."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub
from scripts import script
from test_collection_hub import parquet

from r2anker_hf.collection.collection import load_collection
from r2anker_hf.config import parse_config
from r2anker_hf.records import InputError
from r2anker_hf.run import Run

REPOSITORY = Path(__file__).resolve().parents[1]
FOUND = """
import json, sys
from r2anker_hf.negatives.hub_files import find_files
from r2anker_hf.records import InputError

told = []
for repo, pattern in json.loads(sys.argv[1]):
    try:
        told.append(find_files(repo, pattern))
    except InputError as error:
        told.append(str(error))
print(json.dumps(told))
"""
pytestmark = pytest.mark.hub


def packed(rows):
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


def passages(*texts):
    return [{"docid": text, "title": "", "text": text} for text in texts]


def flag(query, negative):
    return {"query": query, "pos": ["yes"], "neg": [negative], "pos_scores": [2.0], "neg_scores": [1.0], "prompt": ""}


# the files of the repositories, as they are called there
HARD = {
    "README.md": b"# MS MARCO",
    "cross-encoder-ms-marco-MiniLM-L-6-v2-scores.pkl.gz": b"none of ours",
    "msmarco-hard-negatives.jsonl.gz": packed([{"qid": 1, "pos": [10], "neg": {"bm25": [11, 12], "tas-b": [13]}}]),
    "msmarco-hard-negatives-bm25_1k.jsonl.gz": packed([{"qid": 2, "pos": [10], "neg": {"bm25": [11]}}]),
}
TEVATRON = {
    "msmarco-passage.py": b"raise SystemExit",
    "train.jsonl.gz": packed(
        [{"query_id": "q", "query": "what", "positive_passages": passages("p"), "negative_passages": passages("n")}]
    ),
}
FLAG = {
    f"data/{name}.parquet": parquet([flag(*row)])
    for name, row in {
        "fever-00000-of-00002": ("one", "no"),
        "fever-00001-of-00002": ("two", "never"),
        "eli5-00000-of-00001": ("three", "other"),
    }.items()
}


REPOSITORIES = {"st/hard": HARD, "tv/msmarco": TEVATRON, "bge/full": FLAG}


@pytest.fixture(scope="module")
def hub():
    with Hub() as server:
        yield server


@pytest.fixture(scope="module")
def commits(hub):
    """The commits to import from; `main` has moved on to files that would not do."""
    made = {name: hub.commit(name, files) for name, files in REPOSITORIES.items()}
    for name, files in REPOSITORIES.items():
        hub.commit(name, dict.fromkeys(files, b"{}"))
    return made


@pytest.fixture
def imported(hub, talk_to, tmp_path):
    """Run the recipe over the Hub, and return what it printed."""
    talk_to(hub)

    def run(*options):
        done = script("recipes/import_negatives.py", *options, "--output_dir", tmp_path / "out")
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


def test_ids_by_system_come_from_the_named_file_of_the_pinned_commit(hub, commits, imported, tmp_path):
    options = ["--repo", "st/hard", "--revision", commits["st/hard"], "--form", "sentence_transformers"]
    printed = imported(*options, "--file", "msmarco-hard-negatives.jsonl.gz")
    assert "runs: bm25, tas-b" in printed
    (ranked,) = Run.read_trec(tmp_path / "out/runs/bm25.trec").values()
    assert [document.doc_id for document in ranked] == ["11", "12"]
    inputs = json.loads((tmp_path / "out/provenance.json").read_text())["inputs"]
    assert inputs == {"file": f"st/hard@{commits['st/hard']}: msmarco-hard-negatives.jsonl.gz"}
    asked = {path for _, path in hub.requests}
    assert not [path for path in asked if ".pkl" in path or "bm25_1k" in path]


def test_the_only_file_needs_no_name_and_no_script_is_run(hub, commits, imported, tmp_path):
    imported("--repo", "tv/msmarco", "--revision", commits["tv/msmarco"], "--form", "tevatron")
    collection = load_collection(tmp_path / "out", "train")
    assert collection.queries == {"q": "what"} and collection.corpus.ids == ["p", "n"]


def test_a_pattern_is_several_files_in_the_order_of_their_names(hub, commits, imported, tmp_path):
    options = ["--repo", "bge/full", "--revision", commits["bge/full"], "--form", "flag_embedding"]
    printed = imported(*options, "--file", "data/fever-*.parquet")
    assert "runs: negatives, teacher" in printed
    collection = load_collection(tmp_path / "out", "train")
    assert list(collection.queries.values()) == ["one", "two"]
    assert sorted(collection.corpus.texts()) == ["never", "no", "yes"]


def test_what_is_not_there_is_one_line_with_what_is_and_a_commit_that_is_missing_is_named(hub, commits, tmp_path):
    asked = [("st/hard", None), ("bge/full", "data/nq-*"), ("st/gone", "x.jsonl"), ("st/hard", "*bm25_1k*")]
    command = [sys.executable, "-W", "always", "-c", FOUND, json.dumps(asked)]
    environment = hub.environment(tmp_path) | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    several, none, gone, one = json.loads(done.stdout)
    first, second = sorted(name for name in HARD if name.endswith(".jsonl.gz"))
    assert several == f"st/hard: give the file; files there: {first}, {second}"
    assert none == f"bge/full: no file 'data/nq-*'; files there: {', '.join(sorted(FLAG))}"
    assert gone.startswith("st/gone: cannot be read from the Hub: ") and "\n" not in gone
    newest = hub.repos["dataset", "st/hard"].refs["refs/heads/main"]
    assert one == [newest, [first]]
    assert f"st/hard is read at its newest commit; pin it with revision: {newest}" in done.stderr


@pytest.mark.parametrize("options", [[], ["--revision", "0" * 40], ["--revision", "0" * 40, "--file", "x.jsonl"]])
def test_a_commit_is_of_a_repository_and_some_file_is_needed(options):
    from every_recipe import configs

    with pytest.raises(InputError, match="give --file; or --repo"):
        parse_config(*configs("import_negatives"), args=["--form", "triplet", "--output_dir", "out", *options])
