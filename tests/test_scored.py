"""Protects `rerank --scored`: known pairs are taken over, and only from where they would be the same."""

import pytest
from published_toy import run, write_collection

from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.records import InputError
from r2anker_hf.run import Run

DEPTH = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model):
    """Two first stages, and what the ranker makes of each by itself."""
    folder = tmp_path_factory.mktemp("scored")
    write_collection(folder / "toy")
    common = {"collection": folder / "toy", "split": "test", "depth": DEPTH}
    run("retrieve", "RetrievalConfig", **common, retriever="bm25", output_dir=folder / "bm25")
    dense = {"retriever": "dense", "model": tiny_model, "output_dir": folder / "dense"}
    run("retrieve", "RetrievalConfig", **common, **dense)
    for name in ("bm25", "dense"):
        rerank(folder, tiny_model, name, f"over_{name}")
    return folder


def rerank(folder, ranker, first_stage, output, **options):
    options = {"collection": folder / "toy", "depth": DEPTH, "dtype": "float32", "ranker": ranker, **options}
    first_stage = folder / first_stage / "run.trec"
    run("rerank", "RerankingConfig", first_stage=first_stage, output_dir=folder / output, **options)
    return Run.read_trec(folder / output / "run.trec")


def test_scores_are_those_of_a_reranking_by_itself_and_no_pair_is_scored_twice(made, tiny_model, monkeypatch):
    asked, whole = [], CrossEncoderRanker.rerank

    def counted(ranker, run, *given, **options):
        asked.extend((query_id, document.doc_id) for query_id in run for document in run[query_id])
        return whole(ranker, run, *given, **options)

    monkeypatch.setattr(CrossEncoderRanker, "rerank", counted)
    found = rerank(made, tiny_model, "dense", "shared", scored=made / "over_bm25")
    alone = Run.read_trec(made / "over_dense/run.trec")
    assert list(found) == list(alone)
    for query_id, documents in alone.items():
        scores = {one.doc_id: one.score for one in found[query_id]}
        assert scores == pytest.approx({one.doc_id: one.score for one in documents}, abs=1e-5)
    before = {(q, one.doc_id) for q, top in Run.read_trec(made / "over_bm25/run.trec").items() for one in top}
    wanted = {(q, one.doc_id) for q, top in alone.items() for one in top}
    assert sorted(asked) == sorted(wanted - before) and 0 < len(asked) < len(wanted)


def test_where_every_pair_is_known_no_ranker_is_loaded(made, tiny_model, monkeypatch):
    monkeypatch.setattr(CrossEncoderRanker, "from_pretrained", pytest.fail)
    folders = [made / "over_dense", made / "over_bm25"]  # the first that holds a pair decides
    found = rerank(made, tiny_model, "dense", "known", scored=folders)
    assert dict(found) == dict(Run.read_trec(made / "over_dense/run.trec"))
    assert found.name == Run.read_trec(made / "over_dense/run.trec").name


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"max_length": 20}, "over_bm25: its max_length is None, but here it is 20"),
        ({"ranker": "other"}, "over_bm25: its ranker is 'sha256:"),
        ({"scored": "bm25"}, "bm25: its ranker is None, but here it is 'sha256:"),
        ({"scored": "nowhere"}, "nowhere/provenance.json: no such file"),
    ],
)
def test_scores_that_this_command_would_not_give_are_refused(made, tiny_model, change, told):
    options = {"scored": made / change.get("scored", "over_bm25")} | {"ranker": tiny_model}
    if "ranker" in change:
        CrossEncoderRanker.from_pretrained(tiny_model, max_length=24).save_pretrained(made / "other")
        options["ranker"] = made / "other"
    options |= {name: value for name, value in change.items() if name == "max_length"}
    with pytest.raises(InputError, match=told):
        rerank(made, options.pop("ranker"), "dense", "refused", **options)
    assert not (made / "refused").exists()
