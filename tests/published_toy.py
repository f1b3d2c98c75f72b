"""The recipes from a toy collection to a report, in this process: finished folders as publishing gets them."""

import importlib.util
import json
import sys
from pathlib import Path
from unittest.mock import patch

from r2anker_hf.config import configs_of, parse_config
from r2anker_hf.rankers.mixture import epoch_counts

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
PLACES = "river stone house bread tree fish bird cat dog water fire".split()
OTHER_PLACES = "list string file class".split()
TRAINING = "RankerConfig ListwiseOptions"
TRAINED = {"max_steps": 2, "num_negatives": 3, "per_device_train_batch_size": 4, "max_length": 64}
TRAINED |= {"use_cpu": "true", "mixed_precision": "no", "report_to": "none"}
MODES = ("the file", "a list of values", "the default name", "an error", "the index")


def recipe(stage):
    """The module of a recipe."""
    spec = importlib.util.spec_from_file_location(stage, RECIPES / f"{stage}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[stage] = module  # dataclasses look their module up by this name
    spec.loader.exec_module(module)
    return module


def run(stage, configs, **options):
    """A recipe's main with these options."""
    module = recipe(stage)
    module.main(*parse_config(*(getattr(module, config) for config in configs.split()), args=arguments(**options)))


def arguments(**options):
    """Options as they stand on a command line."""
    words = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(str(one) for one in values)]
    return words


def write_collection(folder, places=PLACES):
    """A BEIR folder: 5 passages per place, 3 queries to train and 2 to test with, one relevant passage each."""
    (folder / "qrels").mkdir(parents=True)
    documents, queries, qrels = [], [], {"train": [], "test": []}
    for number, (place, mode) in enumerate((place, mode) for place in places for mode in MODES):
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
    run("train_ranker", TRAINING, **TRAINED, negatives=folder / "negatives", model=model, output_dir=folder / "ranker")
    measure(collection, folder / "test", ("bm25", "dense"), folder / "ranker", folder)


def measure(collection, first_stages, names, ranker, into):
    """Rerank a collection's test split, and score the reranking beside the runs of these names."""
    runs = {name: first_stages / name / "run.trec" for name in names}
    options = {"collection": collection, "first_stage": runs["bm25"], "depth": 10}
    run("rerank", "RerankingConfig", ranker=ranker, **options, output_dir=into / "test" / "ranker")
    runs = [f"{name}={path}" for name, path in {**runs, "ranker": into / "test" / "ranker" / "run.trec"}.items()]
    options = {"measures": ["MRR@10", "nDCG@10"], "first_stages": "ranker=bm25", "output_dir": into / "report"}
    run("score", "ScoringConfig", collection=collection, runs=runs, resamples=500, **options)


def mix(folder, finished, model):
    """A ranker of two collections, the toy story's and a smaller one, with a report of each.

    Returns:
        What the training asked of `epoch_counts`, and what it was told.
    """
    collection = folder / "other"
    write_collection(collection, OTHER_PLACES)
    for split in ("train", "test"):
        options = {"collection": collection, "split": split, "depth": 12, "retriever": "bm25"}
        run("retrieve", "RetrievalConfig", **options, output_dir=folder / split / "bm25")
    options = {"runs": f"bm25={folder / 'train' / 'bm25' / 'run.trec'}", "depth": 10, "audit_queries": 0}
    run(
        "mine",
        "MiningConfig",
        collection=collection,
        licence="cc-by-nc-4.0",
        **options,
        output_dir=folder / "negatives",
    )
    asked, training = [], recipe("train_ranker")

    def counts(*arguments):
        asked.append((arguments, epoch_counts(*arguments)))
        return asked[-1][1]

    options = {"negatives": [finished / "negatives", folder / "negatives"], "model": model, "mixture_weights": [3, 1]}
    options |= {"held_out": 5, "max_queries": 20, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    words = arguments(**TRAINED, **options, output_dir=folder / "ranker")
    with patch("r2anker_hf.rankers.mixture.epoch_counts", counts):
        training.main(*parse_config(*configs_of(training.main), args=words))
    measure(collection, folder / "test", ["bm25"], folder / "ranker", folder)
    measure(finished / "toy", finished / "test", ["bm25", "dense"], folder / "ranker", folder / "on_toy")
    return asked
