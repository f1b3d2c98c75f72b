"""The listwise trainer: one group a query, softmax cross-entropy over it, the same loss however a batch is split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, Trainer, TrainingArguments

from .attention import use_matmul_attention
from .collator import GroupedListwiseCollator
from .losses import kl_divergence, softmax_cross_entropy
from .negatives.sampling import POLICIES, Sampling, draw_group, draw_ranked, permutation
from .records import InputError

# Pairs of like length that go through the model together. A CPU is busy with 32, and more would only pad more; a GPU
# wants to be filled.
PAIRS_A_FORWARD = {"cpu": 32}
PAIRS_A_FORWARD_ELSEWHERE = 256
OBJECTIVES = ("labels", "retrievers")


@dataclass
class ListwiseConfig(TrainingArguments):
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
    policy: str = field(
        default="union", metadata={"help": f"Sampling policy; union is the paper's. One of: {', '.join(POLICIES)}."}
    )
    depth: int = field(default=200, metadata={"help": "Top-N of each retriever that negatives are drawn from."})
    retrievers: list[str] = field(
        default_factory=list, metadata={"help": "The retrievers whose lists are drawn from (Table 4); default all."}
    )
    rank_from: int = field(default=1, metadata={"help": "First rank of a list that is drawn from."})
    rank_to: int | None = field(
        default=None, metadata={"help": "Last rank; default depth, for redistributed the whole pool."}
    )
    max_score: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Highest score of a negative, by retriever: dense=0.8 ..."}
    )
    min_score: dict[str, float] = field(default_factory=dict, metadata={"help": "Lowest score, by retriever."})
    absolute_margin: float | None = field(
        default=None, metadata={"help": "Negatives score at least so much below the positive, in each list."}
    )
    relative_margin: float | None = field(
        default=None, metadata={"help": "The same as a share of the positive score's magnitude."}
    )
    sampling_temperature: float = field(default=1.0, metadata={"help": "Of policies softmax and redistributed."})
    standardise: bool = field(
        default=True, metadata={"help": "Policy softmax: give each list's scores deviation 1 first."}
    )
    shares: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Policy quota: bm25=0.5 dense=0.25 splade=0.25."}
    )
    within: str | None = field(
        default=None, metadata={"help": "Policy constrained: the run in which every negative must stand (Table 6)."}
    )
    negatives_ranker: str | None = field(
        default=None, metadata={"help": "Policy redistributed: the ranker whose scores are drawn by (Table 7)."}
    )
    freeze_embeddings: bool = field(
        default=False, metadata={"help": "Keep the word embeddings as they are: faster, and gentler on small data."}
    )
    objective: str = field(
        default="labels",
        metadata={
            "help": "labels (Eq. 5), or retrievers: a warm start that teaches a fresh ranker the retrievers' fused "
            "scores, without judgements, where labelled queries are few."
        },
    )
    temperature: float = field(default=0.5, metadata={"help": "Of the fused scores, with objective retrievers."})
    dropout: float | None = field(default=None, metadata={"help": "Overrides the model's own dropout."})
    mixed_precision: str = field(
        default="auto", metadata={"help": "auto (bf16 where the hardware has it in matrix units), no, bf16 or fp16."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between two lines of the log."})
    ddp_broadcast_buffers: bool | None = field(
        default=False, metadata={"help": "Rankers have no buffers that training changes."}
    )

    def __post_init__(self):
        self.sampling()  # refuses what does not fit the policy, before anything is loaded
        if self.objective not in OBJECTIVES:
            raise InputError(f"no objective {self.objective!r}; choices: {', '.join(OBJECTIVES)}")
        if self.temperature <= 0:
            raise InputError(f"temperature is {self.temperature}, but must be above 0")
        if self.num_negatives < 1:
            raise InputError(f"num_negatives is {self.num_negatives}, but must be at least 1")
        if not (self.bf16 or self.fp16):
            precision = _fastest_precision() if self.mixed_precision == "auto" else self.mixed_precision
            if precision not in ("no", "bf16", "fp16"):
                raise InputError(f"mixed_precision {precision!r}; choices: auto, no, bf16, fp16")
            self.bf16, self.fp16 = precision == "bf16", precision == "fp16"
        if not torch.accelerator.is_available():
            self.use_cpu = True  # bf16, and several processes, work on CPUs only if TrainingArguments is told so
        super().__post_init__()

    def sampling(self) -> Sampling:
        """How negatives are drawn, out of the options above."""
        same = ("policy", "depth", "retrievers", "rank_from", "rank_to", "max_score", "min_score", "absolute_margin")
        same += ("relative_margin", "standardise", "shares", "within")
        options = {name: getattr(self, name) for name in same}
        options |= {"temperature": self.sampling_temperature, "ranker": self.negatives_ranker}
        return Sampling(**options)


def _fastest_precision() -> str:
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if torch.accelerator.is_available():
        return "no"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "no"


class TrainingGroups(Dataset):
    """Candidates as training groups: item (epoch, index) is a feature of `GroupedListwiseCollator`.

    The epoch is a part of the index, so a loader's workers need no state to draw that epoch's negatives.

    Args:
        rows: candidates, each with `query_id`, `query`, `positive_ids` and `candidates` (see negatives.candidates).
        text: passage by document id.
        config: `num_negatives`, `seed` and all that `ListwiseConfig.sampling` reads.
    """

    def __init__(self, rows: Any, text: Callable[[str], str], config: ListwiseConfig):
        self.rows, self.text, self.config = rows, text, config
        self.sampling = config.sampling()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, index = item
        row = self.rows[int(index)]
        doc_ids, labels = (self._judged if self.config.objective == "labels" else self._ranked)(row, epoch)
        return {"query": row["query"], "documents": [self.text(doc_id) for doc_id in doc_ids], "labels": labels}

    def _judged(self, row: Mapping[str, Any], epoch: int) -> tuple[list[str], list[float]]:
        config = self.config
        positive, negatives = draw_group(row, config.num_negatives, config.seed, epoch, self.sampling)
        return [positive, *negatives], [1.0, *[0.0] * len(negatives)]

    def _ranked(self, row: Mapping[str, Any], epoch: int) -> tuple[list[str], list[float]]:
        config = self.config
        lists = {ranked["retriever"]: (ranked["doc_ids"], ranked["scores"]) for ranked in row["candidates"]}
        return draw_ranked(row["query_id"], lists, config.num_negatives + 1, config.seed, epoch, config.depth)


class EpochSampler(Sampler[tuple[int, int]]):
    """Every query once an epoch, in an order that depends on (seed, epoch) alone.

    The last batch is filled up from the head of the same order, so that every optimiser step of every epoch sees
    exactly `whole_batch` queries. That makes batch size, accumulation steps and processes exchangeable.

    Args:
        size: training queries.
        whole_batch: queries an optimiser step, over all processes and accumulation steps.
        seed: of the training.

    >>> len(EpochSampler(size=10, whole_batch=4, seed=42))
    12
    """

    def __init__(self, size: int, whole_batch: int, seed: int):
        self.size, self.whole_batch, self.seed, self.epoch = size, whole_batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch, also when it resumes."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.size // self.whole_batch) * self.whole_batch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = permutation(self.size, self.seed, self.epoch)
        for position in range(len(self)):
            yield self.epoch, int(order[position % self.size])


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

    # `compute_loss` returns a mean over the batch; the trainer divides by the accumulation steps
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: PreTrainedModel,
        args: ListwiseConfig,
        train_dataset: TrainingGroups,
        data_collator: GroupedListwiseCollator,
        measure: Callable[[PreTrainedModel], Mapping[str, float]] | None = None,
        **kwargs: Any,
    ):
        args.remove_unused_columns = False
        args.label_names = ["labels"]
        self.measure = measure
        if args.freeze_embeddings:
            model.get_input_embeddings().requires_grad_(False)
        if args.dropout is not None:
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = args.dropout
        if args.bf16 and args.device.type == "cpu":
            use_matmul_attention(model)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=[] if measure else None,  # Trainer insists on one; `measure` brings its own queries
            data_collator=data_collator,
            **kwargs,
        )

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        args = self.args
        whole_batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return EpochSampler(len(self.train_dataset), whole_batch, args.seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean over the batch's queries of each group's softmax cross-entropy, or divergence from fused scores."""
        inputs = dict(inputs)
        labels, mask = inputs.pop("labels"), inputs.pop("mask")
        scores = score_groups(model, inputs, mask)
        if self.args.objective == "labels":
            loss = softmax_cross_entropy(scores, labels, mask).mean()
        else:
            loss = kl_divergence(scores, labels, mask, self.args.temperature).mean()
        return (loss, {"scores": scores}) if return_outputs else loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Dev measures of the model as it stands, under their names after `eval_`."""
        if self.measure is None:
            return {}
        model = self.accelerator.unwrap_model(self.model)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.measure(model).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def score_groups(
    model: Callable[..., Any], inputs: Mapping[str, torch.Tensor], mask: torch.Tensor, pairs: int | None = None
) -> torch.Tensor:
    """Score the real documents of each group, pairs of like length together so that little is padded.

    Args:
        model: returns an object with `logits` of shape [pairs, 1].
        inputs: tensors [queries, list_size, tokens], `attention_mask` among them.
        mask: [queries, list_size], nonzero for a real document.
        pairs: pairs that go through the model at once; default by device.

    Returns:
        [queries, list_size] logits, 0 where there is no document.
    """
    pairs = pairs or PAIRS_A_FORWARD.get(mask.device.type, PAIRS_A_FORWARD_ELSEWHERE)
    real = mask.bool()
    flat = {name: values[real] for name, values in inputs.items()}
    lengths = flat["attention_mask"].sum(dim=-1)
    order = lengths.argsort(stable=True)
    logits = []
    for chunk in order.split(pairs):
        longest = int(lengths[chunk].max())
        logits.append(model(**{name: values[chunk, :longest] for name, values in flat.items()}).logits[:, 0])
    scores = torch.cat(logits)[order.argsort()]
    return torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device).masked_scatter(real, scores)
