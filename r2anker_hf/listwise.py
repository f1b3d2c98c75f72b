"""The listwise trainer: one group a query, softmax cross-entropy over it, the same loss however a batch is split."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .attention import override_dropout, use_matmul_attention
from .collator import GroupedListwiseCollator, Text, window_places
from .gradient_cache import bytes_a_token, cached_backward
from .health import COLLAPSED, Health, training_flops
from .lora import has_adapters, merged
from .losses import kl_divergence, softmax_cross_entropy
from .models import StopDiverged
from .negatives.sampling import (
    SamplingOptions,
    draw_group,
    draw_positive,
    draw_scored,
    fused_scores,
    permutation,
)
from .padding_free import batches, forward, is_padding_free, moved, use_padding_free
from .precision import choose_precision
from .ranges import check_all
from .records import InputError
from .saving import save_files, save_ranker
from .trainers import keep_busy, use_one_gpu

# Tokens of like-long pairs that go through the model together. A CPU is busy with few, and more would only leave its
# cache; a GPU wants to be filled.
TOKENS_A_FORWARD = {"cpu": 4096}
TOKENS_A_FORWARD_ELSEWHERE = 65536
OBJECTIVES = ("labels", "retrievers", "ranker")


@dataclass
class ListwiseConfig(SamplingOptions, TrainingArguments):
    """Training arguments whose defaults are those of R2ANKER, appendix C."""

    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate (appendix C)."})
    per_device_train_batch_size: int = field(
        default=12, metadata={"help": "Queries (groups) a device and step; the paper has 12 on one device."}
    )
    num_train_epochs: float = field(default=2.0, metadata={"help": "Passes over the training queries (appendix C)."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Warm-up: a share of all steps below 1, else steps."})
    weight_decay: float = field(default=0.1, metadata={"help": "Weight decay (appendix C)."})
    seed: int = field(default=42, metadata={"help": "Seed of order, negatives and dropout (appendix C)."})
    num_negatives: int = field(default=40, metadata={"help": "Negatives a query and epoch (appendix C)."})
    freeze_embeddings: bool = field(
        default=False, metadata={"help": "Keep the word embeddings as they are: faster, and gentler on small data."}
    )
    objective: str = field(
        default="labels",
        metadata={
            "help": "labels (Eq. 5), or retrievers: a warm start that teaches a fresh ranker the retrievers' fused "
            "scores, without judgements, where labelled queries are few; or ranker: another ranker's scores."
        },
    )
    teacher: str = field(
        default="teacher", metadata={"help": "Objective ranker: which of the candidates' rankings (see teach.py)."}
    )
    leave_out_positives: bool = field(
        default=False,
        metadata={"help": "A warm start on pseudo-queries: without the passages that these were cut out of."},
    )
    temperature: float = field(default=0.5, metadata={"help": "Of the scores that a warm start learns."})
    label_weight: float = field(
        default=0.0,
        metadata={
            "help": "Objectives retrievers and ranker: the judgements' part of the loss, 0 to 1. Above 0 every group "
            "holds a positive."
        },
    )
    dropout: float | None = field(default=None, metadata={"help": "Overrides the model's own dropout."})
    mixed_precision: str = field(
        default="auto", metadata={"help": "auto (the fastest on this machine), no, bf16 or fp16."}
    )
    memory_budget: float | None = field(
        default=None,
        metadata={
            "help": "GiB a device for what the backward pass needs; a batch that needs more goes through a gradient "
            "cache, in chunks that fit: any group size, the same gradients, a third more work. Default: no limit."
        },
    )
    peak_tflops: float | None = field(
        default=None, metadata={"help": "Peak of one device, for the log's mfu; known for usual GPUs."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between two lines of the log."})
    ddp_broadcast_buffers: bool | None = field(
        default=False, metadata={"help": "Rankers have no buffers that training changes."}
    )

    def __post_init__(self):
        check_all(self)
        self.sampling()  # refuses what does not fit the policy, before anything is loaded
        if self.objective not in OBJECTIVES:
            raise InputError(f"no objective {self.objective!r}; choices: {', '.join(OBJECTIVES)}")
        chosen = choose_precision(self, self.mixed_precision)
        super().__post_init__()
        self.mixed_precision = chosen  # a launcher's configuration would otherwise win over `no`


class TrainingGroups(Dataset):
    """Candidates as training groups: item (epoch, index) is a feature of `GroupedListwiseCollator`.

    The epoch is a part of the index, so a loader's workers need no state to draw that epoch's negatives.

    Args:
        rows: candidates, each with `query_id`, `query`, `positive_ids` and `candidates` (see negatives.candidates).
        text: passage by document id, or its token ids.
        config: `num_negatives`, `seed` and all that `ListwiseConfig.sampling` reads.
        query: query by query id, or its token ids; default the row's text.
    """

    def __init__(
        self,
        rows: Any,
        text: Callable[[str], Text],
        config: ListwiseConfig,
        query: Callable[[str], Text] | None = None,
    ):
        self.rows, self.text, self.config, self.query = rows, text, config, query
        self.sampling = config.sampling()
        self.retrievers = [ranked["retriever"] for ranked in rows[0]["candidates"]] if len(rows) else []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, index = item
        row = self.rows[int(index)]
        doc_ids, labels = (self._judged if self.config.objective == "labels" else self._ranked)(row, epoch)
        relevant = set(row["positive_ids"]) if self.config.label_weight else ()
        return {
            "query": self.query(row["query_id"]) if self.query else row["query"],
            "documents": [self.text(doc_id) for doc_id in doc_ids],
            "labels": labels,
            "relevant": [float(doc_id in relevant) for doc_id in doc_ids],
            "sources": self._sources(row, doc_ids),
        }

    def order(self, seed: int, epoch: int) -> list[tuple[int, int]]:
        """The items of an epoch in the order in which it visits them, which depends on (seed, epoch) only."""
        return [(epoch, int(row)) for row in permutation(len(self), seed, epoch)]

    def _sources(self, row: Mapping[str, Any], doc_ids: Sequence[str]) -> list[int]:
        """Of each document, bit i set where retriever i listed it."""
        lists = {ranked["retriever"]: set(ranked["doc_ids"][: self.config.depth]) for ranked in row["candidates"]}
        listed = [lists.get(name, ()) for name in self.retrievers]
        return [sum((doc_id in found) << number for number, found in enumerate(listed)) for doc_id in doc_ids]

    def _judged(self, row: Mapping[str, Any], epoch: int) -> tuple[list[str], list[float]]:
        config = self.config
        positive, negatives = draw_group(row, config.num_negatives, config.seed, epoch, self.sampling)
        return [positive, *negatives], [1.0, *[0.0] * len(negatives)]

    def _ranked(self, row: Mapping[str, Any], epoch: int) -> tuple[list[str], list[float]]:
        config = self.config
        scores = self._fused(row) if config.objective == "retrievers" else self._teacher_scores(row)
        if config.leave_out_positives:
            scores = {doc_id: score for doc_id, score in scores.items() if doc_id not in row["positive_ids"]}
        positive = None
        if config.label_weight and row["positive_ids"]:
            positive = draw_positive(row["query_id"], row["positive_ids"], config.seed, epoch)
        return draw_scored(row["query_id"], scores, config.num_negatives + 1, config.seed, epoch, positive)

    def _fused(self, row: Mapping[str, Any]) -> dict[str, float]:
        depth = self.config.depth
        lists = {one["retriever"]: (one["doc_ids"][:depth], one["scores"][:depth]) for one in row["candidates"]}
        return fused_scores(lists)

    def _teacher_scores(self, row: Mapping[str, Any]) -> dict[str, float]:
        rankings = {one["ranker"]: one for one in row.get("rankings") or ()}
        if self.config.teacher not in rankings:
            choices = ", ".join(rankings) or "none"
            raise InputError(f"the candidates hold no scores of a teacher {self.config.teacher!r}; choices: {choices}")
        ranking = rankings[self.config.teacher]
        return dict(zip(ranking["doc_ids"], ranking["scores"], strict=True))


class EpochSampler(Sampler[tuple[int, int]]):
    """Every query once an epoch, in an order that depends on (seed, epoch) alone.

    The last batch is filled up from the head of the same order, so that every optimiser step of every epoch sees
    exactly `whole_batch` queries. That makes batch size, accumulation steps and processes exchangeable.

    Args:
        size: training queries.
        whole_batch: queries an optimiser step, over all processes and accumulation steps.
        seed: of the training.
        order: (seed, epoch) -> the items of an epoch; default a permutation of all (epoch, query).

    >>> len(EpochSampler(size=10, whole_batch=4, seed=42))
    12
    """

    def __init__(
        self,
        size: int,
        whole_batch: int,
        seed: int,
        order: Callable[[int, int], Sequence[tuple[int, int]]] | None = None,
    ):
        self.size, self.whole_batch, self.seed, self.epoch = size, whole_batch, seed, 0
        self.order = order or self._permuted

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch, also when it resumes."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.size // self.whole_batch) * self.whole_batch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = self.order(self.seed, self.epoch)
        for position in range(len(self)):
            yield order[position % self.size]

    def _permuted(self, seed: int, epoch: int) -> list[tuple[int, int]]:
        return [(epoch, int(row)) for row in permutation(self.size, seed, epoch)]


class ListwiseTrainer(Trainer):
    """Trains a cross-encoder listwise on `TrainingGroups` (R2ANKER, Eq. 5).

    Args:
        model: one-label sequence classifier; its logits are the scores.
        args: the configuration.
        train_dataset: training groups.
        data_collator: makes batches with `labels` and `mask` beside the model's inputs.
        measure: called with the model at each evaluation; its values (such as dev MRR@10) choose the checkpoint.
            The loss on dev groups is no substitute: it depends on the negatives drawn and on the batches.
        kwargs: anything else that `Trainer` takes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: ListwiseConfig,
        train_dataset: TrainingGroups,
        data_collator: GroupedListwiseCollator,
        measure: Callable[[PreTrainedModel], Mapping[str, float]] | None = None,
        **kwargs: Any,
    ):
        use_one_gpu(args)
        keep_busy(args)
        args.remove_unused_columns = False
        args.label_names = ["labels"]
        self.measure = measure
        if args.freeze_embeddings:
            model.get_input_embeddings().requires_grad_(False)
        override_dropout(model, args.dropout)
        if not use_padding_free(model) and args.bf16 and args.device.type == "cpu":
            use_matmul_attention(model)
        self.health = Health(train_dataset.retrievers, args.device, args.peak_tflops)
        self.chunk_tokens = 0  # of the gradient cache; found at the first step
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=[] if measure else None,  # Trainer insists on one; `measure` brings its own queries
            data_collator=data_collator,
            **kwargs,
        )
        self.add_callback(StopDiverged())
        # `compute_loss` returns a mean over the batch, which the trainer is to divide by the accumulation steps; every
        # transformers 5 asks this attribute, `loss_is_scaled_for_ga` only those since 5.19
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        args = self.args
        whole_batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return EpochSampler(len(self.train_dataset), whole_batch, args.seed, self.train_dataset.order)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean over the batch's queries of each group's softmax cross-entropy, or divergence from fused scores.

        A document's score is that of its best window, through which its gradient flows.
        """
        groups = _Groups(model, inputs, self._forward_tokens)
        scores = groups.scattered(torch.cat([chunk() for chunk in groups.chunks]))
        self._observe(model, groups, scores)
        loss = self._loss(scores, groups)
        return (loss, {"scores": scores}) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        """As the Trainer's; with a memory budget, through a gradient cache where the batch exceeds it."""
        if self.args.memory_budget is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        if not self.chunk_tokens:
            self.chunk_tokens = self._tokens_within_budget(model)
        groups = _Groups(model, self._prepare_inputs(inputs), self.chunk_tokens)
        if len(groups.chunks) == 1:
            return super().training_step(model, inputs, num_items_in_batch)
        steps = self.current_gradient_accumulation_steps
        loss, logits = cached_backward(
            groups.chunks,
            lambda logits: self._loss(groups.scattered(logits), groups) / steps,
            self.accelerator.backward,
            lambda: self.accelerator.no_sync(model),
        )
        self._observe(model, groups, groups.scattered(logits))
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add health figures to each line about training (see `Health.figures`), and warn of a collapse."""
        if "loss" in logs:
            figures = self.health.figures(self.accelerator.reduce, self.args.world_size)
            self.health.reset()
            spread, step = figures.get("score_spread", 1.0), self.state.global_step
            if spread < COLLAPSED and step > self.args.get_warmup_steps(self.state.max_steps):
                warnings.warn(
                    f"step {step}: scores have collapsed, the documents of a group differ by {spread:.1e} in logit; "
                    "lower learning_rate, or raise warmup_steps",
                    stacklevel=2,
                )
            logs = {**logs, **figures}
        super().log(logs, start_time)

    @property
    def _forward_tokens(self) -> int:
        return self.chunk_tokens or TOKENS_A_FORWARD.get(self.args.device.type, TOKENS_A_FORWARD_ELSEWHERE)

    def _loss(self, scores: torch.Tensor, groups: _Groups) -> torch.Tensor:
        if self.args.objective == "labels":
            return softmax_cross_entropy(scores, groups.labels, groups.mask).mean()
        weight = self.args.label_weight
        loss = kl_divergence(scores, groups.labels, groups.mask, self.args.temperature).mean()
        if not weight:
            return loss
        return (1 - weight) * loss + weight * softmax_cross_entropy(scores, groups.relevant, groups.mask).mean()

    def _observe(self, model: torch.nn.Module, groups: _Groups, scores: torch.Tensor) -> None:
        longest = [int(groups.lengths[part].max()) * len(part) for part in groups.parts]
        tokens = int(groups.lengths.sum())
        computed = tokens if is_padding_free(model) else sum(longest)
        flops = training_flops(model, torch.from_numpy(groups.lengths)) if self.health.peak_tflops else 0.0
        given = groups.labels, groups.mask, groups.sources
        self.health.observe(scores.detach(), *given, tokens=tokens, computed=computed, flops=flops)

    def _tokens_within_budget(self, model: torch.nn.Module) -> int:
        """The chunk whose graph fills the memory budget, measured on pairs of full length that say nothing."""
        length = self.data_collator.encoder.max_length

        def run(pairs: int) -> torch.Tensor:
            ids = torch.ones(pairs, length, dtype=torch.long, device=self.args.device)
            return forward(model, {"input_ids": ids}, np.full(pairs, length))

        with self.accelerator.no_sync(model):
            held = bytes_a_token(run, length, list(model.parameters()))
        return max(length, int(self.args.memory_budget * 2**30 / held))

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Dev measures of the model as it stands, under their names after `eval_`."""
        if self.measure is None:
            return {}
        model = self.accelerator.unwrap_model(self.model)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.measure(model).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Checkpoints, `save_model` and `push_to_hub` write the files of `CrossEncoderRanker.save_pretrained`.

        Adapters are merged, in a copy. Their checkpoints hold them as they are, or no training could go on from one.
        """
        folder = Path(output_dir or self.args.output_dir)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if has_adapters(model) and (folder.name.startswith(PREFIX_CHECKPOINT_DIR) or state_dict is not None):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            whole = merged(copy.deepcopy(model)) if has_adapters(model) else model
            save_ranker(whole, self.data_collator.encoder, folder, state_dict)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Beside the weights and config.json, which the Trainer copies, the Hub gets the files of `_save`."""
        if self.args.should_save:
            save_files(self.data_collator.encoder, self.args.output_dir)
        tokenizer, self.processing_class = self.processing_class, None  # the Trainer would write its own form of it
        try:
            super()._push_from_checkpoint(checkpoint_folder)
        finally:
            self.processing_class = tokenizer


class _Groups:
    """A batch of groups as chunks of pairs of like length; each window of a document is a pair.

    Args:
        model: a sequence classifier with one label.
        inputs: what `GroupedListwiseCollator` returns. What goes where is worked out on the host, from `lengths`.
        tokens: of a chunk, padding included.
    """

    def __init__(self, model: Callable[..., Any], inputs: Mapping[str, torch.Tensor | np.ndarray], tokens: int):
        rest = dict(inputs)
        self.labels, self.mask, self.sources = rest.pop("labels", None), rest.pop("mask"), rest.pop("sources", None)
        self.relevant = rest.pop("relevant", None)
        lengths = rest.pop("lengths").ravel()
        counts = rest.pop("windows", lengths > 0).ravel()  # of the documents, in [queries * list_size]
        places = np.flatnonzero(lengths)  # of the pairs, in [queries * windows of a query]
        self.lengths = lengths[places]
        self.parts = batches(self.lengths, tokens)
        order = np.concatenate(self.parts)
        self.rows = moved(places[order], self.mask.device)
        self.slots, self.windows = self.rows, int(counts.max())
        if self.windows > 1:
            owners, numbers = window_places(counts)
            self.slots = moved((owners * self.windows + numbers)[order], self.mask.device)
        flat = {name: values.flatten(0, 1) for name, values in rest.items()}
        rows = self.rows.split([len(part) for part in self.parts])
        sizes = [self.lengths[part] for part in self.parts]
        self.chunks = [partial(_score, model, flat, *chunk) for chunk in zip(rows, sizes, strict=True)]

    def scattered(self, logits: torch.Tensor) -> torch.Tensor:
        """The [pairs] logits of all chunks as [queries, list_size], 0 where there is no document.

        A document has the highest logit of its windows. Windows that tie for it share the gradient, so that their
        order changes nothing.
        """
        if self.windows == 1:
            return logits.new_zeros(self.mask.numel()).index_copy(0, self.slots, logits).view(self.mask.shape)
        scores = logits.new_full((self.mask.numel() * self.windows,), -torch.inf).index_copy(0, self.slots, logits)
        return scores.view(*self.mask.shape, self.windows).amax(dim=-1).masked_fill(self.mask == 0, 0.0)


def _score(model, flat: Mapping[str, torch.Tensor], rows: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
    return forward(model, {name: values.index_select(0, rows) for name, values in flat.items()}, lengths)


def score_groups(
    model: Callable[..., Any], inputs: Mapping[str, torch.Tensor | np.ndarray], tokens: int | None = None
) -> torch.Tensor:
    """Score the real documents of each group, pairs of like length together so that little is padded, or nothing.

    Args:
        model: a sequence classifier with one label.
        inputs: what `GroupedListwiseCollator` returns.
        tokens: tokens that go through the model at once; default by device.

    Returns:
        [queries, list_size] logits, 0 where there is no document.
    """
    tokens = tokens or TOKENS_A_FORWARD.get(inputs["mask"].device.type, TOKENS_A_FORWARD_ELSEWHERE)
    groups = _Groups(model, inputs, tokens)
    return groups.scattered(torch.cat([chunk() for chunk in groups.chunks]))
