"""The listwise trainer: one group a query, softmax cross-entropy over it, the same loss however a batch is split."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, PredictionOutput, has_length

from ..draws import evenly_spaced, permutation
from ..evaluation.measures import measure_rankings, parse_measures
from ..models.attention import override_dropout, use_matmul_attention
from ..models.checkpoints import output_dir as training_folder
from ..models.loading import StopDiverged, check_length, check_vocabulary, load_tokenizer
from ..models.padding_free import batches, forward, is_padding_free, moved, use_padding_free
from ..models.precision import choose_precision
from ..models.trainers import EpochSampler, keep_busy, use_one_gpu
from ..negatives.candidates import Candidates
from ..negatives.sampling import (
    draw_group,
    draw_positive,
    draw_scored,
    fused_scores,
    suspects_of,
)
from ..processes import is_main_process
from ..records import InputError
from .collator import GroupedListwiseCollator, Text, window_places
from .gradient_cache import bytes_a_token, cached_backward
from .groups import as_groups
from .health import COLLAPSED, Health, training_flops
from .lora import has_adapters, merged
from .losses import kl_divergence, softmax_cross_entropy
from .options import ListwiseOptions
from .ranker import CrossEncoderRanker
from .saving import save_files, save_ranker

# Tokens of like-long pairs that go through the model together. A CPU is busy with few, and more would only leave its
# cache; a GPU wants to be filled.
TOKENS_A_FORWARD = {"cpu": 4096}
TOKENS_A_FORWARD_ELSEWHERE = 65536
GROUP_MEASURES = ("MRR@10", "nDCG@10")  # of the groups that `ListwiseTrainer.evaluate` scores


@dataclass
class ListwiseConfig(ListwiseOptions, TrainingArguments):
    """Training arguments whose defaults are those of R2ANKER, appendix C."""

    def __post_init__(self):
        ListwiseOptions.__post_init__(self)
        chosen = choose_precision(self, self.mixed_precision)
        TrainingArguments.__post_init__(self)
        self.mixed_precision = chosen  # a launcher's configuration would otherwise win over `no`


class TrainingGroups(Dataset):
    """Candidates as training groups: item (epoch, index) is a feature of `GroupedListwiseCollator`.

    The epoch is a part of the index, so a loader's workers need no state to draw that epoch's negatives.

    Args:
        rows: candidates, each with `query_id`, `query`, `positive_ids` and `candidates` (see negatives.candidates);
            `suspects` too where they are to be left out (see negatives.suspects).
        text: passage by document id, or its token ids.
        config: `num_negatives`, `seed`, `objective` and all options of `Sampling`.
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
        self.retrievers = [ranked["retriever"] for ranked in rows[0]["candidates"]] if len(rows) else []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, index = item
        row = self.rows[int(index)]
        doc_ids, labels = self._drawn(row, epoch)
        relevant = set(row["positive_ids"]) if self.config.label_weight else ()
        return {
            "query": self.query(row["query_id"]) if self.query else row["query"],
            "documents": [self.text(doc_id) for doc_id in doc_ids],
            "labels": labels,
            "relevant": [float(doc_id in relevant) for doc_id in doc_ids],
            "sources": self._sources(row, doc_ids),
        }

    def check(self, queries: int = 1000) -> None:
        """Refuse a training that has nothing to tell apart, by some queries of its first epoch.

        Raises:
            InputError: every group has fewer than two documents, or one that a teacher orders has none.
        """
        rows = [self.rows[place] for place in evenly_spaced(len(self), queries)]
        sizes = [len(self._drawn(row, 0)[0]) for row in rows]
        if rows and max(sizes) < 2:
            raise InputError("no query has a negative: look at retrievers, depth, scores, margins and within")
        if 0 in sizes:
            query_id = rows[sizes.index(0)]["query_id"]
            raise InputError(
                f"query {query_id!r} has no scored document; take a ranking that has all training queries"
            )
        short = sum(size < 2 for size in sizes)
        if short and is_main_process():
            print(f"{short} of {len(rows)} training queries that were looked at have no negative, and teach nothing")

    def _drawn(self, row: Mapping[str, Any], epoch: int) -> tuple[list[str], list[float]]:
        return (self._judged if self.config.objective == "labels" else self._ranked)(row, epoch)

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
        positive, negatives = draw_group(row, config.num_negatives, config.seed, epoch, config)
        return [positive, *negatives], [1.0, *[0.0] * len(negatives)]

    def _ranked(self, row: Mapping[str, Any], epoch: int) -> tuple[list[str], list[float]]:
        config = self.config
        scores = self._fused(row) if config.objective == "retrievers" else self._teacher_scores(row)
        without = set(row["positive_ids"]) if config.leave_out_positives else set()
        if config.leave_out_suspects:
            without |= suspects_of(row)
        if without:
            scores = {doc_id: score for doc_id, score in scores.items() if doc_id not in without}
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
        if self.config.teacher_ranking not in rankings:
            choices = ", ".join(rankings) or "none"
            wanted = self.config.teacher_ranking
            raise InputError(f"the candidates hold no scores of a teacher {wanted!r}; choices: {choices}")
        ranking = rankings[self.config.teacher_ranking]
        return dict(zip(ranking["doc_ids"], ranking["scores"], strict=True))


class ListwiseTrainer(Trainer):
    """Trains a cross-encoder listwise on groups: a query, its positive and negatives (R2ANKER, Eq. 5).

    Args:
        model: a folder or Hub id, whose tokenizer is taken too and whose head may be fresh; or a `CrossEncoderRanker`,
            with its tokenizer and lengths; or a sequence classifier with one label. Its logits are the scores.
        args: the configuration.
        train_dataset: `datasets.Dataset` or `IterableDataset` with the columns of one of `groups.FORMS`; or candidates
            as `load_candidates` reads them; or `TrainingGroups` or a `Mixture` of them. Of negatives in a list or in
            columns, each epoch draws `num_negatives`; documents with labels are taken whole. A label above 0 marks a
            positive; with objective `ranker` the labels are a teacher's scores.
        data_collator: makes batches with `labels` and `mask` beside the model's inputs; default by the tokenizer and
            `max_length`.
        measure: called with the model at each evaluation; its values (such as dev MRR@10) choose the checkpoint.
            The loss on dev groups is no substitute: it depends on the negatives drawn and on the batches.
        eval_dataset: without a `measure`, what `evaluate` scores: as train_dataset, or several of them by name.
        processing_class: the tokenizer; default the model's.
        kwargs: anything else that `Trainer` takes.

    Raises:
        InputError: other columns, a stream without max_steps, a model that cannot be loaded, both a measure and an
            eval_dataset.
    """

    args: ListwiseConfig
    data_collator: GroupedListwiseCollator
    train_dataset: Any

    def __init__(
        self,
        model: str | os.PathLike | PreTrainedModel | CrossEncoderRanker,
        args: ListwiseConfig | None = None,
        train_dataset: Any = None,
        data_collator: GroupedListwiseCollator | None = None,
        measure: Callable[[PreTrainedModel], Mapping[str, float]] | None = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ):
        args = args or ListwiseConfig()
        if measure and eval_dataset is not None:
            raise InputError("measure and eval_dataset are both given, but one of them chooses the checkpoint")
        groups = _training_groups(train_dataset, args)
        if data_collator is None or not isinstance(model, torch.nn.Module):
            ranker = _ranker(model, args, processing_class)
            model, processing_class = ranker.model, ranker.tokenizer
            data_collator = data_collator or GroupedListwiseCollator(ranker.encoder)
        use_one_gpu(args)
        keep_busy(args)
        accelerator: Any = args.accelerator_config
        accelerator.dispatch_batches = False  # of a stream too, every process reads its own batches
        args.remove_unused_columns = False
        args.label_names = ["labels"]
        self.measure = measure
        if args.freeze_embeddings:
            model.get_input_embeddings().requires_grad_(False)
        override_dropout(model, args.dropout)
        if not use_padding_free(model) and args.bf16 and args.device.type == "cpu":
            use_matmul_attention(model)
        self.health = Health(getattr(groups, "retrievers", ()), args.device, args.peak_tflops)
        self.chunk_tokens = 0  # of the gradient cache; found at the first step
        super().__init__(
            model=model,
            args=args,
            train_dataset=groups,
            # Trainer insists on one; `measure` brings its own queries
            eval_dataset=[] if measure else _scored_groups(eval_dataset, args),
            data_collator=data_collator,
            processing_class=processing_class,
            **{"compute_metrics": partial(group_measures, objective=args.objective), **kwargs},
        )
        self.label_names = ["labels", "mask"]  # what an evaluation gathers of a batch
        self.add_callback(StopDiverged())
        # `compute_loss` returns a mean over the batch, which the trainer is to divide by the accumulation steps; every
        # transformers 5 asks this attribute, `loss_is_scaled_for_ga` only those since 5.19
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        args = self.args
        whole_batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return EpochSampler(len(self.train_dataset), whole_batch, args.seed, self.train_dataset.order)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler:
        items = [(0, row) for row in range(len(eval_dataset))]
        return EpochSampler(len(items), 1, self.args.seed, lambda seed, epoch: items)

    @property
    def ranker(self) -> CrossEncoderRanker:
        """The model as it stands, to score and rank with in float32, as when it is saved; it shares the weights."""
        encoder = self.data_collator.encoder
        model = copy.copy(self.accelerator.unwrap_model(self.model, keep_torch_compile=False))
        vars(model).pop("forward", None)  # accelerate's, in the precision of the training
        limits = encoder.max_length, encoder.max_query_length
        return CrossEncoderRanker(model, encoder.tokenizer, *limits, max_windows=encoder.max_windows)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean over the batch's queries of each group's softmax cross-entropy, or divergence from fused scores.

        A document's score is that of its best window, through which its gradient flows.
        """
        groups = _Groups(model, inputs, self._forward_tokens)
        scores = groups.scattered(torch.cat([chunk() for chunk in groups.chunks]))
        if model.training:
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
        loss = kl_divergence(scores, groups.labels, groups.mask, self.args.teacher_temperature).mean()
        if not weight:
            return loss
        return (1 - weight) * loss + weight * softmax_cross_entropy(scores, groups.relevant, groups.mask).mean()

    def _observe(self, model: torch.nn.Module, groups: _Groups, scores: torch.Tensor) -> None:
        longest = [int(groups.lengths[part].max()) * len(part) for part in groups.parts]
        tokens = int(groups.lengths.sum())
        computed = tokens if is_padding_free(model) else sum(longest)
        flops = training_flops(model, torch.from_numpy(groups.lengths)) if self.health.peak_tflops else 0.0
        self.health.observe(
            scores.detach(),
            groups.labels,
            groups.mask,
            groups.sources,
            tokens=tokens,
            computed=computed,
            flops=flops,
        )

    def _tokens_within_budget(self, model: torch.nn.Module) -> int:
        """The chunk whose graph fills the memory budget, measured on pairs of full length that say nothing."""
        length = self.data_collator.encoder.max_length

        def run(pairs: int) -> torch.Tensor:
            ids = torch.ones(pairs, length, dtype=torch.long, device=self.args.device)
            return forward(model, {"input_ids": ids}, np.full(pairs, length))

        with self.accelerator.no_sync(model):
            held = bytes_a_token(run, length, list(model.parameters()))
        assert self.args.memory_budget is not None  # or there is no budget to ask about
        return max(length, int(self.args.memory_budget * 2**30 / held))

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Quality of the model as it stands, under names after `eval_`.

        With a `measure`, its values; of an eval_dataset, the loss and `GROUP_MEASURES` of its groups.
        """
        if eval_dataset is not None:
            eval_dataset = _scored_groups(eval_dataset, self.args)
        if eval_dataset is not None or (self.measure is None and self.eval_dataset is not None):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if self.measure is None:
            return {}
        model = self.accelerator.unwrap_model(self.model)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.measure(model).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix: str = "test") -> PredictionOutput:
        """Scores of each group's documents.

        Args:
            test_dataset: as eval_dataset; rows of query and documents need no labels.
            ignore_keys: as Trainer's.
            metric_key_prefix: what the names of metrics begin with.

        Returns:
            `predictions`: [groups] arrays of [documents] logits, in the order of the rows and of their documents;
            `label_ids`: the labels likewise, None where all are 0; `metrics`: as of `evaluate`, without figures that
            need labels where there are none.
        """
        groups = _scored_groups(test_dataset, self.args, "test_dataset")
        output = super().predict(groups, ignore_keys, metric_key_prefix)
        scores: Any  # lists of arrays, where the Trainer has one array
        labels: Any
        labels, mask = cast(tuple[Any, Any], output.label_ids)
        scores, labels = (
            [row[real] for row, real in zip(values, mask == 1, strict=True)] for values in (output.predictions, labels)
        )
        if any(row.any() for row in labels):
            return PredictionOutput(scores, labels, output.metrics)
        judged = {f"{metric_key_prefix}_{name}" for name in ("loss", *GROUP_MEASURES)}
        metrics = {name: x for name, x in (output.metrics or {}).items() if name not in judged}
        return PredictionOutput(scores, None, metrics)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Checkpoints, `save_model` and `push_to_hub` write the files of `CrossEncoderRanker.save_pretrained`.

        Adapters are merged, in a copy. Their checkpoints hold them as they are, or no training could go on from one.
        """
        folder = Path(output_dir or training_folder(self.args))
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if has_adapters(model) and (folder.name.startswith(PREFIX_CHECKPOINT_DIR) or state_dict is not None):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            whole = merged(copy.deepcopy(model)) if has_adapters(model) else model
            save_ranker(whole, self.data_collator.encoder, folder, state_dict)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Beside the weights and config.json, which the Trainer copies, the Hub gets the files of `_save`."""
        if self.args.should_save:
            save_files(self.data_collator.encoder, training_folder(self.args))
        tokenizer, self.processing_class = self.processing_class, None  # the Trainer would write its own form of it
        try:
            super()._push_from_checkpoint(checkpoint_folder)
        finally:
            self.processing_class = tokenizer


def group_measures(prediction: EvalPrediction, objective: str = "labels") -> dict[str, float]:
    """Means of `GROUP_MEASURES` over groups; nothing where the labels are a teacher's scores.

    Documents of equal score stand with the lowest label first, so that a ranker that tells nothing apart wins nothing.

    Args:
        prediction: `predictions` [groups, list_size] logits, and as `label_ids` two such arrays: labels, of which
            those above 0 are relevant, and a mask, 1 for a document. If some labels are no whole numbers, all
            relevant ones count alike.
        objective: of the training.
    """
    if objective != "labels":
        return {}
    rankings, judgements = [], []
    for scores, labels, mask in zip(prediction.predictions, *prediction.label_ids, strict=True):
        scores, labels = scores[mask == 1], labels[mask == 1]
        grades = labels if (labels == labels.round()).all() else labels > 0
        rankings.append([str(place) for place in np.lexsort((labels, -scores))])
        judgements.append({str(place): int(grade) for place, grade in enumerate(grades)})
    values = measure_rankings(rankings, judgements, parse_measures(GROUP_MEASURES))
    return {name: float(np.mean(column)) for name, column in values.items()}


def _training_groups(dataset: Any, config: ListwiseConfig) -> Any:
    if isinstance(dataset, Candidates):
        groups = TrainingGroups(dataset.rows, dataset.corpus.text, config)
        groups.check()
        return groups
    groups = as_groups(dataset, config, "train_dataset")
    if groups is not None and not has_length(groups) and config.max_steps <= 0:
        raise InputError("max_steps is missing: train_dataset is a stream, whose end is not known")
    return groups


def _scored_groups(dataset: Any, config: ListwiseConfig, name: str = "eval_dataset") -> Any:
    return (
        _training_groups(dataset, config)
        if isinstance(dataset, Candidates)
        else as_groups(dataset, config, name, True)
    )


def _ranker(
    model: str | os.PathLike | PreTrainedModel | CrossEncoderRanker,
    config: ListwiseConfig,
    tokenizer: PreTrainedTokenizerBase | None,
) -> CrossEncoderRanker:
    """The model with its tokenizer, or with the one given."""
    if isinstance(model, CrossEncoderRanker):
        return model
    if isinstance(model, str | os.PathLike):
        loaded = CrossEncoderRanker.from_pretrained(
            model, max_length=config.max_length, fresh_head=True, seed=config.seed, device=config.device
        )
        model, tokenizer = loaded.model, tokenizer or loaded.tokenizer
    name = model.name_or_path or ""
    if tokenizer is None and not name:
        raise InputError("processing_class is missing: the model was not loaded from a folder with a tokenizer")
    tokenizer = tokenizer or load_tokenizer(name)
    check_vocabulary(model, tokenizer, name)
    check_length(model, config.max_length, name)
    return CrossEncoderRanker(model, tokenizer, config.max_length)


class _Groups:
    """A batch of groups as chunks of pairs of like length; each window of a document is a pair.

    Args:
        model: a sequence classifier with one label.
        inputs: what `GroupedListwiseCollator` returns. What goes where is worked out on the host, from `lengths`.
        tokens: of a chunk, padding included.
    """

    def __init__(self, model: Callable[..., Any], inputs: Mapping[str, Any], tokens: int):
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


def score_groups(model: Callable[..., Any], inputs: Mapping[str, Any], tokens: int | None = None) -> torch.Tensor:
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
