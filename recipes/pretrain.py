"""Pretrain: an encoder learns to put a passage into one vector, from passages alone (ED-MLM).

    accelerate launch recipes/pretrain.py --collection C --model M --output_dir D

D is an encoder that train_retriever.py, distil.py and train_ranker.py take as --model, and that transformers and
sentence-transformers load. --bottleneck lexicon is LexMAE's, for SPLADE. --fresh num_hidden_layers=4 hidden_size=256
... starts from fresh weights of those sizes, and with vocab_size=4096 also from a vocabulary that is learnt from the
collection: where passages are few, most of a large one would stay untrained. Minutes for small encoders and thousands
of passages on two CPU cores; a killed run goes on from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from r2anker_hf.collection.collection import Collection
from r2anker_hf.collection.options import CollectionOptions
from r2anker_hf.config import options_fit, run_recipe
from r2anker_hf.files import write_whole
from r2anker_hf.records import InputError
from r2anker_hf.retrievers.options import POOLINGS, PretrainingOptions
from r2anker_hf.stage import pinned, run_stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from r2anker_hf.models.tokens import Tokens
    from r2anker_hf.retrievers.pretraining import PretrainingConfig


@dataclass
class EncoderConfig(CollectionOptions):
    model: str = field(
        default="google-bert/bert-base-uncased", metadata={"help": "Encoder to start from: a folder or Hub id."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Commit of a Hub model."})
    fresh: dict[str, int] = field(
        default_factory=dict,
        metadata={
            "help": "Take of the model its tokenizer and configuration alone, with these sizes; with vocab_size the "
            "tokenizer's vocabulary is learnt from the collection."
        },
    )
    max_length: int = field(default=144, metadata={"help": "Tokens of a passage; the rest is cut off (section C)."})
    pooling: str | None = field(
        default=None,
        metadata={"help": "Of the saved encoder, cls or mean; default cls with bottleneck cls, else mean."},
    )
    split: str = field(
        default="train", metadata={"help": "Any split that the collection has; passages alone are read."}
    )

    def __post_init__(self):
        if self.pooling not in (None, *POOLINGS):
            raise InputError(f"no pooling {self.pooling!r}; choices: {', '.join(POOLINGS)}")


def main(config: EncoderConfig, training: PretrainingOptions) -> None:
    from r2anker_hf.models.trainers import refuse_unheeded

    refuse_unheeded(training)
    collection = config.load(config.split)
    config, model = pinned(config, model="model")
    inputs = {"collection": f"{collection.name}@{collection.revision}", **model}
    work, scratch = partial(pretrain, config, training, collection), ("checkpoints", "tokens", "tokenizer")
    run_stage((config, training), training.output_dir, inputs, work, scratch=scratch)


def pretrain(config: EncoderConfig, training: PretrainingConfig, collection: Collection, folder: Path) -> None:
    """Train, and save the encoder; the decoder is thrown away. Without epochs the encoder is saved as it came."""
    from r2anker_hf.models import checkpoints
    from r2anker_hf.retrievers import pretraining

    with training.main_process_first():
        tokenizer = load_tokenizer(config, collection, folder / "tokenizer")
    encoder = pretraining.load_encoder(
        config.model, config.model_revision, fresh_sizes(config, tokenizer), training.seed
    )
    check_limits(config, encoder, tokenizer)
    model = pretraining.BottleneckModel(encoder, tokenizer.mask_token_id, training.bottleneck, training.decoder_layers)
    training.output_dir = str(folder / "checkpoints")
    tokens = tokenised(config, collection, tokenizer, folder / "tokens")
    passages = pretraining.Passages(tokens, training, tokenizer)
    collator = pretraining.PassageCollator(tokenizer)
    with options_fit():
        trainer = pretraining.PretrainingTrainer(model, training, passages, collator, processing_class=tokenizer)
    if training.num_train_epochs or training.max_steps > 0:
        checkpoints.train(trainer)
    if trainer.is_world_process_zero():
        trainer.state.save_to_json(str(folder / "trainer_state.json"))
        pooling = config.pooling or ("cls" if training.bottleneck == "cls" else "mean")
        pretraining.save_encoder(encoder, tokenizer, folder, config.max_length, pooling)


def load_tokenizer(config: EncoderConfig, collection: Collection, folder: Path) -> PreTrainedTokenizerBase:
    """The model's tokenizer, or, where `fresh` has a `vocab_size`, one of its kind that the collection taught."""
    from transformers import AutoTokenizer

    from r2anker_hf.models import loading as models
    from r2anker_hf.models.tokens import learn_vocabulary

    models.check_source(config.model, config.model_revision, weights=not config.fresh)
    tokenizer = models.load_tokenizer(config.model, config.model_revision)
    if "vocab_size" not in config.fresh:
        return tokenizer
    if not folder.is_dir():
        learnt = learn_vocabulary(tokenizer, partial(blocks, collection), config.fresh["vocab_size"])
        write_whole(folder, learnt.save_pretrained)
    return AutoTokenizer.from_pretrained(folder)


def fresh_sizes(config: EncoderConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """`fresh`, with what a learnt vocabulary came to: a small collection may not fill it."""
    if "vocab_size" not in config.fresh:
        return config.fresh
    return {**config.fresh, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}


def check_limits(config: EncoderConfig, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without [MASK] or of another model, and passages that the encoder has no positions for."""
    from r2anker_hf.models import loading as models

    if not tokenizer.is_fast or tokenizer.mask_token is None or tokenizer.pad_token is None:
        raise InputError(f"{config.model}: needs a fast tokenizer with a mask token and a padding token")
    models.check_vocabulary(encoder, tokenizer, config.model)
    models.check_length(encoder, config.max_length, config.model)
    special = tokenizer.num_special_tokens_to_add()
    if config.max_length <= special:
        raise InputError(f"max_length is {config.max_length}, but must be at least {special + 1}")


def tokenised(
    config: EncoderConfig, collection: Collection, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> Tokens:
    """Token ids of all passages, made once."""
    from r2anker_hf.models.tokens import Tokens

    limit = config.max_length - tokenizer.num_special_tokens_to_add()
    return Tokens.shared((), chain.from_iterable(blocks(collection)), tokenizer, folder, limit)


def blocks(collection: Collection) -> Iterator[list[str]]:
    """The passages in their order, some thousands at a time."""
    from r2anker_hf.models.tokens import TEXTS_AT_ONCE

    corpus = collection.corpus
    return (corpus.texts(start, start + TEXTS_AT_ONCE) for start in range(0, len(corpus), TEXTS_AT_ONCE))


if __name__ == "__main__":
    run_recipe(main)
