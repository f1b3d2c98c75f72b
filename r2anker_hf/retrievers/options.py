"""The options of retrievers' trainings, in a module that loads no torch, so that help and cards can read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from ..negatives.sampling import Sampling
from ..ranges import COUNT_OR_NONE, NOT_NEGATIVE, check_all
from ..records import InputError

BOTTLENECKS = ("cls", "lexicon", "none")
POOLINGS = ("cls", "mean")
Loss = Literal["kl", "margin_mse", "contrastive"]


@dataclass(kw_only=True)
class Rounds:
    """How often a retriever is trained: each round after the first learns from what the one before it mistakes."""

    rounds: int = field(default=2, metadata={"help": "1 ends with D1 or L1.", "formerly": "stages"})
    round2_from: Literal["round1", "base"] = field(
        default="round1",
        metadata={
            "help": "Round 2 goes on from round 1 (4.2), or starts from the base model again.",
            "formerly": {"stage2_from": {"stage1": "round1"}},
        },
    )


@dataclass
class RetrieverTraining(Sampling):
    """Settings of one training; defaults are coCondenser's fine-tuning on MS MARCO where it names them."""

    learning_rate: float = field(default=5e-6, metadata={"help": "Peak learning rate (coCondenser)."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Queries per device; all share negatives."})
    num_train_epochs: int = field(default=3, metadata={"help": "Passes over the training queries."})
    warmup_share: float = field(default=0.1, metadata={"help": "Share of the steps in which the rate rises."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay."})
    dropout: float | None = field(default=None, metadata={"help": "Overrides the model's own dropout."})
    num_negatives: int = field(
        default=7, metadata={"help": "Mined negatives per query; others come from the batch.", "range": COUNT_OR_NONE}
    )
    max_length: int = field(default=128, metadata={"help": "Tokens of a text, in training and afterwards."})
    temperature: float | None = field(
        default=None, metadata={"help": "Of the softmax over scores; default .05 for cosines, 1 for inner products."}
    )
    query_flops: float = field(default=3e-4, metadata={"help": "SPLADE: weight of the queries' FLOPS loss (naver)."})
    document_flops: float = field(default=1e-4, metadata={"help": "SPLADE: weight of the passages' (naver)."})
    head_steps: int = field(
        default=300, metadata={"help": "SPLADE: steps that teach a fresh MLM head the vocabulary."}
    )
    seed: int = field(default=42, metadata={"help": "Seed of order, negatives and dropout."})
    mixed_precision: str = field(
        default="auto",
        metadata={
            "help": "auto (bf16 where it is fast on this machine), no or bf16.",
            "formerly": {"bf16": {"true": "bf16", "false": "no", "none": "auto"}},
        },
    )
    logging_steps: int = field(default=20, metadata={"help": "Steps between two lines of the log."})
    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={"help": "Trackers that are told the losses, such as trackio; none, all, or names of transformers."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.report_to != ["none"]:
            from ..models.trainers import check_trackers

            check_trackers(self.report_to)
        choices = ("auto", "no", "bf16")
        if self.mixed_precision not in choices:
            raise InputError(f"mixed_precision is {self.mixed_precision!r}; choices: {', '.join(choices)}")
        if self.mixed_precision == "auto":
            from ..models.precision import fastest_precision, say

            self.mixed_precision = "bf16" if fastest_precision() == "bf16" else "no"
            say("mixed_precision", self.mixed_precision)

    @property
    def bf16(self) -> bool:
        """Whether the training computes in bfloat16."""
        return self.mixed_precision == "bf16"

    @property
    def in_batch_negatives(self) -> bool:
        """Whether the other queries' passages are negatives too; then a batch holds no passage twice, or it would be
        a negative beside its own query."""
        return True


@dataclass
class DistillationTraining(RetrieverTraining):
    """Settings of a distillation; defaults are R2ANKER's, appendix C, where it names them."""

    learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate (appendix C)."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Queries per device (appendix C)."})
    num_train_epochs: int = field(default=4, metadata={"help": "Passes over the training queries (appendix C)."})
    num_negatives: int = field(default=10, metadata={"help": "Negatives beside the one positive (appendix C)."})
    loss: Loss = field(
        default="kl",
        metadata={
            "help": "kl (the paper), margin_mse, or contrastive: no teacher, the same tuples, for comparison.",
            "formerly": "objective",
        },
    )
    teacher_ranking: str = field(
        default="teacher",
        metadata={"help": "What the teacher's scores are called in the candidates.", "formerly": "teacher_name"},
    )
    teacher_temperature: float = field(default=1.0, metadata={"help": "The teacher's logits are divided by it."})
    contrastive_weight: float = field(
        default=0.0, metadata={"help": "Weight of a contrastive term beside the teacher's (SimLM and LexMAE: .2)."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.loss not in get_args(Loss):
            raise InputError(f"no loss {self.loss!r}; choices: {', '.join(get_args(Loss))}")

    @property
    def in_batch_negatives(self) -> bool:
        """Only a contrastive term looks at the other queries' passages."""
        return self.loss == "contrastive" or self.contrastive_weight > 0


@dataclass
class PretrainingOptions:
    """What `PretrainingConfig` has beside transformers' TrainingArguments, or other defaults of.

    They are R2ANKER's, section C, and SimLM's where that one refers to it.
    """

    whole: ClassVar[str] = f"{__package__}.pretraining:PretrainingConfig"  # loads torch, so no import stands here

    output_dir: str | None = field(default=None, metadata={"help": "New folder for the encoder."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate (section C)."})
    per_device_train_batch_size: int = field(
        default=256, metadata={"help": "Passages per device and step; the paper has 2048 over eight devices."}
    )
    num_train_epochs: float = field(
        default=20.0, metadata={"help": "Passes over the corpus (section C); 0: none.", "range": NOT_NEGATIVE}
    )
    warmup_steps: float = field(
        default=0.05, metadata={"help": "Warm-up: a share of all steps below 1, else steps (SimLM: 4,000 of 80,000)."}
    )
    weight_decay: float = field(default=0.0, metadata={"help": "Weight decay (SimLM)."})
    seed: int = field(default=42, metadata={"help": "Seed of order, masks, dropout and fresh weights (section C)."})
    encoder_mask: float = field(default=0.3, metadata={"help": "Share of a passage's tokens that the encoder misses."})
    decoder_mask: float = field(
        default=0.5, metadata={"help": "Share that the decoder misses, those of the encoder among them (SimLM)."}
    )
    whole_words: bool = field(
        default=True, metadata={"help": "Mask all pieces of a word or none (SimLM); false: each piece by itself."}
    )
    decoder_layers: int = field(
        default=2, metadata={"help": "Layers of the decoder; they begin as copies of the encoder's last ones (SimLM)."}
    )
    bottleneck: str = field(
        default="cls",
        metadata={
            "help": "What the decoder gets: cls (ED-MLM: the first token's vector), lexicon (LexMAE: word embeddings "
            "by the passage's term weights), or none: no decoder, masked language modelling alone."
        },
    )
    dropout: float | None = field(default=None, metadata={"help": "Overrides the model's own dropout."})
    mixed_precision: str = field(
        default="auto", metadata={"help": "auto (the fastest on this machine), no, bf16 or fp16."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between two lines of the log."})
    ddp_broadcast_buffers: bool | None = field(
        default=False,
        metadata={"help": "Send the model's buffers to all processes in every step. Training changes none."},
    )

    def __post_init__(self):
        check_all(self)
        if self.bottleneck not in BOTTLENECKS:
            raise InputError(f"no bottleneck {self.bottleneck!r}; choices: {', '.join(BOTTLENECKS)}")
