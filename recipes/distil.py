"""Distil: a dense or SPLADE retriever learns from a ranker's scores (R2ANKER, task 3; defaults of its appendix C).

    accelerate launch recipes/distil.py --negatives N --teacher R --model M --output_dir D

M is the retriever to improve, such as D2 or L2 of train_retriever.py; D is a plain SentenceTransformer or
SparseEncoder folder that retrieve.py takes. --teacher names a ranker, which then scores what this training draws;
without it N holds the scores, from teach.py. --loss contrastive trains on the same tuples without a teacher, to
compare. A killed training goes on. With MiniLM on two CPU cores some 30 passages of 128 tokens a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from r2anker_hf.config import run_recipe
from r2anker_hf.negatives.candidates import Candidates
from r2anker_hf.negatives.options import CandidatesOptions
from r2anker_hf.negatives.suspects import Examined
from r2anker_hf.negatives.teacher import TeacherScores, drawn
from r2anker_hf.retrievers.options import DistillationTraining
from r2anker_hf.stage import pinned, run_stage


@dataclass
class DistillationConfig(CandidatesOptions):
    model: str = field(metadata={"help": "The student to start from: a folder or Hub id."})
    output_dir: str = field(metadata={"help": "New folder for the retriever."})
    teacher: str | None = field(
        default=None, metadata={"help": "Ranker that scores what is drawn; default: scores of teach.py."}
    )
    retriever: Literal["dense", "splade"] = field(default="dense", metadata={"help": "What the student is."})
    max_queries: int | None = field(
        default=None, metadata={"help": "Train on so many queries, evenly spaced, where time is short."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Commit of a Hub model."})
    teacher_revision: str | None = field(default=None, metadata={"help": "Commit of a Hub ranker."})
    teacher_dtype: Literal["float32", "bfloat16"] = field(
        default="float32", metadata={"help": "Precision of the teacher that is given here."}
    )


def main(config: DistillationConfig, training: DistillationTraining) -> None:
    config, inputs = pinned(config, negatives="dataset", model="model", teacher="model")
    scratch = ("checkpoints", "teacher", "suspects", "start", "tuples.arrow")
    run_stage((config, training), config.output_dir, inputs, partial(distil, config, training), scratch=scratch)


def distil(config: DistillationConfig, training: DistillationTraining, folder: Path) -> None:
    """Write the tuples with the teacher's scores, train the student on them, and save it."""
    from accelerate import PartialState
    from datasets import Dataset

    from r2anker_hf.retrievers.distillation import DistillationLoss
    from r2anker_hf.retrievers.training import load_retriever, starting_model, train, write_tuples

    state, tuples, checkpoints = PartialState(), folder / "tuples.arrow", folder / "checkpoints"
    candidates = config.load().some(config.max_queries)
    rows = rows_with_scores(config, training, candidates, folder)
    if state.is_main_process:
        teacher = None if training.loss == "contrastive" else training.teacher_ranking
        count = write_tuples(rows, candidates.corpus.text, training, tuples, teacher)
        print(f"{count} tuples of {len(candidates.rows)} queries")
    state.wait_for_everyone()
    start = starting_model(
        config.retriever, config.model, config.model_revision, training, candidates.corpus, target=folder / "start"
    )
    revision = config.model_revision if start == config.model else None
    model = load_retriever(config.retriever, start, revision, training)
    loss = None if training.loss == "contrastive" else DistillationLoss(model, training)
    trained = train(model, Dataset.from_file(str(tuples)), training, checkpoints, loss)
    if state.is_main_process:
        model.save_pretrained(str(folder), create_model_card=False)
        trained.save_to_json(str(folder / "trainer_state.json"))


def rows_with_scores(
    config: DistillationConfig, training: DistillationTraining, candidates: Candidates, folder: Path
) -> Iterator[Mapping[str, Any]]:
    """The candidates as they are, or with the scores of the ranker that is given, for what this training draws."""
    if not config.teacher or training.loss == "contrastive":
        return iter(candidates.rows)
    import torch
    from accelerate import PartialState

    from r2anker_hf.rankers.foreign import load_ranker

    draws = {"count": training.num_negatives, "epochs": training.num_train_epochs, "seed": training.seed}
    choose = partial(drawn, **draws, sampling=training)
    if training.leave_out_suspects:
        examined = Examined(candidates.rows, candidates.corpus.text, training.judged_by, folder / "suspects")
        candidates = replace(candidates, rows=examined)
    scores = TeacherScores(candidates, config.split, training.teacher_ranking, choose, folder / "teacher")
    options = {"dtype": getattr(torch, config.teacher_dtype), "device": PartialState().device}
    scores.make(load_ranker(config.teacher, config.teacher_revision, **options).rerank)
    return scores.rows()


if __name__ == "__main__":
    run_recipe(main)
