r"""Bottleneck pre-training: an encoder learns to put a passage into one vector, on passages alone.

ED-MLM (Wang et al. 2022, SimLM; R2ANKER, section C): the encoder restores its masked tokens as BERT does. A shallow
decoder sees the same passage with more tokens masked and restores those; of what the encoder read it gets one vector,
which stands in the place of its first token. What the decoder cannot guess from its own tokens has to come through.

.. math:: L = \frac{1}{|M_e|} \sum_{i \in M_e} -\log p_e(x_i \mid x_{\setminus M_e})
              + \frac{1}{|M_d|} \sum_{i \in M_d} -\log p_d(x_i \mid x_{\setminus M_d}, b(x_{\setminus M_e}))
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from ..models.attention import override_dropout
from ..models.loading import StopDiverged, check_finite, check_source, load, loading
from ..models.padding_free import LAYERS, moved, packed, use_packed_attention
from ..models.precision import choose_precision
from ..models.tokens import Tokens
from ..models.trainers import EpochSampler, keep_busy, use_one_gpu
from ..records import InputError
from .options import PretrainingOptions
from .whole_words import Words

KINDS = ("bert", "ernie", "roberta", "xlm-roberta")  # their layers take packed texts, and their head is one module


@dataclass
class PretrainingConfig(PretrainingOptions, TrainingArguments):
    """Training arguments whose defaults are R2ANKER's, section C, and SimLM's where that one refers to it."""

    def __post_init__(self):
        PretrainingOptions.__post_init__(self)
        chosen = choose_precision(self, self.mixed_precision)
        TrainingArguments.__post_init__(self)
        self.mixed_precision = chosen  # a launcher's configuration would otherwise win over `no`


def masked_places(
    words: np.ndarray, seed: int, epoch: int, position: int, encoder_share: float, decoder_share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens of a passage the encoder and the decoder miss; the larger mask holds the smaller one.

    Words are taken in random order, each with all its tokens, and one that is longer than what is left of the share is
    passed over (SimLM, whose decoder draws its further words independently). The draw depends on (seed, epoch,
    position) alone: not on workers, processes or batches.

    Args:
        words: [tokens] the word of each token, from 0, never falling; without special tokens, at least one.
        seed: of the training.
        epoch: other words are masked in every epoch.
        position: the passage's, in the corpus.
        encoder_share: of the tokens, rounded; one token at least. Where no word is as short, one word all the same.
        decoder_share: likewise.

    Returns:
        Two arrays, [tokens] bool.

    >>> words = np.array([0, 1, 1, 1, 2, 3, 3, 4, 5, 6])
    >>> encoder, decoder = masked_places(words, seed=42, epoch=0, position=7, encoder_share=0.3, decoder_share=0.5)
    >>> int(encoder.sum()), int(decoder.sum()), bool((encoder <= decoder).all())
    (3, 5, True)
    """
    sizes = np.bincount(words)
    order = np.random.default_rng((seed, epoch, position)).permutation(len(sizes)).argsort()
    small, large = (max(1, round(share * len(words))) for share in sorted((encoder_share, decoder_share)))
    masked = np.zeros((2, len(sizes)), dtype=bool)
    masked[:, _that_fit(order, sizes, small) or order[:1]] = True
    rest = order[~masked[0, order]]
    masked[1, _that_fit(rest, sizes, large - int(sizes[masked[0]].sum()))] = True
    smaller, larger = masked[:, words]
    return (smaller, larger) if encoder_share <= decoder_share else (larger, smaller)


def _that_fit(order: np.ndarray, sizes: np.ndarray, room: int) -> list[int]:
    """Words in that order whose sizes sum to no more than `room`."""
    taken = []
    for word, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        if room <= 0:
            break
        if size <= room:
            taken.append(word)
            room -= size
    return taken


class Passages(Dataset):
    """Passages to restore: item (epoch, index) is a feature of `PassageCollator`; empty ones are left out.

    Args:
        tokens: of all passages, in the order of the corpus.
        config: `seed`, both mask shares and `whole_words` are read.
        tokenizer: the one that made the tokens; it knows where words begin.
    """

    def __init__(self, tokens: Tokens, config: PretrainingConfig, tokenizer: PreTrainedTokenizerBase):
        self.tokens, self.config = tokens, config
        self.words = Words(tokenizer) if config.whole_words else lambda tokens: np.arange(len(tokens))
        self.positions = np.flatnonzero(np.diff(tokens.ends, prepend=0))

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, np.ndarray]:
        epoch, index = item
        position = int(self.positions[index])
        tokens, config = self.tokens.at(position), self.config
        encoder, decoder = masked_places(
            self.words(tokens),
            config.seed,
            epoch,
            position,
            encoder_share=config.encoder_mask,
            decoder_share=config.decoder_mask,
        )
        return {"tokens": tokens, "encoder_masked": encoder, "decoder_masked": decoder}


@dataclass
class PassageCollator:
    """Collates passages into one batch, the longest first, so that equal lengths are neighbours.

    | key | shape | dtype |
    |---|---|---|
    | `input_ids` | [passages, tokens], special tokens included, nothing masked, padded on the right | int64 |
    | `lengths` | [passages] tokens of each | int64, a NumPy array |
    | `text` | [passages, tokens], neither special nor padding | bool, a NumPy array |
    | `encoder_masked`, `decoder_masked` | [passages, tokens] | bool, NumPy arrays |

    What is no tensor stays on the host when a trainer moves the batch to its device: what goes where is worked out
    there.

    Args:
        tokenizer: puts special tokens around a passage.
    """

    tokenizer: PreTrainedTokenizerBase

    def __post_init__(self):
        self.before, self.after = _around(self.tokenizer)

    def __call__(self, features: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor | np.ndarray]:
        features = sorted(features, key=lambda feature: -len(feature["tokens"]))
        head, special = len(self.before), len(self.before) + len(self.after)
        lengths = np.array([len(feature["tokens"]) + special for feature in features])
        shape = len(features), int(lengths[0])
        ids = np.full(shape, self.tokenizer.pad_token_id, dtype=np.int64)
        masks = {name: np.zeros(shape, dtype=bool) for name in ("text", "encoder_masked", "decoder_masked")}
        for row, (feature, length) in enumerate(zip(features, lengths, strict=True)):
            inner = slice(head, length - len(self.after))
            ids[row, :head], ids[row, inner.stop : length] = self.before, self.after
            ids[row, inner] = feature["tokens"]
            masks["text"][row, inner] = True
            for name in ("encoder_masked", "decoder_masked"):
                masks[name][row, inner] = feature[name]
        return {"input_ids": torch.from_numpy(ids), "lengths": lengths, **masks}


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that stand before and after a text."""
    probe = tokenizer(["a"])
    kinds = probe.sequence_ids(0)
    first, last = kinds.index(0), len(kinds) - 1 - kinds[::-1].index(0)
    ids = probe["input_ids"][0]
    return ids[:first], ids[last + 1 :]


class BottleneckModel(PreTrainedModel):
    """An encoder with a masked-language-model head, and a decoder that gets one vector of it.

    The decoder has layers of its own; word embeddings and head are the encoder's. Passages lie end to end.

    Args:
        encoder: an `AutoModelForMaskedLM` of one of `KINDS`.
        mask_token_id: what masked tokens become, always (SimLM).
        bottleneck: one of `BOTTLENECKS`.
        decoder_layers: copies of the encoder's last layers.

    Raises:
        InputError: another architecture, or more decoder layers than the encoder has.
    """

    _supports_sdpa = supports_gradient_checkpointing = True  # as its parts do

    def __init__(self, encoder: PreTrainedModel, mask_token_id: int, bottleneck: str = "cls", decoder_layers: int = 2):
        super().__init__(copy.deepcopy(encoder.config))
        kind = encoder.config.model_type
        if kind not in KINDS:
            raise InputError(f"{encoder.name_or_path}: its model_type is {kind!r}; choices: {', '.join(KINDS)}")
        layers: Any = encoder.get_submodule(LAYERS[kind])
        if decoder_layers > len(layers):
            raise InputError(f"decoder_layers is {decoder_layers}, but the encoder has {len(layers)}")
        use_packed_attention(encoder)
        self.encoder, self.mask_token_id, self.bottleneck = encoder, mask_token_id, bottleneck
        copied = [] if bottleneck == "none" else layers[-decoder_layers:]
        self.decoder = torch.nn.ModuleList(copy.deepcopy(layer) for layer in copied)
        tied = encoder.all_tied_weights_keys.items()
        self.all_tied_weights_keys = {f"encoder.{name}": f"encoder.{source}" for name, source in tied}

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden size] to [rows, vocabulary] logits."""
        (head,) = (part for part in self.encoder.children() if part is not self.encoder.base_model)
        return head(hidden).float()

    def forward(
        self,
        input_ids: torch.Tensor,
        lengths: np.ndarray,
        text: np.ndarray,
        encoder_masked: np.ndarray,
        decoder_masked: np.ndarray,
    ) -> dict[str, torch.Tensor]:
        """Sums, in nats, of the cross-entropies of the masked tokens. Arguments as in `PassageCollator`.

        Returns:
            `encoder_loss` and `decoder_loss`, scalars; the latter is 0 without a bottleneck.
        """
        real = np.arange(input_ids.shape[1]) < lengths[:, None]
        hidden = self.encode(self._seen(input_ids, encoder_masked), lengths)
        losses = {"encoder_loss": self._loss(hidden, input_ids, encoder_masked, real)}
        if self.bottleneck == "none":
            return {**losses, "decoder_loss": torch.zeros_like(losses["encoder_loss"])}
        vectors = self.vectors(hidden, lengths, text[real])
        decoded = self.decode(vectors, self._seen(input_ids, decoder_masked), lengths)
        return {**losses, "decoder_loss": self._loss(decoded, input_ids, decoder_masked, real)}

    def encode(self, input_ids: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
        """[tokens of all passages, hidden size] what the encoder makes of [passages, tokens] ids."""
        return self.encoder.base_model(**packed({"input_ids": input_ids}, lengths, self.config)).last_hidden_state[0]

    def vectors(self, hidden: torch.Tensor, lengths: np.ndarray, text: np.ndarray) -> torch.Tensor:
        r"""[passages, hidden size] the bottleneck.

        `cls`: each first token's vector. `lexicon` (Shen et al. 2022, LexMAE), with the logits s of the encoder's head
        and the word embeddings E, through which no gradient flows:

        .. math:: b = \mathrm{softmax}\Big(\max_{i \in \text{text}} s_i\Big)\, E

        Args:
            hidden: [tokens of all passages, hidden size].
            lengths: [passages].
            text: [tokens of all passages], False for a special token.
        """
        if self.bottleneck == "cls":
            return hidden.index_select(0, moved(lengths.cumsum() - lengths, hidden.device))
        logits = self.head(hidden).masked_fill(moved(~text[:, None], hidden.device), -torch.inf)
        highest = torch.stack([passage.amax(dim=0) for passage in logits.split(lengths.tolist())])
        words: Any = self.encoder.get_input_embeddings()
        return highest.softmax(dim=-1) @ words.weight.detach()

    def decode(self, vectors: torch.Tensor, input_ids: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
        """[tokens of all passages, hidden size] from the decoder's ids, its first tokens replaced by the vectors."""
        inputs = packed({"input_ids": input_ids}, lengths, self.config)
        places = {name: inputs.pop(name) for name in ("input_ids", "position_ids")}
        encoder: Any = self.encoder.base_model
        hidden = encoder.embeddings(**places)
        first = moved(lengths.cumsum() - lengths, hidden.device)
        hidden = hidden.index_copy(1, first, vectors[None].to(hidden.dtype))
        for layer in self.decoder:
            hidden = layer(hidden, **inputs)
        return hidden[0]

    def _seen(self, input_ids: torch.Tensor, masked: np.ndarray) -> torch.Tensor:
        return input_ids.masked_fill(moved(masked, input_ids.device), self.mask_token_id)

    def _loss(
        self, hidden: torch.Tensor, input_ids: torch.Tensor, masked: np.ndarray, real: np.ndarray
    ) -> torch.Tensor:
        rows, cells = (moved(np.flatnonzero(values), hidden.device) for values in (masked[real], masked))
        logits = self.head(hidden.index_select(0, rows))  # nothing but the masked rows meets the vocabulary
        return torch.nn.functional.cross_entropy(logits, input_ids.flatten().index_select(0, cells), reduction="sum")


class PretrainingTrainer(Trainer):
    """Trains a `BottleneckModel` on `Passages`.

    Each of the two losses is the mean over the masked tokens of a whole optimiser step, so that batch size,
    accumulation steps and processes may be exchanged.

    Args:
        model: see there.
        args: the configuration.
        train_dataset: passages.
        data_collator: makes the batches.
        kwargs: anything else that `Trainer` takes.
    """

    train_dataset: Passages

    def __init__(
        self,
        model: BottleneckModel,
        args: PretrainingConfig,
        train_dataset: Passages,
        data_collator: PassageCollator,
        **kwargs: Any,
    ):
        use_one_gpu(args)
        keep_busy(args)
        args.remove_unused_columns = False
        override_dropout(model, args.dropout)
        super().__init__(model=model, args=args, train_dataset=train_dataset, data_collator=data_collator, **kwargs)
        self.add_callback(StopDiverged())
        # `compute_loss` scales by the masked tokens of all accumulation steps, so the trainer leaves it as it is
        self.model_accepts_loss_kwargs = True
        self._begin_line()

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        args = self.args
        whole_batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return EpochSampler(len(self.train_dataset), whole_batch, args.seed)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        """[2] tokens masked for the encoder and for the decoder, over accumulation steps and processes."""
        masked: Any = sum(_masked(batch) for batch in batch_samples)
        return self.accelerator.reduce(moved(masked, device))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """This batch's share of both means; their sum over batches and mean over processes is the loss."""
        if num_items_in_batch is None:
            num_items_in_batch = self._get_num_items_in_batch([inputs], self.args.device)
        losses = model(**inputs)
        both = torch.stack([losses["encoder_loss"], losses["decoder_loss"]])
        self.counts += [*_masked(inputs), inputs["lengths"].sum()]
        self.sums += both.detach().double()
        # gradients are averaged over processes
        loss = (both / num_items_in_batch).sum() * self.accelerator.num_processes
        return (loss, losses) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to each line about training both losses, nats a masked token, and the tokens a second."""
        if "loss" in logs:
            counts = moved(self.counts, self.sums.device)
            sums = self.accelerator.reduce(torch.cat([self.sums, counts])).tolist()
            seconds = time.perf_counter() - self.started
            figures = {"encoder_loss": sums[0] / max(1, sums[2]), "decoder_loss": sums[1] / max(1, sums[3])}
            logs = {**logs, **figures, "tokens_per_second": round(sums[4] / seconds, 1)}
            self._begin_line()
        super().log(logs, start_time)

    def _begin_line(self) -> None:
        # losses of encoder and decoder, on the device; their masked tokens and all tokens, on the host
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        self.counts = np.zeros(3)
        self.started = time.perf_counter()


def _masked(batch: Mapping[str, Any]) -> np.ndarray:
    """[2] tokens masked for the encoder and for the decoder."""
    return np.array([batch["encoder_masked"].sum(), batch["decoder_masked"].sum()])


def load_encoder(
    model: str | os.PathLike, revision: str | None = None, fresh: Mapping[str, int] | None = None, seed: int = 42
) -> PreTrainedModel:
    """A masked language model in float32: a model's weights, or fresh ones of other sizes.

    Args:
        model: folder or Hub id; an encoder without such a head gets a fresh one, tied to its word embeddings.
        revision: commit of a Hub model.
        fresh: values of the model's configuration, such as num_hidden_layers; if any are given, no weight is loaded.
        seed: of fresh weights.

    Raises:
        InputError: no model there, or a broken one (see `models`), no whole number of that name in its configuration,
            or sizes that do not fit together.
    """
    set_seed(seed)
    if not fresh:
        return load(AutoModelForMaskedLM, model, revision, kind="masked language model", fresh_head=True)
    check_source(model, revision, weights=False)
    with loading(model, "masked language model"):
        config = AutoConfig.from_pretrained(model, revision=revision)
    sizes = {name: value for name, value in config.to_dict().items() if type(value) is int}
    for name, value in fresh.items():
        if name not in sizes:
            raise InputError(f"fresh: {model} has no size {name!r}; choices: {', '.join(sorted(sizes))}")
        setattr(config, name, value)
    try:
        return AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
    except (ValueError, ZeroDivisionError, RuntimeError) as error:  # such as heads that do not divide the hidden size
        raise InputError(f"fresh: {str(error).strip().splitlines()[0]}") from error


def save_encoder(
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | os.PathLike,
    max_length: int,
    pooling: str = "cls",
) -> None:
    """Write an encoder that transformers' AutoModel classes and sentence-transformers load.

    The masked-language-model head is kept: SPLADE starts from it, others leave it out.

    Args:
        encoder: the pre-trained one, without its decoder.
        tokenizer: its tokenizer.
        folder: where to.
        max_length: tokens of a text, as sentence-transformers cuts it.
        pooling: how sentence-transformers makes one vector: `cls`, the one that a decoder was given, or `mean`.

    Raises:
        InputError: a weight is NaN or infinite; nothing is written.
    """
    folder = Path(folder)
    check_finite(encoder, f"{folder}: not saved")
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    _write_json(
        folder / "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
            for number, (path, name) in enumerate(modules)
        ],
    )
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    (folder / "1_Pooling").mkdir(exist_ok=True)
    size = encoder.config.hidden_size
    chosen = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": size, **chosen})


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
