"""What int8 costs: queries of the report, reranked by the int8 file and compared with the ranker's own run."""

from __future__ import annotations

from pathlib import Path

from ..evaluation.evaluation import evaluate
from ..rankers.ranker import CrossEncoderRanker
from ..records import InputError
from ..run import Run
from .evidence import INT8, Evidence, load_measured, published

NAME = "int8"


def measure_int8(evidence: Evidence, report: Path, folder: Path, queries: int, work: Path) -> Evidence | None:
    """Rerank what the ranker's first system reranked, for so many queries, with `onnx/model_quantized.onnx`.

    Args:
        evidence: the ranker's first report.
        report: the folder that it was gathered from.
        folder: the ranker with its ONNX files.
        queries: of the report, evenly taken; all where it has no more.
        work: folder for scores, so that a killed reranking goes on, and for runs.

    Returns:
        First stage, ranker and int8 over these queries; None where the ranker reranked nothing.

    Raises:
        InputError: the judgements are not to be copied.
    """
    own = next((name for name in evidence.systems if evidence.report.system(name).first_stage), None)
    if own is None:
        return None
    if not evidence.judgements["file"]:
        raise InputError("judgements: a reference has no place for the judgements of int8; give --onnx_queries 0")
    first = evidence.report.system(own).first_stage
    assert first is not None
    query_ids = evidence.report.query_ids[:: -(-len(evidence.report.query_ids) // queries)]
    qrels = {query_id: evidence.qrels[query_id] for query_id in query_ids}
    runs = {name: _only(Run.read_trec(evidence.runs[name], name), query_ids) for name in (first.name, own)}
    ranker = CrossEncoderRanker.from_pretrained(folder, backend="onnx-int8")
    made = ranker.rerank(runs[first.name], load_measured(report), first.depth, progress=True, folder=work / "scores")
    runs[NAME] = Run({query_id: [(d.doc_id, d.score) for d in made[query_id]] for query_id in made}, name=NAME)
    paths = {name: work / f"{number}.trec" for number, name in enumerate(runs)}
    for name, path in paths.items():
        runs[name].write_trec(path)
    measured = evaluate(
        qrels,
        [Run.read_trec(path, name) for name, path in paths.items()],
        evidence.report.measures,
        collection=evidence.report.collection,
        settings=evidence.report.settings,
        first_stages={own: first.name, NAME: first.name},
        depths={own: first.depth, NAME: first.depth},
        run_files={name: str(path) for name, path in paths.items()},
        examples=0,
    )
    facts = {name: evidence.facts[name] for name in (first.name, own)}
    facts[NAME] = {"settings": {"file": "onnx/model_quantized.onnx", "depth": first.depth}}
    return published(measured, (own, NAME), paths, facts, qrels, INT8, evidence.judgements["collection"])


def _only(run: Run, query_ids: tuple[str, ...]) -> Run:
    """Of a run, these queries."""
    lists = {query_id: [(d.doc_id, d.score) for d in run[query_id]] for query_id in query_ids if query_id in run}
    return Run(lists, name=run.name)
