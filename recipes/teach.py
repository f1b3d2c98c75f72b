"""Teach: a ranker scores the candidates of every training query once, for a retriever to learn from (distil.py).

    accelerate launch recipes/teach.py --negatives FOLDER_OR_REPO --ranker FOLDER_OR_REPO --depth 200 --output_dir D

D is a dataset like the one that mine.py wrote, with the ranker's logits as one more of the rankings: train_ranker.py
draws from them too (policy redistributed). It is as fast as rerank.py: with MiniLM some 100 pairs a second in float32
and 200 in bfloat16 on two CPU cores. Several processes share the pairs, and a killed run goes on where it was when the
same command is given again; where memory ran out, with a smaller --batch_size. The ranker may be any that
sentence-transformers loads as a CrossEncoder, such as Qwen3-Reranker.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from r2anker_hf.config import run_recipe
from r2anker_hf.names import checked_name
from r2anker_hf.negatives.audit import audit_with_card
from r2anker_hf.negatives.options import CandidatesOptions
from r2anker_hf.negatives.teacher import TeacherScores, pooled, write_taught
from r2anker_hf.stage import pinned, recorded_inputs, run_stage

if TYPE_CHECKING:
    from r2anker_hf.rankers.ranker import Reranker


@dataclass
class TeachingConfig(CandidatesOptions):
    ranker: str = field(metadata={"help": "Folder of train_ranker.py or of any CrossEncoder, or a Hub repository."})
    output_dir: str = field(metadata={"help": "New folder for the dataset with the scores."})
    teacher_ranking: str = field(
        default="teacher", metadata={"help": "What the scores are called in the dataset.", "formerly": "name"}
    )
    depth: int = field(default=200, metadata={"help": "Top-N of each retriever that is scored."})
    max_queries: int | None = field(
        default=None, metadata={"help": "Score and keep so many queries, evenly spaced; default all."}
    )
    ranker_revision: str | None = field(default=None, metadata={"help": "Commit of a Hub ranker."})
    batch_size: int | None = field(
        default=None, metadata={"help": "Pairs of full length scored at once (more short ones); default by device."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Tokens of a pair; default what the ranker says, else 128."}
    )
    prompt: str | None = field(
        default=None,
        metadata={
            "help": "Name of one of the ranker's prompts, or a text; default the ranker's own. With one given, "
            "sentence-transformers scores."
        },
    )
    dtype: Literal["float32", "bfloat16"] = field(
        default="float32", metadata={"help": "float32, or bfloat16: faster, scores with about two correct digits."}
    )
    audit_queries: int = field(
        default=0,
        metadata={"help": "About how many queries the audit looks at, judged by this ranker; 0: none."},
    )
    seed: int = field(default=42, metadata={"help": "Which queries the audit looks at."})

    def __post_init__(self):
        checked_name(self.teacher_ranking, "teacher_ranking")


def main(config: TeachingConfig) -> None:
    from r2anker_hf.rankers.foreign import loaded_by

    config, inputs = pinned(config, negatives="dataset", ranker="model")
    inputs |= loaded_by(config.ranker, config.ranker_revision, config.prompt)
    run_stage(config, config.output_dir, inputs, partial(teach, config), free=("batch_size",), scratch=("work",))


def teach(config: TeachingConfig, folder: Path) -> None:
    """Score, then write the dataset."""
    import torch
    from accelerate import PartialState

    from r2anker_hf.rankers.foreign import load_ranker

    state = PartialState()
    candidates = config.load().some(config.max_queries)
    choose = partial(pooled, depth=config.depth)
    scores = TeacherScores(candidates, config.split, config.teacher_ranking, choose, folder / "work")
    options = {"batch_size": config.batch_size, "dtype": getattr(torch, config.dtype), "device": state.device}
    options |= {"max_length": config.max_length, "prompt": config.prompt}
    ranker = load_ranker(config.ranker, config.ranker_revision, **options)
    scores.make(ranker.rerank)
    write_taught(folder, scores, teacher_facts(config, ranker, folder))
    if state.is_main_process and config.audit_queries:
        # the mined dataset's audit anew, with this ranker's word on which are false
        options = {"max_queries": config.audit_queries, "seed": config.seed, "judged_by": config.teacher_ranking}
        audit_with_card(folder, candidates.corpus.text, split=config.split, **options)


def teacher_facts(config: TeachingConfig, ranker: Reranker, folder: Path) -> dict[str, Any]:
    """What the manifest says of the teacher: its repository and commit, or its folder's own name and hash."""
    inputs = recorded_inputs(folder)
    stated = inputs["ranker"]
    if stated.startswith("sha256:"):
        stated = f"{Path(config.ranker).resolve().name}@{stated}"
    settings = {"ranker": stated, "depth": config.depth, "max_length": ranker.max_length, "dtype": config.dtype}
    library = inputs.get("ranker scored by")
    given = {"prompt": config.prompt, "scored_by": library and f"{library} {version(library)}"}
    given["max_windows"] = ranker.max_windows if ranker.max_windows > 1 else None
    return {"settings": {**settings, **{name: value for name, value in given.items() if value is not None}}}


if __name__ == "__main__":
    run_recipe(main)
