"""The options of a listwise training, in a module that loads no torch, so that help and cards can read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..negatives.sampling import Sampling
from ..records import InputError

OBJECTIVES = ("labels", "retrievers", "ranker")
_OF_LISTS = (
    *("retrievers", "policy", "rank_from", "rank_to", "max_score", "min_score"),
    *("absolute_margin", "relative_margin"),
)
"""Options that choose among the retrievers' lists."""
_OF_TEACHERS = ("teacher_ranking", "teacher_temperature", "leave_out_positives", "label_weight")
"""Options of the objectives that learn from scores."""


@dataclass
class ListwiseOptions(Sampling):
    """What `ListwiseConfig` has beside transformers' TrainingArguments, or other defaults of: R2ANKER, appendix C."""

    whole: ClassVar[str] = f"{__package__}.listwise:ListwiseConfig"  # loads torch, so no import stands here

    output_dir: str | None = field(default=None, metadata={"help": "New folder for the ranker."})
    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate (appendix C)."})
    per_device_train_batch_size: int = field(
        default=12, metadata={"help": "Queries (groups) per device and step; the paper has 12 on one device."}
    )
    num_train_epochs: float = field(default=2.0, metadata={"help": "Passes over the training queries (appendix C)."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Warm-up: a share of all steps below 1, else steps."})
    weight_decay: float = field(default=0.1, metadata={"help": "Weight decay (appendix C)."})
    seed: int = field(default=42, metadata={"help": "Seed of order, negatives and dropout (appendix C)."})
    num_negatives: int = field(default=40, metadata={"help": "Negatives per query and epoch (appendix C)."})
    max_length: int = field(default=128, metadata={"help": "Tokens of a pair (appendix C)."})
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
    teacher_ranking: str = field(
        default="teacher",
        metadata={
            "help": "Objective ranker: which of the candidates' rankings it learns (see teach.py).",
            "formerly": "teacher",
        },
    )
    leave_out_positives: bool = field(
        default=False,
        metadata={"help": "A warm start on pseudo-queries: without the passages that these were cut out of."},
    )
    teacher_temperature: float = field(
        default=0.5,
        metadata={
            "help": "Objectives retrievers and ranker: the learned scores are divided by it.",
            "formerly": "temperature",
        },
    )
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
            "help": "GiB per device for what the backward pass needs; a batch that needs more goes through a gradient "
            "cache, in chunks that fit: any group size, the same gradients, a third more work. Default: no limit."
        },
    )
    peak_tflops: float | None = field(
        default=None, metadata={"help": "Peak of one device, for the log's mfu; known for usual GPUs."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between two lines of the log."})
    ddp_broadcast_buffers: bool | None = field(
        default=False,
        metadata={"help": "Send the model's buffers to all processes in every step. Training changes none."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.objective not in OBJECTIVES:
            raise InputError(f"no objective {self.objective!r}; choices: {', '.join(OBJECTIVES)}")
        if self.objective != "labels":  # it draws from what teaches it, so these would be passed over
            drawn = Sampling()
            for name in _OF_LISTS:
                if getattr(self, name) != getattr(drawn, name):
                    raise InputError(f"{name} is given, but objective {self.objective} does not read it")
        given = {name: getattr(self, name) for name in _OF_TEACHERS}
        if self.objective == "labels":
            for name, value in given.items():
                if value != type(self).__dataclass_fields__[name].default:
                    raise InputError(f"{name} is given, but objective labels has no teacher; give --objective ranker")
        if self.label_weight and self.leave_out_positives:
            raise InputError("label_weight learns from the positives, which leave_out_positives leaves out; give one")
