"""A BERT with fresh weights and a vocabulary learnt from a collection: what a benchmark needs, without a model hub.

    python recipes/benchmarks/fresh_model.py --collection apidocs --output_dir out/bert

The sizes are those of BERT base. Time and memory do not depend on what the weights know. Some 30 seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from r2anker_hf.collection.options import CollectionOptions
from r2anker_hf.config import run_recipe
from r2anker_hf.models.tokens import learn_vocabulary

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass
class ModelConfig(CollectionOptions):
    output_dir: str = field(metadata={"help": "Folder for the model."})
    sizes: dict[str, int] = field(
        default_factory=dict, metadata={"help": "Other than BERT base's, such as num_hidden_layers=2 vocab_size=2000."}
    )
    seed: int = field(default=42, metadata={"help": "Of the weights."})


def main(config: ModelConfig) -> None:
    bert = BertConfig(**config.sizes, num_labels=1)
    special = BertTokenizer(vocab={token: n for n, token in enumerate(SPECIAL)}, model_max_length=512)
    texts = config.load("train").corpus.texts()
    tokenizer = learn_vocabulary(special, lambda: [texts], bert.vocab_size)
    torch.manual_seed(config.seed)
    model = BertForSequenceClassification(bert)
    model.save_pretrained(config.output_dir)
    tokenizer.save_pretrained(config.output_dir)
    print(f"{config.output_dir}: {model.num_parameters() / 1e6:.1f} million weights, {len(tokenizer)} tokens")


if __name__ == "__main__":
    run_recipe(main)
