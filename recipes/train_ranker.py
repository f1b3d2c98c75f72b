"""Train: a cross-encoder learns, listwise, to tell each query's positive from negatives of all its retrievers.

    accelerate launch recipes/train_ranker.py --negatives FOLDER_OR_REPO --model M --num_negatives 40 --output_dir D

Every option of transformers' TrainingArguments is an option here. With --collection and --dev_run, reranking that
run of the dev split chooses the checkpoint. A killed training goes on from its last checkpoint when the same command
is given again. --memory_budget trains groups of any size in that many GiB, --gradient_checkpointing makes graphs
smaller, --lora_rank trains adapters alone, --report_to takes what transformers knows (trackio among it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from transformers import PreTrainedModel

from r2anker_hf import checkpoints
from r2anker_hf.collator import GroupedListwiseCollator, PairEncoder
from r2anker_hf.collection import Collection, load_collection
from r2anker_hf.config import run_recipe
from r2anker_hf.listwise import ListwiseConfig, ListwiseTrainer, TrainingGroups
from r2anker_hf.lora import merged, with_lora
from r2anker_hf.measures import evaluate_run, means
from r2anker_hf.negatives.candidates import Candidates, load_candidates
from r2anker_hf.rankers import CrossEncoderRanker
from r2anker_hf.run import Run
from r2anker_hf.stage import pinned, run_stage
from r2anker_hf.tokens import TEXTS_AT_ONCE, Tokens


@dataclass
class RankerConfig:
    negatives: str = field(metadata={"help": "Candidates: a folder that mine.py wrote, or a Hub repository."})
    model: str = field(
        default="nghuyong/ernie-2.0-base-en", metadata={"help": "Encoder to start from: a folder or Hub id."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Commit of a Hub model."})
    negatives_revision: str | None = field(default=None, metadata={"help": "Commit of a Hub dataset."})
    negatives_split: str = field(default="train", metadata={"help": "Split of the candidates."})
    max_queries: int | None = field(
        default=None, metadata={"help": "Train on so many queries, evenly spaced; default all."}
    )
    max_length: int = field(default=128, metadata={"help": "Tokens of a pair (appendix C)."})
    max_query_length: int | None = field(default=None, metadata={"help": "Tokens of a query; default half a pair."})
    lora_rank: int = field(
        default=0, metadata={"help": "Rank of low-rank adapters, merged into the saved ranker; 0 trains all weights."}
    )
    lora_alpha: float | None = field(default=None, metadata={"help": "Their scale; default twice the rank."})
    collection: str | None = field(default=None, metadata={"help": "Its dev split chooses the checkpoint."})
    collection_options: dict[str, int] = field(default_factory=dict, metadata={"help": "Sizes of 'apidocs'."})
    revision: str | None = field(default=None, metadata={"help": "Commit of a Hub collection."})
    use_titles: bool = field(default=True, metadata={"help": "Dev passages are title and text, or text alone."})
    dev_split: str = field(default="dev", metadata={"help": "Split that chooses; never the one to measure with."})
    dev_run: str | None = field(default=None, metadata={"help": "First stage of the dev split, reranked to choose."})
    dev_depth: int = field(default=100, metadata={"help": "Documents of it that are reranked a query."})
    dev_measure: str = field(default="MRR@10", metadata={"help": "Measure that chooses the checkpoint."})


def main(config: RankerConfig, training: ListwiseConfig) -> None:
    inputs: dict[str, str | Path] = {
        "negatives": pinned(config, "negatives", "dataset"),
        "model": pinned(config, "model"),
    }
    dev = dev_collection(config)
    if dev:
        inputs |= {"dev run": Path(config.dev_run), "dev collection": f"{dev.name}@{dev.revision}"}
    work = partial(train, config, training, dev)
    run_stage((config, training), training.output_dir, inputs, work, scratch=("checkpoints", "tokens"))


def train(config: RankerConfig, training: ListwiseConfig, dev: Collection | None, folder: Path) -> None:
    """Train, keep the best checkpoint's weights, and save them as a ranker."""
    candidates = load_candidates(config.negatives, config.negatives_split, config.negatives_revision)
    if config.max_queries:
        places = evenly_spaced(len(candidates.rows), config.max_queries)
        candidates = replace(candidates, rows=candidates.rows.select(places))
    ranker = CrossEncoderRanker.from_pretrained(
        config.model,
        config.model_revision,
        config.max_length,
        config.max_query_length,
        fresh_head=True,
        device=training.device,
        dtype=torch.bfloat16 if training.bf16 else torch.float32,
    )
    if config.lora_rank:
        ranker.model = with_lora(ranker.model, config.lora_rank, config.lora_alpha)
    trainer = make_trainer(config, training, dev, candidates, ranker, folder)
    checkpoints.train(trainer)
    if trainer.is_world_process_zero():
        trainer.state.save_to_json(str(folder / "trainer_state.json"))
        ranker.model = merged(trainer.accelerator.unwrap_model(trainer.model))
        ranker.save_pretrained(folder)


def evenly_spaced(size: int, count: int) -> list[int]:
    """Positions of `count` out of `size` rows, or of all there are."""
    count = min(size, count)
    return [number * size // count for number in range(count)]


def make_trainer(
    config: RankerConfig,
    training: ListwiseConfig,
    dev: Collection | None,
    candidates: Candidates,
    ranker: CrossEncoderRanker,
    folder: Path,
) -> ListwiseTrainer:
    """The trainer of a configuration; its checkpoints and the token ids of all texts go into `folder`."""
    training.output_dir = str(folder / "checkpoints")
    measure = dev_measure(config, dev, ranker) if dev else None
    if measure:
        training.load_best_model_at_end = True
        training.metric_for_best_model = config.dev_measure
        training.greater_is_better = True
    with training.main_process_first():
        documents, queries = tokenised(candidates, ranker.encoder, folder / "tokens")
    return ListwiseTrainer(
        ranker.model,
        training,
        TrainingGroups(candidates.rows, documents.__getitem__, training, queries.__getitem__),
        GroupedListwiseCollator(ranker.encoder),
        measure,
        processing_class=ranker.tokenizer,
    )


def tokenised(candidates: Candidates, encoder: PairEncoder, folder: Path) -> tuple[Tokens, Tokens]:
    """Token ids of all documents and of all training queries, made once."""
    corpus, rows = candidates.corpus, candidates.rows
    blocks = (corpus.texts(start, start + TEXTS_AT_ONCE) for start in range(0, len(corpus), TEXTS_AT_ONCE))
    given = encoder.tokenizer, folder / "documents", encoder.max_length
    documents = Tokens.build(corpus.ids, chain.from_iterable(blocks), *given)
    given = encoder.tokenizer, folder / "queries", encoder.max_length
    return documents, Tokens.build(list(rows["query_id"]), rows["query"], *given)


def dev_collection(config: RankerConfig) -> Collection | None:
    """The dev split that chooses the checkpoint, or None where no dev run is given."""
    if not (config.collection and config.dev_run):
        return None
    return load_collection(
        config.collection, config.dev_split, config.revision, config.use_titles, **config.collection_options
    )


def dev_measure(config: RankerConfig, collection: Collection, ranker: CrossEncoderRanker) -> Callable:
    """Reranking quality on dev as a function of the model."""
    run = Run.read_trec(config.dev_run)

    def measure(model: PreTrainedModel) -> Mapping[str, float]:
        ranker.model = model
        reranked = ranker.rerank(run, collection, config.dev_depth)
        return means(evaluate_run(collection.qrels, reranked, [config.dev_measure]))

    return measure


if __name__ == "__main__":
    run_recipe(main, RankerConfig, ListwiseConfig)
