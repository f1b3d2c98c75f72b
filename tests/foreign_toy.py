"""Rankers of others, made on the spot: a folder of every kind that sentence-transformers loads as a CrossEncoder.

python foreign_toy.py MODEL FOLDER reranks like rerank_toy.py.
"""

import sys
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    ModernBertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from r2anker_hf.processes import is_main_process
from r2anker_hf.rankers import foreign
from r2anker_hf.rankers.foreign import load_ranker

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT_OF = '{{ messages | selectattr("role", "eq", "%s") | map(attribute="content") | first }}'
PAIR_TEMPLATE = f"{TEXT_OF % 'system'} query {TEXT_OF % 'query'} passage {TEXT_OF % 'document'} is answer"


def words_of(tiny_model: Path, **options) -> PreTrainedTokenizerFast:
    """A tokenizer as decoders have it: no pair template, padding and end alone, and the words of the tiny model."""
    known = [token for token in AutoTokenizer.from_pretrained(tiny_model).get_vocab() if "#" not in token]
    vocabulary = {token: n for n, token in enumerate(["<pad>", "<end>", "<unk>", "yes", "answer", "system", *known])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **tokens, **options)


def saved(model, tokenizer, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def drawn(kind, config, **changes):
    """Weights so wide that two pairs differ in score by far more than rounding."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        return kind(config(initializer_range=0.3, **SIZES, **changes))


def modern(tiny_model: Path, kind=ModernBertForSequenceClassification):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    special = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 128, "num_labels": 1}
    return drawn(kind, ModernBertConfig, **sizes, **special, initializer_cutoff_factor=1.0), tokenizer


def of_decoder(tiny_model: Path, kind, **options):
    tokenizer = words_of(tiny_model, **options)
    sizes = {"vocab_size": len(tokenizer) + 3, "max_position_embeddings": 96, "num_key_value_heads": 1, "head_dim": 16}
    return drawn(kind, Qwen3Config, **sizes, pad_token_id=0, eos_token_id=1, bos_token_id=1, num_labels=1), tokenizer


def bert(tiny_model: Path, folder: Path, **options) -> Path:
    CrossEncoder(str(tiny_model), device="cpu", **options).save_pretrained(str(folder))
    return folder


def modern_bert(tiny_model: Path, folder: Path) -> Path:
    model = CrossEncoder(str(saved(*modern(tiny_model), folder / "plain")), device="cpu")
    model.save_pretrained(str(folder / "saved"))
    return folder / "saved"


def stack(tiny_model: Path, folder: Path) -> Path:
    encoder = Transformer(str(saved(*modern(tiny_model, ModernBertModel), folder / "plain")))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        pooling = Pooling(encoder.get_embedding_dimension(), "mean")
        head = Dense(32, 1, activation_function=torch.nn.Identity(), module_output_name="scores")
    CrossEncoder(modules=[encoder, pooling, head], device="cpu").save_pretrained(str(folder / "saved"))
    return folder / "saved"


def decoder(tiny_model: Path, folder: Path) -> Path:
    """As Qwen3-Reranker: a chat template with an instruction by default, and the logits of yes and no."""
    place = saved(*of_decoder(tiny_model, Qwen3ForCausalLM, chat_template=PAIR_TEMPLATE), folder / "plain")
    encoder = Transformer(str(place), transformer_task="text-generation")
    ids = encoder.tokenizer.convert_tokens_to_ids
    modules = [encoder, LogitScore(ids("yes"), ids("no"))]
    prompts = {"prompts": {"web": "will the passage", "code": "which function"}, "default_prompt_name": "web"}
    CrossEncoder(modules=modules, device="cpu", **prompts).save_pretrained(str(folder / "saved"))
    return folder / "saved"


def plain_decoder(tiny_model: Path, folder: Path) -> Path:
    """A language model that sentence-transformers has not saved."""
    return saved(*of_decoder(tiny_model, Qwen3ForCausalLM), folder)


def template(tiny_model: Path, folder: Path) -> Path:
    """A decoder as sequence classifier, whose pairs go through a chat template."""
    return saved(*of_decoder(tiny_model, Qwen3ForSequenceClassification, chat_template=PAIR_TEMPLATE), folder)


def prompted(tiny_model: Path, folder: Path) -> Path:
    return bert(tiny_model, folder, prompts={"web": "search index "}, default_prompt_name="web")


# Maker of a folder, and whether sentence-transformers must score it.
KINDS = {
    "BERT": (bert, False),
    "ModernBERT": (modern_bert, False),
    "stack of modules": (stack, True),
    "decoder": (decoder, True),
    "plain decoder": (plain_decoder, True),
    "chat template": (template, True),
    "prompt": (prompted, True),
}


def with_labels(folder: Path, labels: int) -> None:
    """Give the head of a stack that many scores."""
    head = Dense(32, labels, activation_function=torch.nn.Identity(), module_input_name="sentence_embedding")
    head.module_output_name = "scores"
    head.save(str(folder / "2_Dense"))


if __name__ == "__main__":
    from rerank_toy import collection, first_stage

    model, folder = sys.argv[1], Path(sys.argv[2])
    foreign.SHARD = 4
    ranker = load_ranker(model, max_length=40, batch_size=2, device="cpu")
    run = ranker.rerank(first_stage(), collection(), folder=folder / "work")
    if is_main_process():
        run.write_trec(folder / "run.trec")
