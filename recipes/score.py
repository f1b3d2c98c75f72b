"""Score: measure runs, compare every pair, and write report.json, report.md, report.html and per_query.tsv.

    python recipes/score.py --collection C --split test --runs bm25=X.trec ranker=Y.trec --measures MRR@10 nDCG@10 \\
        --first_stages ranker=bm25 --output_dir D

With --qrels FILE and no collection, runs are measured against any judgements, without texts. --expect FILE.yaml ends
with exit code 1 and one line per miss where a figure is not as expected. Seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from r2anker_hf.collection.collection import Collection, read_qrels
from r2anker_hf.collection.options import CollectionOptions
from r2anker_hf.collection.subset import named
from r2anker_hf.config import file_of, run_recipe
from r2anker_hf.evaluation.evaluation import CollectionFacts, EvaluationReport, Settings, evaluate, facts_of
from r2anker_hf.evaluation.expectations import Expected, misses, read_expected
from r2anker_hf.evaluation.report import Texts, text_table, write_report
from r2anker_hf.records import InputError
from r2anker_hf.run import Run, check_run
from r2anker_hf.stage import run_stage


@dataclass
class ScoringConfig(CollectionOptions):
    runs: dict[str, str] = field(metadata={"help": "Systems to measure: name=path/run.trec ..."})
    output_dir: str = field(metadata={"help": "New folder for the report."})
    collection: str | None = field(
        default=None, kw_only=True, metadata={"help": "BEIR or MS MARCO folder, Hub repository, apidocs."}
    )
    split: str = field(default="test", metadata={"help": "Split of the collection."})
    query_ids: str | None = field(
        default=None, metadata={"help": "File of query ids, one per line: only these queries of the split."}
    )
    qrels: str | None = field(default=None, metadata={"help": "Judgements to use instead of the collection's."})
    measures: list[str] = field(
        default_factory=lambda: ["MRR@10", "nDCG@10", "R@50"], metadata={"help": "Forms: MRR@k, nDCG@k, R@k."}
    )
    first_stages: dict[str, str] = field(
        default_factory=dict, metadata={"help": "Rerankings and what they reranked: ranker=bm25 ..."}
    )
    expect: str | None = field(
        default=None, metadata={"help": "YAML of expected figures; a miss ends with exit code 1. May be given later."}
    )
    test: Literal["randomisation", "t-test"] = field(
        default="randomisation", metadata={"help": "Paired test, Holm-corrected over all pairs."}
    )
    resamples: int = field(
        default=10_000, metadata={"help": "Random draws of the randomisation test and of the bootstrap."}
    )
    seed: int = field(default=42, metadata={"help": "Seed of these draws."})


def main(config: ScoringConfig) -> None:
    if not (config.collection or config.qrels):
        raise InputError("give --collection, --qrels, or both: without judgements nothing can be measured")
    collection = None
    inputs: dict[str, str | Path] = {f"run {name}": Path(path) for name, path in config.runs.items()}
    if config.qrels:
        inputs["qrels"] = Path(config.qrels)
    if config.query_ids:
        inputs["queries"] = Path(config.query_ids)
    if config.collection:
        collection = config.load(config.split)
        inputs["collection"] = f"{collection.name}@{collection.revision}"
    expected = read_expected(file_of(config.expect), config.split) if config.expect else []
    run_stage(config, config.output_dir, inputs, partial(score, config, collection), free=("expect",))
    if expected:
        check(config, expected)


def score(config: ScoringConfig, collection: Collection | None, folder: Path) -> None:
    """Measure and write the report; on several processes the main one works."""
    from accelerate import PartialState

    if PartialState().is_main_process:
        texts = Texts(collection.queries, collection.corpus.text) if collection else None
        report = make_report(config, collection)
        write_report(report, folder, texts)
        print(text_table(report))
        print(f"\nreport: {Path(config.output_dir) / 'report.html'}")


def check(config: ScoringConfig, expected: list[Expected]) -> None:
    """Compare the finished report with the expected figures; exit code 1 and one line per miss where one is missed."""
    from r2anker_hf.processes import is_main_process

    report = EvaluationReport.from_json((Path(config.output_dir) / "report.json").read_text(encoding="utf-8"))
    missed = misses(expected, report.means, config.expect)
    if is_main_process():
        print("\n".join([f"missed: {line}" for line in missed] or [f"as {config.expect} expects"]))
    if missed:
        raise SystemExit(1)


def make_report(config: ScoringConfig, collection: Collection | None) -> EvaluationReport:
    """The report of a configuration's runs."""
    facts = facts_of(collection) if collection else CollectionFacts(config.qrels or "unnamed", split=config.split)
    qrels = read_qrels(config.qrels) if config.qrels else collection.qrels
    if config.query_ids:
        qrels = named(config.query_ids, qrels, config.split)
        facts = replace(facts, split=f"{facts.split}, {Path(config.query_ids).name}")
    runs = [Run.read_trec(path, name) for name, path in config.runs.items()]
    for run in runs:
        check_run(run, qrels, config.runs[run.name], config.split)
    return evaluate(
        qrels,
        runs,
        config.measures,
        collection=facts,
        settings=Settings(config.test, config.resamples, config.seed),
        first_stages=config.first_stages,
        run_files=config.runs,
        qrels_file=config.qrels,
    )


if __name__ == "__main__":
    run_recipe(main)
