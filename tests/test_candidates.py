"""Mined candidates keep every list, load as an ordinary dataset, and are refused in one line when broken."""

import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
import yaml

from r2anker_hf.collection.collection import Collection, Corpus
from r2anker_hf.negatives.candidates import (
    Mining,
    load_candidates,
    mine,
    run_facts,
    stream_rows,
    write_candidates,
    write_corpus,
    write_manifest,
    write_shards,
)
from r2anker_hf.records import Document, InputError
from r2anker_hf.run import Run, RunFile

REPOSITORY = Path(__file__).resolve().parents[1]
# accelerate's own launcher starts several processes on CPUs through MPI alone; torch's does without
LAUNCH = "-m torch.distributed.run --standalone --nproc_per_node"


@pytest.fixture
def collection():
    corpus = Corpus.from_documents([Document(f"d{i}", "Title", f"text {i}") for i in range(9)])
    qrels = {"q1": {"d1": 1, "d2": 0}, "q2": {"d3": 2}, "q3": {"d4": 0}}
    return Collection("toy", "sha256:0", "train", corpus, {"q1": "one", "q2": "two", "q3": "three"}, qrels)


@pytest.fixture
def runs():
    bm25 = Run({"q1": [("d1", 3.0), ("d5", 2.0), ("d6", 1.0)], "q2": [("d7", 1.5)]}, "x")
    return {"bm25": bm25, "dense": Run({"q1": [("d6", 0.9), ("d1", 0.8)]}, "y")}


def test_every_list_is_kept_with_its_order_and_scores(collection, runs):
    rows = list(mine(collection, runs, depth=2))
    assert rows == [
        {
            "query_id": "q1",
            "query": "one",
            "positive_ids": ["d1"],
            "candidates": [
                {"retriever": "bm25", "doc_ids": ["d1", "d5"], "scores": [3.0, 2.0]},
                {"retriever": "dense", "doc_ids": ["d6", "d1"], "scores": [0.9, 0.8]},
            ],
        },
        {
            "query_id": "q2",
            "query": "two",
            "positive_ids": ["d3"],
            "candidates": [
                {"retriever": "bm25", "doc_ids": ["d7"], "scores": [1.5]},
                {"retriever": "dense", "doc_ids": [], "scores": []},
            ],
        },
    ]


def test_the_folder_is_a_plain_dataset(collection, runs, tmp_path):
    manifest = write_candidates(tmp_path, collection, runs, depth=200)
    facts = manifest["splits"]["train"]
    assert facts["queries"] == 2 and facts["queries_without_positive"] == 1
    assert facts["retrievers"]["bm25"] == {"candidates": 4, "queries_whose_positive_is_found": 1}
    assert manifest == json.loads((tmp_path / "manifest.json").read_text())
    rows = datasets.load_dataset(str(tmp_path), "candidates", split="train")
    assert list(rows) == list(mine(collection, runs)) == list(stream_rows(tmp_path))
    streamed = datasets.load_dataset(str(tmp_path), "candidates", split="train", streaming=True)
    assert list(streamed) == list(rows)
    streamed = datasets.load_dataset(str(tmp_path), "corpus", split="corpus", streaming=True)
    assert next(iter(streamed)) == {"doc_id": "d0", "title": "Title", "text": "text 0"}


def test_shards_of_a_split_load_in_order(collection, runs, tmp_path):
    write_shards(tmp_path, Mining(collection, runs), rows_a_shard=1)
    write_corpus(tmp_path, collection.corpus, documents_a_shard=4)
    write_manifest(tmp_path, [Mining(collection, runs)])
    assert sorted(path.name for path in tmp_path.glob("c*/*.parquet")) == [
        *(f"corpus-0000{index}-of-00003.parquet" for index in range(3)),
        *(f"train-0000{index}-of-00002.parquet" for index in range(2)),
    ]
    assert list(datasets.load_dataset(str(tmp_path), "candidates", split="train")) == list(mine(collection, runs))
    assert load_candidates(tmp_path).corpus.ids == [f"d{i}" for i in range(9)]


def test_a_dev_split_constraints_and_rankings_stand_beside(collection, runs, tmp_path):
    extras = {"constraints": {"bm25": runs["bm25"]}, "rankings": {"ranker": Run({"q1": [("d6", 2.0)]})}}
    facts = {("constraints", "bm25"): {"run_sha256": "c"}, ("retrievers", "bm25"): {"run_sha256": "r"}}
    train = Mining(collection, runs, depth=1, constraint_depth=2, facts=facts, **extras)
    qrels = {"q3": {"d4": 1}}
    other = Collection("toy", "sha256:0", "dev", collection.corpus, {"q3": "three"}, qrels)
    dev = Mining(other, runs, depth=1, constraints={"bm25": {}}, rankings={"ranker": {}})
    for mining in (train, dev):
        write_shards(tmp_path, mining)
    write_corpus(tmp_path, collection.corpus)
    manifest = write_manifest(tmp_path, [train, dev])
    loaded = datasets.load_dataset(str(tmp_path), "candidates")
    assert loaded["train"][0]["candidates"][0] == {"retriever": "bm25", "doc_ids": ["d1"], "scores": [3.0]}
    assert loaded["train"][0]["constraints"] == [{"run": "bm25", "doc_ids": ["d1", "d5"]}]
    assert loaded["train"][0]["rankings"] == [{"ranker": "ranker", "doc_ids": ["d6"], "scores": [2.0]}]
    assert loaded["dev"][0]["constraints"] == [{"run": "bm25", "doc_ids": []}]
    assert manifest["splits"]["train"]["retrievers"]["bm25"]["run_sha256"] == "r"
    assert manifest["splits"]["train"]["constraints"]["bm25"]["run_sha256"] == "c"
    assert load_candidates(tmp_path, "dev").rows[0]["query_id"] == "q3"


def test_it_reads_back_with_its_corpus(collection, runs, tmp_path):
    collection.corpus.use_titles = False
    write_candidates(tmp_path, collection, runs)
    candidates = load_candidates(tmp_path)
    assert list(candidates.rows) == list(mine(collection, runs))
    assert candidates.corpus.text("d3") == "text 3" and candidates.manifest["use_titles"] is False


def test_a_folder_mined_again_is_read_anew(collection, runs, tmp_path):
    write_candidates(tmp_path / "a" / "negatives", collection, runs)
    assert len(load_candidates(tmp_path / "a" / "negatives").rows) == 2
    fewer = Collection("toy", "sha256:1", "train", collection.corpus, {"q1": "one"}, {"q1": {"d1": 1}})
    write_candidates(tmp_path / "b" / "negatives", fewer, runs)
    write_candidates(tmp_path / "a" / "negatives", fewer, runs)
    assert [len(load_candidates(tmp_path / name / "negatives").rows) for name in "ab"] == [1, 1]


def test_a_folder_of_the_earlier_form_still_loads(collection, runs, tmp_path):
    write_candidates(tmp_path, collection, runs)
    (tmp_path / "candidates/train-00000-of-00001.parquet").rename(tmp_path / "candidates/train.parquet")
    (tmp_path / "corpus/corpus-00000-of-00001.parquet").rename(tmp_path / "corpus/corpus.parquet")
    (tmp_path / "manifest.json").write_text(json.dumps({"use_titles": True}))
    candidates = load_candidates(tmp_path)
    assert list(candidates.rows) == list(mine(collection, runs)) and candidates.corpus.text("d3") == "Title text 3"


@pytest.mark.parametrize("order", [[0], [0, 1], [1, 0], [3, 1, 0, 2]])
def test_any_number_of_processes_in_any_order_gives_the_same_bytes(collection, runs, tmp_path, order):
    qrels = {f"q{i}": {f"d{i % 9}": 1} for i in range(7)}
    many = Collection("toy", "sha256:0", "train", collection.corpus, {q: q for q in qrels}, qrels)
    write_shards(tmp_path / "one", Mining(many, runs), rows_a_shard=2)
    write_shards(tmp_path / "many", Mining(many, runs), order[0], len(order), rows_a_shard=2)
    (tmp_path / "many/candidates/train-00001-of-00004.parquet.123.writing").write_bytes(b"killed here")
    for process in order:  # the first one finds its work done
        write_shards(tmp_path / "many", Mining(many, runs), process, len(order), rows_a_shard=2)
    for name in ("one", "many"):
        write_corpus(tmp_path / name, collection.corpus)
        write_manifest(tmp_path / name, [Mining(many, runs)])
    assert digests(tmp_path / "one") == digests(tmp_path / "many")
    assert len(digests(tmp_path / "one")) == 4 + 1 + 2


def digests(folder, without=()):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in without]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_manifest_vouches_for_every_file(collection, runs, tmp_path):
    manifest = write_candidates(tmp_path, collection, runs)
    on_disk = digests(tmp_path, without=("manifest.json", "README.md"))
    assert {name: facts["sha256"] for name, facts in manifest["files"].items()} == on_disk


def test_facts_of_a_run_name_its_making_and_no_place(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "run.trec").write_text("q Q0 d 1 1.0 x\n")
    assert run_facts(tmp_path / "run.trec") == {"run_sha256": hashlib.sha256(b"q Q0 d 1 1.0 x\n").hexdigest()}
    config = {"retriever": "dense", "model": str(tmp_path / "model"), "output_dir": str(tmp_path), "depth": 5}
    config |= {"index": str(tmp_path / "index"), "preset": "lucene", "k1": None, "collection": str(tmp_path)}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    inputs = {"collection": f"{tmp_path}@sha256:0", "model": "sha256:abc"}
    (tmp_path / "provenance.json").write_text(json.dumps({"inputs": inputs, "git_commit": "f00"}))
    facts = run_facts(tmp_path / "run.trec")
    assert facts["settings"] == {"retriever": "dense", "model": "model@sha256:abc", "depth": 5}
    assert facts["git_commit"] == "f00" and str(tmp_path) not in json.dumps(facts)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "model": "owner/name"}))
    (tmp_path / "provenance.json").write_text(json.dumps({"inputs": {"model": "owner/name@0123abc"}}))
    assert run_facts(tmp_path / "run.trec")["settings"]["model"] == "owner/name@0123abc"


def test_facts_of_a_reranking_name_no_folder_in_a_list_or_a_mapping(tmp_path):
    """As run.sh makes the second reranking of a split: it takes over the pairs of the first one."""
    (tmp_path / "run.trec").write_text("q Q0 d 1 1.0 x\n")
    config = {"ranker": "/data/ann/ranker", "depth": 5, "scored": ["/data/ann/runs/test/ranker_over_bm25"]}
    config |= {"weights": {"bm25": 0.5}, "any_list": ["bm25", "/out/ann/bm25"], "any_map": {"bm25": "/out/ann/run"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "provenance.json").write_text(json.dumps({"inputs": {"ranker": "sha256:abc"}}))
    settings = run_facts(tmp_path / "run.trec")["settings"]
    assert settings.pop("any_list") == ["bm25", "bm25"] and settings.pop("any_map") == {"bm25": "run"}
    assert settings == {"ranker": "ranker@sha256:abc", "depth": 5, "weights": {"bm25": 0.5}}


def test_a_corpus_is_referred_to_only_at_a_commit(collection, runs, tmp_path):
    with pytest.raises(InputError, match="referred to only in a Hub repository at a commit"):
        write_shards(tmp_path, Mining(collection, runs))
        write_manifest(tmp_path, [Mining(collection, runs)])
    pinned = Collection("owner/name", "0" * 40, "train", collection.corpus, collection.queries, collection.qrels)
    manifest = write_manifest(tmp_path, [Mining(pinned, runs)])
    assert manifest["corpus"] == {"repo": "owner/name", "config": "corpus", "revision": "0" * 40}
    assert f'load_dataset("owner/name", "corpus", revision="{"0" * 40}")' in (tmp_path / "README.md").read_text()
    assert "config_name: corpus" not in (tmp_path / "README.md").read_text()


@pytest.fixture(scope="module")
def beir(tmp_path_factory):
    """A folder of 6,000 queries, so that mining it takes long enough to be killed, and two runs."""
    folder = tmp_path_factory.mktemp("beir")
    documents = [Document(f"d{i}", "", f"the text of passage {i}") for i in range(300)]
    qrels = {f"q{i}": {f"d{i % 300}": 1} for i in range(6000)}
    queries = {query_id: f"query {query_id}" for query_id in qrels}
    Collection("toy", "", "train", Corpus.from_documents(documents), queries, qrels).write_beir(folder)
    for name, step in (("bm25", 1), ("dense", 7)):
        lists = {q: [(f"d{(i + step * j) % 300}", 1 / (1 + j)) for j in range(40)] for i, q in enumerate(queries)}
        Run(lists, name).write_trec(folder / f"{name}.trec")
    return folder


def mining_recipe(beir, out, processes):
    """The recipe as a command, with its options in a file."""
    runs = {name: str(beir / f"{name}.trec") for name in ("bm25", "dense")}
    settings = {"collection": str(beir), "runs": runs, "output_dir": str(out), "audit_queries": 300}
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(settings))
    launch = f"{LAUNCH} {processes}".split() if processes > 1 else []
    return [sys.executable, *launch, "recipes/mine.py", "--config", str(path)]


def test_recipe_gives_the_same_bytes_by_two_processes_and_after_a_kill(beir, tmp_path):
    results = {}
    for name, processes in (("two", 2), ("killed", 1)):
        command = mining_recipe(beir, tmp_path / name, processes)
        if name == "killed":
            partial = tmp_path / ".killed.partial"
            started = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 60
            while not list(partial.glob("candidates/*.writing")) and time.monotonic() < deadline:
                time.sleep(0.005)
            os.killpg(started.pid, signal.SIGKILL)
            assert started.wait() == -signal.SIGKILL and not (tmp_path / name).exists() and partial.exists()
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        results[name] = digests(tmp_path / name, without=("config.yaml", "provenance.json"))
    assert results["two"] == results["killed"]
    assert {"README.md", "audit.json", "manifest.json", "suspicious.md", "plots/overlap.png"} < results["two"].keys()
    published = [path for path in (tmp_path / "two").iterdir() if path.suffix in (".md", ".json")]
    for path in published:
        if path.name != "provenance.json":
            assert str(tmp_path) not in path.read_text() and str(beir) not in path.read_text(), path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dev_runs": {"bm25": "x"}}, "dev_runs are bm25, but runs are bm25, dense"),
        ({"dev_runs": {"bm25": "x", "dense": "y"}, "dev_split": "train"}, "dev_split is 'train', the split that is"),
        ({"judged_by": "ranker"}, "judged_by is 'ranker', which is none of the rankings; choices: none"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    spec = importlib.util.spec_from_file_location("mine", REPOSITORY / "recipes/mine.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["mine"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    with pytest.raises(InputError, match=message):
        module.MiningConfig(collection="c", runs={"bm25": "a", "dense": "b"}, output_dir="out", **options)


def test_a_run_file_is_mined_like_a_run(beir):
    read, lazy = Run.read_trec(beir / "bm25.trec"), RunFile(beir / "bm25.trec")
    assert dict(lazy) == dict(read) and len(lazy) == 6000


def test_the_card_s_header_is_what_the_hub_reads(collection, runs, tmp_path):
    pinned = Collection("owner/name", "0" * 40, "train", collection.corpus, collection.queries, collection.qrels)
    mining = Mining(pinned, runs)
    write_shards(tmp_path, mining)
    write_corpus(tmp_path, collection.corpus)
    write_manifest(tmp_path, [mining], licence="apache-2.0")
    header = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", (tmp_path / "README.md").read_text(), re.DOTALL)[1])
    assert header["license"] == "apache-2.0" and header["source_datasets"] == ["owner/name"]
    assert header["task_categories"] == ["text-ranking", "text-retrieval"] and header["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in header["configs"]] == ["candidates", "corpus"]


def test_bad_input_is_refused(collection, runs, tmp_path):
    with pytest.raises(InputError, match="run 'bm25', query 'q1': document 'd99' is not in the corpus"):
        list(mine(collection, {"bm25": Run({"q1": [("d99", 1.0)]})}))
    with pytest.raises(InputError, match="one run at least"):
        list(mine(collection, {}))
    with pytest.raises(InputError, match="depth is 0"):
        list(mine(collection, runs, depth=0))
    with pytest.raises(InputError, match="no such folder"):
        load_candidates("/nowhere/at/all")
    with pytest.raises(InputError, match="no candidates of split 'train'; there are: none"):
        load_candidates(tmp_path)
    nothing = Collection("toy", "sha256:0", "train", collection.corpus, {"q3": "three"}, {"q3": {"d4": 0}})
    with pytest.raises(InputError, match="no query of split 'train' has a relevant document"):
        write_candidates(tmp_path / "empty", nothing, runs)
