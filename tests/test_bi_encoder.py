"""Protects retrievers as rerankers: a pair has the score that a search gives it, whatever first stage found it."""

import json
import random

import pytest
import torch
from published_toy import run, write_collection
from sentence_transformers import SentenceTransformer, SparseEncoder
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from r2anker_hf.collection.collection import load_collection
from r2anker_hf.rankers.bi_encoder import BiEncoderRanker
from r2anker_hf.rankers.foreign import bi_encoder_kind, load_ranker
from r2anker_hf.records import InputError
from r2anker_hf.run import Run

KINDS = ("dense", "splade")


@pytest.fixture(scope="module")
def made(tiny_model, tmp_path_factory):
    """Folder by kind; do not write into them."""
    root = tmp_path_factory.mktemp("bi_encoders")
    SentenceTransformer(str(tiny_model), device="cpu").save_pretrained(str(root / "dense"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        config = BertConfig.from_pretrained(tiny_model, num_labels=2, vocab_size=len(tokenizer))
        BertForMaskedLM(config).save_pretrained(root / "masked")
    tokenizer.save_pretrained(root / "masked")
    SparseEncoder(str(root / "masked"), device="cpu").save_pretrained(str(root / "splade"))
    return root


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collection") / "toy"
    write_collection(folder)
    return folder, load_collection(folder, "test")


def some_run(collection, seed, least=1):
    """Any documents for some queries, in any order."""
    draw = random.Random(seed)
    queries = draw.sample(list(collection.queries), draw.randint(least, len(collection.queries)))
    return Run(
        {q: [(d, draw.random()) for d in draw.sample(collection.corpus.ids, draw.randint(1, 9))] for q in queries}
    )


def scored(run):
    return {(query_id, document.doc_id): document.score for query_id in run for document in run[query_id]}


@pytest.fixture(scope="module")
def searched(made, toy, tmp_path_factory):
    """Folder with each kind's search over all documents, and its index."""
    root = tmp_path_factory.mktemp("searched")
    for kind in KINDS:
        options = {"retriever": kind, "model": made / kind, "index": root / f"{kind}-index", "shard_size": 17}
        run("retrieve", "RetrievalConfig", collection=toy[0], **options, output_dir=root / kind)
    return root


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_a_pair_has_the_score_of_a_search(kind, seed, made, toy, searched, tmp_path):
    first = some_run(toy[1], seed)
    first.write_trec(tmp_path / "first.trec")
    options = {"collection": toy[0], "first_stage": tmp_path / "first.trec", "ranker": made / kind, "depth": 7}
    run("rerank", "RerankingConfig", **options, output_dir=tmp_path / "run")
    found, expected = (
        scored(Run.read_trec(tmp_path / "run/run.trec")),
        scored(Run.read_trec(searched / kind / "run.trec")),
    )
    assert found.keys() == scored(first.top(7)).keys()
    assert found == pytest.approx({pair: expected.get(pair, 0.0) for pair in found}, rel=1e-5)
    assert len({round(score, 4) for score in found.values()}) > min(len(found), 5) / 2  # that differ at all
    stated = json.loads((tmp_path / "run/provenance.json").read_text())["inputs"]
    assert stated["ranker scored by"] == "sentence-transformers" and stated["ranker"].startswith("sha256:")


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_s_own_run_and_index_give_its_bits(kind, made, toy, searched, tmp_path):
    whole = searched / kind / "run.trec"
    options = {"collection": toy[0], "first_stage": whole, "ranker": made / kind, "index": searched / f"{kind}-index"}
    before = sorted((path, path.stat().st_mtime_ns) for path in options["index"].rglob("*"))
    run("rerank", "RerankingConfig", **options, output_dir=tmp_path / "run")
    assert scored(Run.read_trec(tmp_path / "run/run.trec")) == scored(Run.read_trec(whole))
    assert sorted((path, path.stat().st_mtime_ns) for path in options["index"].rglob("*")) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gives_no_score_of_another_model_or_run(kind, made, toy, tmp_path):
    ranker = load_ranker(made / kind, device="cpu")
    for number in (1, 2):
        found = ranker.rerank(some_run(toy[1], number), toy[1], folder=tmp_path / "work")
        assert found == ranker.rerank(some_run(toy[1], number), toy[1])
    with torch.no_grad():
        next(ranker.model.parameters())[:] *= 1.5
    assert ranker.rerank(some_run(toy[1], 2), toy[1], folder=tmp_path / "work") != found
    assert len(list((tmp_path / "work").glob("index-*"))) == 1


def test_a_plain_encoder_is_one_where_it_is_said(tiny_model, toy):
    with_mean = SentenceTransformer(str(tiny_model), device="cpu")
    ranker = load_ranker(tiny_model, retriever="dense", device="cpu")
    assert isinstance(ranker, BiEncoderRanker) and bi_encoder_kind(tiny_model) is None
    first = some_run(toy[1], 1)
    (query_id, doc_id), score = next(iter(scored(ranker.rerank(first, toy[1])).items()))
    texts = [toy[1].queries[query_id], toy[1].corpus.text(doc_id)]
    assert score == pytest.approx(
        float(with_mean.similarity_pairwise(*(with_mean.encode([text]) for text in texts))[0])
    )


def test_what_only_a_cross_encoder_has_is_refused(made, tiny_model, tmp_path):
    with pytest.raises(InputError, match="is a dense bi-encoder, which reads no pairs: leave out max_length, prompt"):
        load_ranker(made / "dense", max_length=12, prompt="find")
    with pytest.raises(InputError, match="is no bi-encoder, so that it has no index: leave here out"):
        load_ranker(tiny_model, index="here")
