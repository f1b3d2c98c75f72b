"""The recipes from a toy collection to a report, in this process: finished folders as publishing gets them."""

import importlib.util
import json
import sys
from pathlib import Path

from r2anker_hf.config import parse_config

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
PLACES = "river stone house bread tree fish bird cat dog water fire".split()
MODES = ("the file", "a list of values", "the default name", "an error", "the index")


def recipe(stage):
    """The module of a recipe."""
    spec = importlib.util.spec_from_file_location(stage, RECIPES / f"{stage}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[stage] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run(stage, configs, **options):
    """A recipe's main with these options."""
    module = recipe(stage)
    words = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(str(one) for one in values)]
    module.main(*parse_config(*(getattr(module, config) for config in configs.split()), args=words))


def write_collection(folder):
    """A BEIR folder: 55 passages, 33 queries to train and 22 to test with, one relevant passage each."""
    (folder / "qrels").mkdir(parents=True)
    documents, queries, qrels = [], [], {"train": [], "test": []}
    for number, (place, mode) in enumerate((place, mode) for place in PLACES for mode in MODES):
        text = f"the {place} function returns {mode} when the {place} argument is green or blue, number {number}"
        documents.append({"_id": f"d{number}", "title": "", "text": text})
        queries.append({"_id": f"q{number}", "text": f"which function of the {place} returns {mode} and not red"})
        qrels["test" if number % 5 in (1, 3) else "train"].append(f"q{number}\td{number}\t1")
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, lines in qrels.items():
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines) + "\n")


def finish(folder, model):
    """Two first stages, negatives, a ranker that learned two steps, its reranking, and the report."""
    collection = folder / "toy"
    write_collection(collection)
    for split in ("train", "test"):
        common = {"collection": collection, "split": split, "depth": 12}
        run("retrieve", "RetrievalConfig", **common, retriever="bm25", output_dir=folder / split / "bm25")
        dense = {"retriever": "dense", "model": model, "output_dir": folder / split / "dense"}
        run("retrieve", "RetrievalConfig", **common, **dense)
    runs = [f"{name}={folder / 'train' / name / 'run.trec'}" for name in ("bm25", "dense")]
    options = {"runs": runs, "depth": 10, "licence": "cc-by-4.0", "output_dir": folder / "negatives"}
    run("mine", "MiningConfig", collection=collection, **options)
    options = {"negatives": folder / "negatives", "model": model, "max_steps": 2, "num_negatives": 3}
    options |= {"use_cpu": "true", "mixed_precision": "no", "report_to": "none", "output_dir": folder / "ranker"}
    run("train_ranker", "RankerConfig ListwiseConfig", **options, per_device_train_batch_size=4, max_length=64)
    first = folder / "test" / "bm25" / "run.trec"
    options = {"collection": collection, "first_stage": first, "depth": 10, "output_dir": folder / "test" / "ranker"}
    run("rerank", "RerankingConfig", ranker=folder / "ranker", **options)
    runs = [f"{name}={folder / 'test' / name / 'run.trec'}" for name in ("bm25", "dense", "ranker")]
    options = {"measures": ["MRR@10", "nDCG@10"], "first_stages": "ranker=bm25", "output_dir": folder / "report"}
    run("score", "ScoringConfig", collection=collection, runs=runs, resamples=500, **options)
