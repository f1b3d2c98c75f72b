"""Train: a cross-encoder learns, listwise, to tell each query's positive from negatives of all its retrievers.

    accelerate launch recipes/train_ranker.py --negatives FOLDER_OR_REPO --model M --num_negatives 40 --output_dir D

Several --negatives make one ranker of several collections, mixed by size or by --mixture_weights.
The options of transformers' TrainingArguments are options here, and --help_all lists them. With --collection and
--dev_run, reranking that run of the dev split chooses the checkpoint; with --held_out N, reranking the candidates of N
training queries that are not trained on, so that dev can be reported. A killed training goes on from its last
checkpoint when the same command is given again. --memory_budget trains groups of any size in that many GiB,
--gradient_checkpointing makes graphs smaller, --lora_rank trains adapters only, --report_to takes what transformers
knows (trackio among it).
--keep_at 10000 40000 160000 keeps the rankers that have seen so many pairs, for curve.py. --early_stopping_patience 3
ends the training after three dev measurements without a better one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeVar

from r2anker_hf.collection.collection import Collection
from r2anker_hf.collection.options import CollectionOptions
from r2anker_hf.config import options_fit, run_recipe
from r2anker_hf.evaluation.measures import evaluate_run, means, parse_measure
from r2anker_hf.negatives.candidates import Candidates, load_candidates
from r2anker_hf.negatives.holdout import hold_out, without
from r2anker_hf.negatives.suspects import Examined
from r2anker_hf.rankers.options import ListwiseOptions
from r2anker_hf.records import InputError
from r2anker_hf.run import Run, check_run
from r2anker_hf.stage import pinned, run_stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from r2anker_hf.models.tokens import Tokens
    from r2anker_hf.rankers.collator import PairEncoder
    from r2anker_hf.rankers.listwise import ListwiseConfig, ListwiseTrainer
    from r2anker_hf.rankers.ranker import CrossEncoderRanker

NO_REVISION = "-"  # of a local folder, among the revisions of several sets of candidates
T = TypeVar("T")


@dataclass
class RankerConfig(CollectionOptions):
    negatives: list[str] = field(
        metadata={"help": "Candidates: folders that mine.py wrote, or Hub repositories. Several are mixed."}
    )
    model: str = field(
        default="nghuyong/ernie-2.0-base-en", metadata={"help": "Encoder to start from: a folder or Hub id."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Commit of a Hub model."})
    negatives_revision: list[str] = field(
        default_factory=list, metadata={"help": "Commits of Hub datasets, one per entry of negatives; - for a folder."}
    )
    negatives_split: list[str] = field(
        default_factory=lambda: ["train"], metadata={"help": "Split of the candidates: one for all, or one per entry."}
    )
    mixture_weights: list[float] = field(
        default_factory=list, metadata={"help": "Shares of the candidates in an epoch; default by their size."}
    )
    mixture_temperature: float = field(
        default=1.0, metadata={"help": "Shares are sizes to the power 1/T: 1 mixes by size, a high one evenly."}
    )
    max_queries: int | None = field(
        default=None, metadata={"help": "Train on so many queries, evenly spaced; default all."}
    )
    max_query_length: int | None = field(
        default=None, metadata={"help": "Tokens kept of a query; default all. Other loaders know no such limit."}
    )
    max_windows: int = field(
        default=1,
        metadata={
            "help": "Windows of a passage too long for a pair; they overlap by half, and the best score counts. "
            "Take as many as most passages need. 1 truncates. The ranker keeps it; other loaders read one window."
        },
    )
    lora_rank: int = field(
        default=0, metadata={"help": "Rank of low-rank adapters, merged into the saved ranker; 0 trains all weights."}
    )
    lora_alpha: float | None = field(
        default=None, metadata={"help": "Scale of the adapters; default twice lora_rank."}
    )
    held_out: int | None = field(
        default=None, metadata={"help": "Training queries that choose the checkpoint and are not trained on."}
    )
    held_out_list: str | None = field(
        default=None,
        metadata={"help": "The retriever whose list is reranked for the held-out queries; default the first."},
    )
    collection: str | None = field(
        default=None, kw_only=True, metadata={"help": "Its dev split chooses the checkpoint."}
    )
    dev_split: str = field(default="dev", metadata={"help": "Split that chooses; never the one to measure with."})
    dev_run: str | None = field(default=None, metadata={"help": "First stage of the dev split, reranked to choose."})
    dev_depth: int = field(default=100, metadata={"help": "Documents reranked per dev or held-out query."})
    dev_measure: str = field(default="MRR@10", metadata={"help": "Measure that chooses the checkpoint."})
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "End after so many dev measurements in a row without a better one."}
    )
    keep_at: list[int] = field(
        default_factory=list,
        metadata={"help": "Keep the ranker that has seen so many pairs, each a folder in kept/, for curve.py."},
    )

    def __post_init__(self):
        parse_measure(self.dev_measure)
        if self.held_out is not None and self.dev_run:
            raise InputError(f"held_out is {self.held_out} and dev_run is {self.dev_run}, but one of them chooses")
        if self.dev_run and not self.collection:
            raise InputError("dev_run needs collection: its dev split has the judgements that choose the checkpoint")
        if self.early_stopping_patience is not None and not (self.dev_run or self.held_out):
            raise InputError(
                "early_stopping_patience needs dev measurements: give collection and dev_run, or held_out"
            )


def main(config: RankerConfig, training: ListwiseOptions) -> None:
    from r2anker_hf.models.trainers import refuse_unheeded

    refuse_unheeded(training)
    check_stopping(config, training)
    config, inputs = pinned_negatives(config)
    config, model = pinned(config, model="model")
    inputs |= model
    dev = dev_of(config)
    if dev:
        collection, _ = dev
        inputs |= {"dev run": Path(config.dev_run), "dev collection": f"{collection.name}@{collection.revision}"}
    work = partial(train, config, training, dev)
    run_stage((config, training), training.output_dir, inputs, work, scratch=("checkpoints", "tokens", "suspects"))


def check_stopping(config: RankerConfig, training: ListwiseConfig) -> None:
    """Dev measurements choose the checkpoint, and early stopping counts them; what is measured must have been saved.

    Raises:
        InputError: nothing is measured, or it is saved at other steps.
    """
    names = "early_stopping_patience", "dev_run", "held_out"
    choosing = [name for name in names if getattr(config, name) is not None]
    if not choosing:
        return
    if training.eval_strategy == "no":
        raise InputError(
            f"{choosing[0]} counts dev measurements: give --eval_strategy steps --eval_steps 0.1 and "
            "--save_strategy steps --save_steps 0.1"
        )
    strategy, steps = training.eval_strategy.value, training.eval_steps
    if strategy != training.save_strategy.value or strategy == "steps" and steps != training.save_steps:
        when = f"steps --save_steps {steps:g}" if strategy == "steps" else strategy
        raise InputError(f"{choosing[0]} keeps the best measured checkpoint: give --save_strategy {when}")


def pinned_negatives(config: RankerConfig) -> tuple[RankerConfig, dict[str, str | Path]]:
    """The configuration with the commits of all candidates, and these as a stage records them (see `pinned`)."""
    count = len(config.negatives)
    for name in ("negatives_revision", "negatives_split"):
        if len(getattr(config, name)) not in (0, 1, count):
            raise InputError(f"{name} has {len(getattr(config, name))} values for {count} sets of negatives")
    revisions = [None if revision == NO_REVISION else revision for revision in config.negatives_revision]
    sets = [
        pinned(SimpleNamespace(negatives=source, negatives_revision=revision), negatives="dataset")
        for source, revision in zip(config.negatives, spread(revisions or [None], count), strict=True)
    ]
    names = ["negatives"] if count == 1 else [f"negatives {number}" for number in range(1, count + 1)]
    inputs = {name: recorded["negatives"] for name, (_, recorded) in zip(names, sets, strict=True)}
    found = [one.negatives_revision or NO_REVISION for one, _ in sets]
    return replace(config, negatives_revision=[] if set(found) == {NO_REVISION} else found), inputs


def spread(values: Sequence[T], count: int) -> list[T]:
    """One value for each of `count`: as they are, or the only one for all."""
    return list(values) * count if len(values) == 1 else list(values)


def load_negatives(config: RankerConfig) -> list[Candidates]:
    """All sets of candidates, in the order given."""
    count = len(config.negatives)
    revisions = [None if revision == NO_REVISION else revision for revision in config.negatives_revision]
    splits, revisions = spread(config.negatives_split, count), spread(revisions or [None], count)
    return [load_candidates(*one) for one in zip(config.negatives, splits, revisions, strict=True)]


def train(config: RankerConfig, training: ListwiseConfig, dev: tuple[Collection, Run] | None, folder: Path) -> None:
    """Train, keep the best checkpoint's weights, and save them as a ranker."""
    import torch

    from r2anker_hf.models import checkpoints
    from r2anker_hf.models.loading import seeded
    from r2anker_hf.rankers.lora import merged, with_lora
    from r2anker_hf.rankers.milestones import seconds_at, write_seen
    from r2anker_hf.rankers.ranker import CrossEncoderRanker

    candidates = load_negatives(config)
    if config.held_out is not None:
        split = config.negatives_split[0]
        candidates[0], *dev = hold_out(candidates[0], config.held_out, config.held_out_list, split)
        candidates[1:] = [without(one, dev[0].queries.values()) for one in candidates[1:]]
    candidates = [one.some(config.max_queries) for one in candidates]
    ranker = CrossEncoderRanker.from_pretrained(
        config.model,
        config.model_revision,
        training.max_length,
        config.max_query_length,
        fresh_head=True,
        seed=training.seed,
        device=training.device,
        max_windows=config.max_windows,
        dtype=torch.bfloat16 if training.bf16 else torch.float32,
    )
    if config.lora_rank:
        with seeded(training.seed):
            ranker.model = with_lora(ranker.model, config.lora_rank, config.lora_alpha)
    measure = dev_measure(config, ranker, *dev) if dev else None
    trainer = make_trainer(config, training, candidates, ranker, folder, measure)
    pairs_a_step = pairs_of_a_step(training)
    add_milestones(config, trainer, folder, pairs_a_step)
    checkpoints.train(trainer)
    if trainer.is_world_process_zero():
        state = trainer.state
        state.save_to_json(str(folder / "trainer_state.json"))
        step = state.best_global_step if state.best_model_checkpoint else state.global_step
        write_seen(folder, step, step * pairs_a_step, seconds_at(state, step))
        ranker.model = merged(trainer.accelerator.unwrap_model(trainer.model))
        ranker.calibration = None  # it was fitted to the scores that the ranker started with
        ranker.save_pretrained(folder)


def pairs_of_a_step(training: ListwiseConfig) -> int:
    """(query, document) pairs of an optimiser step, over all processes, where no query has too few candidates."""
    queries = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    return queries * (training.num_negatives + 1)


def add_milestones(config: RankerConfig, trainer: ListwiseTrainer, folder: Path, pairs_a_step: int) -> None:
    """Let the trainer keep rankers on its way, and stop when dev says so."""
    from r2anker_hf.rankers.milestones import Clock, EarlyStopping, KeepAt

    clock = Clock()
    trainer.add_callback(clock)
    trainer.add_callback(KeepAt(folder, config.keep_at, pairs_a_step, trainer.save_model, clock))
    if config.early_stopping_patience is not None:
        trainer.args.restore_callback_states_from_checkpoint = True
        trainer.add_callback(EarlyStopping(config.early_stopping_patience))


def make_trainer(
    config: RankerConfig,
    training: ListwiseConfig,
    candidates: Sequence[Candidates],
    ranker: CrossEncoderRanker,
    folder: Path,
    measure: Callable | None,
) -> ListwiseTrainer:
    """The trainer of a configuration; its checkpoints and the token ids of all texts go into `folder`."""
    from r2anker_hf.rankers.collator import GroupedListwiseCollator
    from r2anker_hf.rankers.listwise import ListwiseTrainer, TrainingGroups
    from r2anker_hf.rankers.mixture import Mixture, epoch_counts

    training.output_dir = str(folder / "checkpoints")
    if measure:
        training.load_best_model_at_end = True
        training.metric_for_best_model = config.dev_measure
        training.greater_is_better = True
    parts = []
    for number, one in enumerate(candidates):
        documents, queries = tokenised(one, ranker.encoder, folder / "tokens" / str(number))
        rows = one.rows
        if training.leave_out_suspects:
            rows = Examined(rows, one.corpus.text, training.judged_by, folder / "suspects" / str(number))
        parts.append(TrainingGroups(rows, documents.__getitem__, training, queries.__getitem__))
        parts[-1].check()
    counts = epoch_counts([len(part) for part in parts], config.mixture_weights, config.mixture_temperature)
    groups = Mixture(parts, counts) if len(parts) > 1 else parts[0]
    collator = GroupedListwiseCollator(ranker.encoder)
    with options_fit():
        return ListwiseTrainer(ranker.model, training, groups, collator, measure, processing_class=ranker.tokenizer)


def tokenised(candidates: Candidates, encoder: PairEncoder, folder: Path) -> tuple[Tokens, Tokens]:
    """Token ids of all documents and of all training queries, made once."""
    from r2anker_hf.models.tokens import TEXTS_AT_ONCE, Tokens

    corpus, rows = candidates.corpus, candidates.rows
    tokenizer = encoder.tokenizer
    queries = Tokens.shared(list(rows["query_id"]), rows["query"], tokenizer, folder / "queries")
    blocks = (corpus.texts(start, start + TEXTS_AT_ONCE) for start in range(0, len(corpus), TEXTS_AT_ONCE))
    limit = encoder.document_limit(queries.lengths())
    documents = Tokens.shared(corpus.ids, chain.from_iterable(blocks), tokenizer, folder / "documents", limit)
    return documents, queries


def dev_of(config: RankerConfig) -> tuple[Collection, Run] | None:
    """The dev split and its first stage, or None where no dev run is given."""
    if not (config.collection and config.dev_run):
        return None
    collection = config.load(config.dev_split)
    run = Run.read_trec(config.dev_run)
    check_run(run, collection.queries, config.dev_run, config.dev_split, collection.corpus, depth=config.dev_depth)
    return collection, run


def dev_measure(config: RankerConfig, ranker: CrossEncoderRanker, collection: Collection, run: Run) -> Callable:
    """Quality of a reranked run as a function of the model."""

    def measure(model: PreTrainedModel) -> Mapping[str, float]:
        ranker.model = model
        reranked = ranker.rerank(run, collection, config.dev_depth)
        return means(evaluate_run(collection.qrels, reranked, [config.dev_measure]))

    return measure


if __name__ == "__main__":
    run_recipe(main)
