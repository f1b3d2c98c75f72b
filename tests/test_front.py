"""What stands at the front door: the package's names, and that three retrievers and one evaluation are used alike."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import test_dense
import test_splade

import r2anker_hf
from r2anker_hf.collection.collection import Collection, Corpus
from r2anker_hf.evaluation.evaluation import CollectionFacts
from r2anker_hf.records import Document, InputError

TEXTS = ["red fish", "blue fish and red coral", "whale in the sea", "a sand shell"]


def imported_for_checkers():
    """Name -> module, of the imports that only type checkers follow."""
    tree = ast.parse(Path(r2anker_hf.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_one_table_of_names():
    assert imported_for_checkers() == r2anker_hf._MODULES and sorted(r2anker_hf._MODULES) == r2anker_hf.__all__
    assert set(r2anker_hf.__all__) < set(dir(r2anker_hf))
    with pytest.raises(AttributeError, match="'r2anker_hf' has no attribute 'Ranker'"):
        r2anker_hf.Ranker  # noqa: B018


@pytest.mark.parametrize("name", r2anker_hf.__all__)
def test_names_are_there_and_documented(name):
    thing = getattr(r2anker_hf, name)
    assert thing.__name__ == name and thing.__doc__ and vars(r2anker_hf)[name] is thing


def test_the_package_loads_no_torch():
    names = "r2anker_hf.Run, r2anker_hf.fuse, r2anker_hf.evaluate, r2anker_hf.load_collection"
    program = f"import sys, r2anker_hf; {names}; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False False", done.stderr


RETRIEVERS = {
    "bm25": lambda corpus, **options: r2anker_hf.BM25Retriever.build(corpus, **options),
    "dense": lambda corpus, **options: r2anker_hf.DenseRetriever.build(corpus, test_dense.make_model(), **options),
    "splade": lambda corpus, **options: r2anker_hf.SpladeRetriever.build(corpus, test_splade.make_model(), **options),
}


@pytest.mark.parametrize("name", RETRIEVERS)
def test_retrievers_are_made_and_asked_alike(name):
    make = RETRIEVERS[name]
    corpus = Corpus.from_documents([Document(str(place), "", text) for place, text in enumerate(TEXTS)])
    expected = make(corpus, progress=False).search({"0": "blue coral", "1": "whale sea"}, depth=3)
    assert expected.name == name and expected["0"][0].doc_id == "1" and expected["1"][0].doc_id == "2"
    for texts in (TEXTS, dict(zip("0123", TEXTS, strict=True))):
        found = make(texts, progress=False).search(["blue coral", "whale sea"], depth=3)
        assert dict(found.items()) == dict(expected.items())
    with pytest.raises(InputError, match="queries: give texts by their ids, or a list of texts"):
        make(TEXTS, progress=False).search("blue coral", depth=3)
    with pytest.raises(InputError, match="the corpus: give texts by their ids, or a list of texts"):
        make([("0", "red fish")], progress=False)


def test_a_run_is_evaluated_on_a_collection():
    corpus = Corpus.from_documents([Document("a", "", "x"), Document("b", "", "y")])
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}}
    collection = Collection("toy", "sha256:0", "test", corpus, {"q1": "x", "q2": "y"}, qrels)
    run = r2anker_hf.Run({"q1": [("a", 2.0), ("b", 1.0)], "q2": [("b", 2.0), ("a", 1.0)]}, "mine")
    report = r2anker_hf.evaluate(collection, run, ["MRR@10", "R@1"])
    assert report.means == {"MRR@10": {"mine": (1 + 1 / 2) / 2}, "R@1": {"mine": (1 + 0) / 2}}
    assert report.per_query["MRR@10"]["mine"] == (1.0, 0.5)
    facts = CollectionFacts("toy", "sha256:0", "test", 2, True)
    assert report == r2anker_hf.evaluate(qrels, [run], ["MRR@10", "R@1"], collection=facts)
