"""Protects search in parts: one file of the same bytes, whatever was killed, and however many processes there are."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from scripts import one_thread, script

from r2anker_hf.retrievers.parts import search_in_parts
from r2anker_hf.run import Run

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
LAUNCH = [*"-m torch.distributed.run --standalone --nproc_per_node 2".split()]
RETRIEVERS = ("bm25", "dense", "splade")
SIZES = {"passages": 150, "test": 20, "dev": 15}


class Fixed:
    """Finds the same two documents for every query, and remembers what it was asked."""

    name, shares_corpus = "fixed", False

    def __init__(self):
        self.asked = []

    def search(self, queries, depth):
        self.asked.append(list(queries))
        return Run(
            {query_id: [("a", 2.0), (f"of {query_id}".replace(" ", "-"), 1.0)] for query_id in queries}, self.name
        )


QUERIES = {f"q{number}": "text" for number in range(10)}


def test_parts_make_the_file_that_one_search_makes(tmp_path):
    Fixed().search(QUERIES, 5).write_trec(tmp_path / "whole.trec")
    retriever = Fixed()
    path = search_in_parts(retriever, QUERIES, 5, tmp_path, size=4)
    assert path.read_bytes() == (tmp_path / "whole.trec").read_bytes()
    assert [len(part) for part in retriever.asked] == [4, 4, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.trec", "whole.trec"]


def test_finished_parts_are_not_searched_again(tmp_path):
    class Killed(Fixed):
        def search(self, queries, depth):
            if "q8" in queries:
                raise KeyboardInterrupt
            return super().search(queries, depth)

    with pytest.raises(KeyboardInterrupt):
        search_in_parts(Killed(), QUERIES, 5, tmp_path, size=4)
    retriever = Fixed()
    path = search_in_parts(retriever, QUERIES, 5, tmp_path, size=4)
    assert retriever.asked == [["q8", "q9"]]
    assert Run.read_trec(path) == Fixed().search(QUERIES, 5)
    search_in_parts(retriever, QUERIES, 5, tmp_path, size=4)  # killed after the last part, before the stage ended
    assert retriever.asked == [["q8", "q9"]] and not (tmp_path / "parts").exists()


# --- the recipe, over real processes


@pytest.fixture(scope="module")
def sparse_model(tiny_model, tmp_path_factory):
    from r2anker_hf.retrievers.training import RetrieverTraining, load_splade

    settings = RetrieverTraining(max_length=64, head_steps=60, mixed_precision="no")
    folder = tmp_path_factory.mktemp("splade")
    passages = ["return the list of values", "the name of a file", "raise an error", "class and method"]
    load_splade(tiny_model, None, settings, passages).save_pretrained(str(folder), create_model_card=False)
    return folder


def settings_of(retriever, out, tiny_model, sparse_model):
    settings = {"collection": "apidocs", "collection_options": SIZES, "split": "test", "retriever": retriever}
    settings |= {"depth": 30, "queries_a_part": 5, "output_dir": str(out)}
    if retriever != "bm25":
        settings |= {"model": str(tiny_model if retriever == "dense" else sparse_model), "shard_size": 40}
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(settings))
    return path


def done_here(settings):
    """The recipe in this process, with the threads that a launched one has."""
    with one_thread():
        done = script("recipes/retrieve.py", "--config", settings)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, tiny_model, sparse_model):
    """Each retriever's stage, done by one process at once."""
    folder = tmp_path_factory.mktemp("unbroken")
    for name in RETRIEVERS:
        done_here(settings_of(name, folder / name, tiny_model, sparse_model))
    return folder


@pytest.fixture(scope="module")
def by_two(tmp_path_factory, tiny_model, sparse_model):
    """The same by two processes, which do one stage after the other."""
    folder = tmp_path_factory.mktemp("by_two")
    settings = [settings_of(name, folder / name, tiny_model, sparse_model) for name in RETRIEVERS]
    command = [
        sys.executable,
        *LAUNCH,
        str(REPOSITORY / "tests/scripts.py"),
        "recipes/retrieve.py",
        *map(str, settings),
    ]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("retriever", RETRIEVERS)
def test_two_processes_write_the_bytes_of_one(retriever, unbroken, by_two):
    assert (by_two / retriever / "run.trec").read_bytes() == (unbroken / retriever / "run.trec").read_bytes()
    assert len(Run.read_trec(by_two / retriever / "run.trec")) == 20


@pytest.mark.parametrize(
    "retriever, when",
    [("dense", "index/00001.npy"), ("bm25", "index/terms-0.npz"), ("splade", "parts/00001.trec")],
    ids=["encoding", "indexing", "searching"],
)
def test_kill_and_again_gives_the_bytes_of_an_unbroken_run(
    retriever, when, unbroken, tmp_path, tiny_model, sparse_model
):
    settings, working = settings_of(retriever, tmp_path / "out", tiny_model, sparse_model), tmp_path / ".out.partial"
    command = [sys.executable, "recipes/retrieve.py", "--config", str(settings)]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 120
    while not (working / when).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out").exists()
    kept = {path.relative_to(working): path.stat().st_mtime_ns for path in working.glob("index/0*")}
    done_here(settings)
    assert (tmp_path / "out" / "run.trec").read_bytes() == (unbroken / retriever / "run.trec").read_bytes()
    assert all((tmp_path / "out" / path).stat().st_mtime_ns == written for path, written in kept.items())
    index = unbroken / retriever / "index"
    for path in index.rglob("*.np*"):
        assert path.read_bytes() == (tmp_path / "out" / "index" / path.relative_to(index)).read_bytes()
    assert bool(kept) == (retriever != "bm25")
