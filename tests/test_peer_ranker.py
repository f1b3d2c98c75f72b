"""Protects the bench of sentence-transformers' own pipeline: what it trains is a ranker that `rerank` takes."""

import pytest
from published_toy import RECIPES, arguments, run, write_collection

from r2anker_hf.config import configs_of, parse_config
from r2anker_hf.run import Run


@pytest.mark.parametrize("loss", ["bce", "listnet", "lambda"])
def test_a_peer_s_ranker_reranks(tmp_path, tiny_model, loss, monkeypatch):
    import importlib.util
    import sys

    spec = importlib.util.spec_from_file_location("peer_ranker", RECIPES / "benchmarks/peer_ranker.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "peer_ranker", module)
    spec.loader.exec_module(module)
    write_collection(tmp_path / "toy")
    options = {"collection": tmp_path / "toy", "model": tiny_model, "retriever": tiny_model, "loss": loss}
    options |= {"num_negatives": 2, "depth": 10, "max_steps": 2, "queries_a_step": 4, "max_length": 32}
    options |= {"embeddings": tmp_path / "embeddings", "bf16": "true" if loss == "listnet" else "false"}
    argv = arguments(**options, output_dir=tmp_path / "ranker")
    module.main(*parse_config(*configs_of(module.main), args=argv))
    assert len(list((tmp_path / "embeddings").iterdir())) == 2  # queries and passages
    common = {"collection": tmp_path / "toy", "split": "test", "depth": 5}
    run("retrieve", "RetrievalConfig", **common, output_dir=tmp_path / "bm25")
    first = {"first_stage": tmp_path / "bm25/run.trec", "ranker": tmp_path / "ranker"}
    run("rerank", "RerankingConfig", **common, **first, output_dir=tmp_path / "reranked")
    scores = {one.score for top in Run.read_trec(tmp_path / "reranked/run.trec").values() for one in top}
    assert len(scores) > 10  # a ranker that says something
