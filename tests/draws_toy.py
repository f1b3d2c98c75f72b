"""Draws of a toy training in one process or several, and after a break: torchrun draws_toy.py FOLDER."""

import json
import sys
from pathlib import Path

from torch.utils.data import DataLoader

from r2anker_hf.models.trainers import EpochSampler
from r2anker_hf.rankers.listwise import ListwiseConfig, TrainingGroups


def rows(count: int) -> list[dict]:
    """Queries with three long lists that share a third of their documents, a constraint and a ranker's scores."""
    made = []
    for query in range(count):
        lists = [
            {
                "retriever": name,
                "doc_ids": [f"d{query}-{(start + step) % 90}" for step in range(60)],
                "scores": [1.0 - step / 60 for step in range(60)],
            }
            for name, start in (("bm25", 0), ("dense", 30), ("splade", 60))
        ]
        pool = [f"d{query}-{number}" for number in range(90)]
        made.append(
            {
                "query_id": f"q{query}",
                "query": f"q{query}",
                "positive_ids": [f"d{query}-5"],
                "candidates": lists,
                "constraints": [{"run": "bm25@1000", "doc_ids": pool[:70]}],
                "rankings": [{"ranker": "ranker", "doc_ids": pool, "scores": [-number / 10 for number in range(90)]}],
            }
        )
    return made


def groups(policy: str, count: int, given: list[dict] | None = None) -> TrainingGroups:
    """Training groups of six negatives whose documents are their ids."""
    settings = {"num_negatives": 6, "use_cpu": True, "mixed_precision": "no", "report_to": "none"}
    return TrainingGroups(given or rows(count), str, ListwiseConfig(output_dir="unused", policy=policy, **settings))


def identity(batch):
    """A batch as the list of its groups."""
    return batch


def collect(loader, epoch: int) -> dict[str, list[str]]:
    """Documents by epoch and query."""
    return {f"{epoch}/{item['query']}": item["documents"] for batch in loader for item in batch}


if __name__ == "__main__":
    from accelerate import Accelerator

    drawn = groups("softmax", 24)  # training arguments reset accelerate's state, so they come first
    accelerator = Accelerator(cpu=True)
    sampler = EpochSampler(24, 4, seed=42)
    plain = DataLoader(drawn, 4 // accelerator.num_processes, sampler=sampler, collate_fn=identity)
    loader = accelerator.prepare_data_loader(plain, device_placement=False)
    whole = collect(loader, 0)
    sampler.set_epoch(1)
    resumed = collect(accelerator.skip_first_batches(loader, 3), 1)  # a break after 12 of the 24 queries
    whole |= collect(loader, 1)
    for name, seen in (("whole", whole), ("resumed", resumed)):
        Path(sys.argv[1], f"{name}-{accelerator.process_index}.json").write_text(json.dumps(seen))
