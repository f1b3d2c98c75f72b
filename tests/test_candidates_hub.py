"""The dataset reads from a Hub as from a folder: plain, streaming, pinned, with the corpus in another repository."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub

from r2anker_hf.collection.collection import Collection, Corpus
from r2anker_hf.negatives.candidates import Mining, write_corpus, write_manifest, write_shards
from r2anker_hf.records import Document
from r2anker_hf.run import Run

REPOSITORY = Path(__file__).resolve().parents[1]
CLIENT = """
import itertools, json, sys, warnings
from datasets import load_dataset
from r2anker_hf.negatives.candidates import load_candidates
from r2anker_hf.negatives.sampling import draw_group

commit, first = sys.argv[1:]
told = {}
plain = load_dataset("me/negatives", "candidates", split="train", revision=commit)
told["plain"] = list(plain)
told["streamed"] = list(load_dataset("me/negatives", "candidates", split="train", revision=commit, streaming=True))
told["corpus"] = list(load_dataset("me/negatives", "corpus", split="corpus", revision=commit, streaming=True))
for name, revision in (("copy", commit), ("old", first)):
    candidates = load_candidates("me/negatives", revision=revision)
    told[name] = [len(candidates.rows), candidates.corpus.text("d3")]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    referring = load_candidates("me/referring")
told["warned"] = [str(one.message) for one in caught if "newest commit" in str(one.message)]
told["referring"] = [len(referring.rows), referring.corpus.text("d3"), draw_group(referring.rows[0], 3, 42, 0)]
print(json.dumps(told))
"""


def collection(name="toy", revision="sha256:0", queries=3):
    corpus = Corpus.from_documents([Document(f"d{i}", "Title", f"text {i}") for i in range(9)])
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(queries)}
    return Collection(name, revision, "train", corpus, {q: f"query {q}" for q in qrels}, qrels)


def mined(folder, of, copy=True, rows_a_shard=2):
    runs = {"bm25": Run({q: [(f"d{j}", -float(j)) for j in range(6)] for q in of.queries}, "bm25")}
    mining = Mining(of, runs)
    write_shards(folder, mining, rows_a_shard=rows_a_shard)
    if copy:
        write_corpus(folder, of.corpus)
    write_manifest(folder, [mining])
    return list(mining.rows())


@pytest.mark.hub
def test_plain_streaming_pinned_and_with_the_corpus_elsewhere(tmp_path):
    with Hub() as hub:
        mined(tmp_path / "one", collection(queries=1))
        first = hub.commit("me/negatives", tmp_path / "one")
        rows = mined(tmp_path / "three", collection())
        commit = hub.commit("me/negatives", tmp_path / "three")
        # a collection in MTEB's layout, whose corpus changed after the commit that the manifest names
        base = {"README.md": MTEB_CARD.encode()}
        documents = [{"_id": f"d{i}", "title": "Title", "text": f"text {i}"} for i in range(9)]
        pinned = hub.commit("them/collection", base | {"corpus.jsonl": jsonl(documents)})
        hub.commit("them/collection", base | {"corpus.jsonl": jsonl([{"_id": "d3", "title": "", "text": "changed"}])})
        mined(tmp_path / "referring", collection("them/collection", pinned), copy=False)
        newest = hub.commit("me/referring", tmp_path / "referring")
        environment = hub.environment(tmp_path / "home") | {"PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-c", CLIENT, commit, first]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["plain"] == told["streamed"] == rows and len(rows) == 3
    assert told["corpus"][3] == {"doc_id": "d3", "title": "Title", "text": "text 3"} and len(told["corpus"]) == 9
    assert told["copy"] == [3, "Title text 3"] and told["old"] == [1, "Title text 3"]
    assert told["referring"][:2] == [3, "Title text 3"] and told["referring"][2][0] == "d0"
    [warned] = told["warned"]
    assert warned == f"me/referring is read at its newest commit, {newest}; pin it with revision='{newest}'"
    assert ("GET", f"/datasets/me/negatives/resolve/{commit}/manifest.json") in hub.requests


MTEB_CARD = """---
configs:
- config_name: corpus
  data_files:
  - split: corpus
    path: corpus.jsonl
---
"""


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
