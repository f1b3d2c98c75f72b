"""A toy training that tests run in this process, in two processes, and with a break: python listwise_toy.py ..."""

import json
import sys
from pathlib import Path

import torch

from r2anker_hf.rankers.collator import GroupedListwiseCollator
from r2anker_hf.rankers.listwise import ListwiseConfig, ListwiseTrainer, TrainingGroups
from r2anker_hf.rankers.ranker import CrossEncoderRanker

WORDS = "cat dog bird fish tree river stone house bread water".split()


def rows(count: int = 24) -> list[dict]:
    """Queries of one word whose positive repeats it; lists of uneven length, so that groups are ragged."""
    made = []
    for index in range(count):
        others = [f"d{(index + step) % 10}" for step in range(1, 3 + index % 4)]
        made.append(
            {
                "query_id": f"q{index}",
                "query": WORDS[index % 10],
                "positive_ids": [f"d{index % 10}"],
                "candidates": [{"retriever": "bm25", "doc_ids": others, "scores": [0.0] * len(others)}],
            }
        )
    return made


def text(doc_id: str) -> str:
    """Texts of uneven length."""
    number = int(doc_id[1:])
    return f"the {WORDS[number]} " + "and the list of values " * (number % 4)


def trainer(model: str, output_dir: str, max_length: int = 32, max_windows: int = 1, **options) -> ListwiseTrainer:
    """A trainer on the toy rows whose log holds the loss of every step."""
    torch.manual_seed(0)  # the fresh head
    lengths = {"max_length": max_length, "max_windows": max_windows}
    ranker = CrossEncoderRanker.from_pretrained(model, fresh_head=True, device="cpu", **lengths)
    settings = {"learning_rate": 1e-3, "num_train_epochs": 2, "num_negatives": 4, "mixed_precision": "no"}
    settings |= {"logging_steps": 1, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    config = ListwiseConfig(output_dir=output_dir, **settings | options)
    measure = options.get("eval_strategy") and (lambda model: {"MRR@10": 0.5})
    groups = TrainingGroups(rows(), text, config)
    return ListwiseTrainer(ranker.model, config, groups, GroupedListwiseCollator(ranker.encoder), measure or None)


def losses(trained: ListwiseTrainer) -> list[float]:
    """The loss of every step."""
    return [entry["loss"] for entry in trained.state.log_history if "loss" in entry]


def gradient_norms(trained: ListwiseTrainer) -> list[float]:
    """The norm of every step's gradient, before clipping."""
    return [entry["grad_norm"] for entry in trained.state.log_history if "grad_norm" in entry]


if __name__ == "__main__":
    model, output_dir, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    trained = trainer(model, output_dir, **options)
    trained.train()
    if trained.is_world_process_zero():
        Path(output_dir, "losses.json").write_text(json.dumps(losses(trained)))
