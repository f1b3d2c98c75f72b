"""Published negatives show texts: a few groups, drawn as a training draws them, that train and can be drawn again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hub_server import Hub
from test_preparing import edit_json
from test_verify import forge

from r2anker_hf.collection.collection import Corpus
from r2anker_hf.negatives.candidates import Candidates, load_candidates
from r2anker_hf.negatives.preview import NEGATIVES, ROWS, preview_rows
from r2anker_hf.negatives.sampling import draw_group
from r2anker_hf.publishing.preparing import prepare
from r2anker_hf.publishing.verify import check_folder
from r2anker_hf.records import Document

REPOSITORY = Path(__file__).resolve().parents[1]
FILE = "preview/train-00000-of-00001.parquet"
STREAM = """
import sys
from datasets import load_dataset
from r2anker_hf import ListwiseConfig, ListwiseTrainer

rows = load_dataset("me/negatives", "preview", split="train", revision=sys.argv[1], streaming=True)
settings = {"max_steps": 3, "num_negatives": 3, "per_device_train_batch_size": 2, "max_length": 32, "logging_steps": 1}
settings |= {"use_cpu": True, "mixed_precision": "no", "report_to": "none", "save_strategy": "no"}
trainer = ListwiseTrainer(sys.argv[2], ListwiseConfig(output_dir=sys.argv[3], **settings), rows)
trainer.train()
print(len([entry for entry in trainer.state.log_history if "loss" in entry]))
"""


@pytest.fixture(scope="module")
def prepared(finished, tmp_path_factory):
    return prepare("negatives", finished / "negatives", "me/negatives", into=tmp_path_factory.mktemp("n") / "n").folder


def toy(queries):
    """Candidates of some queries, each with one relevant document and nine others."""
    corpus = Corpus.from_documents([Document(f"d{number}", "", f"text {number}") for number in range(10)])
    listed = {"retriever": "bm25", "doc_ids": [f"d{n}" for n in range(10)], "scores": [-float(n) for n in range(10)]}
    rows = [
        {"query_id": f"q{n}", "query": f"query {n}", "positive_ids": ["d0"], "candidates": [listed]}
        for n in range(queries)
    ]
    return Candidates(rows, corpus, {})


@pytest.mark.parametrize(("queries", "shown"), [(3, 3), (ROWS, ROWS), (250, ROWS)])
def test_the_queries_are_few_and_evenly_spaced(queries, shown):
    rows = list(preview_rows(toy(queries)))
    assert [row["query"] for row in rows] == [f"query {place * queries // shown}" for place in range(shown)]
    assert {len(row["negatives"]) for row in rows} == {NEGATIVES}
    assert all(row["positive"] == "text 0" and "text 0" not in row["negatives"] for row in rows)


def test_rows_are_the_trainer_s_draws_as_texts(prepared):
    candidates = load_candidates(prepared)
    text = candidates.corpus.text
    rows = list(load_dataset(str(prepared), "preview", split="train"))
    assert len(rows) == len(candidates.rows) == 33
    for row, source in zip(rows, candidates.rows, strict=True):
        positive, negatives = draw_group(source, NEGATIVES, 42, 0)
        assert row == {"query": source["query"], "positive": text(positive), "negatives": list(map(text, negatives))}


def test_equal_candidates_give_equal_bytes_that_the_manifest_lists(prepared, finished, tmp_path):
    again = prepare("negatives", finished / "negatives", "me/negatives", into=tmp_path / "again").folder
    assert (again / FILE).read_bytes() == (prepared / FILE).read_bytes()
    listed = [json.loads((folder / "manifest.json").read_text())["files"] for folder in (prepared, again)]
    assert listed[0] == listed[1] and FILE in listed[0]


@pytest.mark.parametrize("edit", ["a text", "a row less", "no metadata"])
def test_an_edited_text_is_caught(prepared, tmp_path, edit):
    folder = shutil.copytree(prepared, tmp_path / "edited")
    table = pq.read_table(folder / FILE)
    rows, schema = table.to_pylist(), table.schema
    if edit == "a text":
        rows[5]["negatives"][1] = "bought by an advertiser"
    changed = pa.Table.from_pylist(rows[1:] if edit == "a row less" else rows, schema)
    pq.write_table(changed.replace_schema_metadata(None) if edit == "no metadata" else changed, folder / FILE)
    forge(folder)
    (failure,) = check_folder(folder)
    said = {"a text": "row 5 is not what", "a row less": "row 0 is not", "no metadata": "does not say how many"}
    assert failure.startswith(f"{FILE}: ") and said[edit] in failure


def test_without_a_copy_of_the_passages_no_text_is_shown(finished, tmp_path):
    folder = shutil.copytree(finished / "negatives", tmp_path / "negatives")
    shutil.rmtree(folder / "corpus")
    pin = {"repo": "owner/name", "config": "corpus", "revision": "0" * 40}

    def refer(manifest):
        files = {name: facts for name, facts in manifest["files"].items() if not name.startswith("corpus/")}
        manifest.update(corpus=pin, files=files)

    edit_json(folder / "manifest.json", refer)
    (folder / "audit.json").unlink()
    into = prepare("negatives", folder, "me/negatives", into=tmp_path / "prepared").folder
    assert not (into / "preview").exists() and "preview" not in (into / "README.md").read_text()


@pytest.mark.hub
def test_a_stream_of_them_from_the_hub_trains(prepared, tiny_model, tmp_path):
    with Hub() as hub:
        commit = hub.commit("me/negatives", prepared)
        environment = hub.environment(tmp_path / "home") | {"PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-W", "ignore", "-c", STREAM, commit, str(tiny_model), str(tmp_path / "out")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "3"
