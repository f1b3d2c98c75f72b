"""Training of dense and SPLADE retrievers with sentence-transformers, on negatives of several retrievers."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from ..files import write_whole
from ..models import checkpoints as training_checkpoints
from ..models.attention import override_dropout, use_matmul_attention
from ..models.loading import StopDiverged, check_finite, check_length, check_source, loading, seeded
from ..models.trainers import use_one_gpu
from ..negatives.sampling import draw_group
from ..negatives.suspects import with_suspects
from ..processes import is_main_process, wait_for_all
from ..records import InputError
from ..stage import ROUND_FILE
from .base import IndexableCorpus, Texts, as_corpus
from .encoders import check_encoder, head_is_fresh, load_encoder
from .options import RetrieverTraining

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SparseEncoder
    from transformers import Trainer, TrainerState

MASKED = 0.15  # of the tokens that a fresh head learns to restore, as BERT
_HEAD_BATCH = 32
_HEAD_TOKENS = 32
_HEAD_LEARNING_RATE = 5e-4
_TERMS_AT_START = 200  # what SPLADE models weigh in an MS MARCO passage, to an order of magnitude
_CHECKPOINTS = 0.2  # of a training's steps between two of them


def write_tuples(
    rows: Iterable[Mapping[str, Any]],
    text: Callable[[str], str],
    settings: RetrieverTraining,
    path: str | os.PathLike,
    teacher: str | None = None,
) -> int:
    """Each epoch's (query, positive, negative_1 ... negative_n), drawn as for the ranker, as an Arrow file.

    A query with fewer candidates than negatives wanted gets some of them twice; one without any is left out.

    Args:
        rows: of candidates: `query_id`, `query`, `positive_ids`, `candidates`, and `rankings` for a teacher.
        text: passage by id.
        settings: `num_negatives`, `num_train_epochs`, `seed` and how negatives are drawn.
        path: the file; `datasets.Dataset.from_file` maps it into memory.
        teacher: one of the rankings; its scores of positive and negatives, in this order, become the column `label`,
            [1 + n] float32.

    Returns:
        The number of tuples.

    Raises:
        InputError: there is none, or the teacher did not score what was drawn.
    """
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    if settings.leave_out_suspects:
        rows = with_suspects(rows, text, settings.judged_by)
    negatives = [f"negative_{number}" for number in range(1, settings.num_negatives + 1)]
    columns = dict.fromkeys(["query", "positive", *negatives], Value("string"))
    features = Features({**columns, "label": List(Value("float32"))} if teacher else columns)
    with ArrowWriter(path=os.fspath(path), features=features) as writer:
        for row in rows:
            for columns in _tuples_of(row, text, settings, teacher):
                writer.write(columns)
        written, _ = writer.finalize()
    if not written:
        raise InputError("no training query has a relevant document and a negative")
    return written


def _tuples_of(
    row: Mapping[str, Any], text: Callable[[str], str], settings: RetrieverTraining, teacher: str | None
) -> Iterator[dict[str, Any]]:
    count = settings.num_negatives
    scores = _teacher_scores(row, teacher) if teacher else {}
    for epoch in range(settings.num_train_epochs):
        positive, negatives = draw_group(row, count, settings.seed, epoch, settings)
        if count and not negatives:
            continue
        drawn = [positive, *(negatives * math.ceil(count / max(1, len(negatives))))[:count]]
        columns = {f"negative_{number}": text(doc_id) for number, doc_id in enumerate(drawn[1:], start=1)}
        label = {"label": [_score_of(doc_id, scores, row, teacher) for doc_id in drawn]} if teacher else {}
        yield {"query": row["query"], "positive": text(positive), **columns, **label}


def _teacher_scores(row: Mapping[str, Any], teacher: str) -> dict[str, float]:
    """By document, so that neither the order of the candidates nor that of the ranking decides whose score it is."""
    rankings = {one["ranker"]: one for one in row.get("rankings") or ()}
    if teacher not in rankings:
        choices = ", ".join(rankings) or "none"
        raise InputError(f"the candidates hold no scores of a teacher {teacher!r}; choices: {choices}")
    return dict(zip(rankings[teacher]["doc_ids"], rankings[teacher]["scores"], strict=True))


def _score_of(doc_id: str, scores: Mapping[str, float], row: Mapping[str, Any], teacher: str | None) -> float:
    if doc_id not in scores:
        raise InputError(
            f"query {row['query_id']!r}: the teacher {teacher!r} did not score document {doc_id!r}, which was drawn; "
            "score deeper (teach.py --depth), or draw less deep (--depth)"
        )
    return scores[doc_id]


def load_dense(model: str | os.PathLike, revision: str | None, settings: RetrieverTraining) -> SentenceTransformer:
    """A SentenceTransformer from its folder or Hub id, or from a plain encoder with mean pooling; in float32."""
    from sentence_transformers import SentenceTransformer

    return limited(load_encoder(SentenceTransformer, model, revision), settings.max_length, model)


def limited(encoder: Any, max_length: int, source: str | os.PathLike) -> Any:
    """The encoder, reading so many tokens of a text; InputError where it has no positions for them."""
    if encoder.transformers_model is not None:
        check_length(encoder.transformers_model, max_length, source)
    encoder.max_seq_length = max_length
    return encoder


def load_splade(
    model: str | os.PathLike,
    revision: str | None,
    settings: RetrieverTraining,
    corpus: IndexableCorpus | Texts | None = None,
) -> SparseEncoder:
    """A SparseEncoder from its folder or Hub id, or from any encoder with a masked-language-model class; in float32.

    An encoder without such a head (MiniLM, MPNet of sentence-transformers) gets one that is tied to its word
    embeddings. Fresh, it would weigh terms at random; `settings.head_steps` steps teach it to name each token of the
    collection's own passages, a part of them masked.

    Args:
        model: folder or Hub id.
        revision: commit of a Hub model.
        settings: `max_length`, `head_steps` and `seed` are read.
        corpus: passages, or texts, that a fresh head learns from; None for a model that has its head.

    Raises:
        InputError: the head is fresh, and there is no corpus.
    """
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    check_source(model, revision, modules=True)
    if _is_sparse_encoder(model, revision):
        return limited(load_encoder(SparseEncoder, model, revision), settings.max_length, model)
    options = {"revision": revision} if revision else {}
    weights = {**options, "dtype": torch.float32, "ignore_mismatched_sizes": True}  # `check_encoder` names them
    with loading(model, "SparseEncoder"), seeded(settings.seed):
        transformer = Transformer(
            os.fspath(model),
            transformer_task="fill-mask",
            model_kwargs=weights,
            config_kwargs=dict(options),
            processor_kwargs=dict(options),
        )
        encoder = SparseEncoder(modules=[transformer, SpladePooling()])
    limited(check_encoder(encoder, model, revision, fresh_head=True), settings.max_length, model)
    if settings.head_steps and head_is_fresh(encoder, model, revision):
        if corpus is None:
            raise InputError(f"{model}: its masked-language-model head is fresh; give the passages that teach it")
        with seeded(settings.seed):  # dropout
            teach_head(encoder, as_corpus(corpus), settings)
    return encoder


def load_retriever(kind: str, model: str | os.PathLike, revision: str | None, settings: RetrieverTraining) -> Any:
    """A retriever to train, in float32: what `starting_model` gave, or what a training saved.

    Args:
        kind: "dense" or "splade".
        model: folder or Hub id.
        revision: commit of a Hub model.
        settings: see `load_dense` and `load_splade`.
    """
    return load_dense(model, revision, settings) if kind == "dense" else load_splade(model, revision, settings)


def starting_model(
    kind: str,
    model: str | os.PathLike,
    revision: str | None,
    settings: RetrieverTraining,
    corpus: IndexableCorpus,
    target: Path,
) -> str | os.PathLike:
    """What a training starts from: the model itself, or a SPLADE model whose fresh head was taught once.

    Every process of a launch calls this.

    Args:
        kind: "dense" or "splade".
        model: folder or Hub id.
        revision: commit of a Hub model.
        settings: see `load_splade`.
        corpus: passages to learn from.
        target: where a SPLADE model is kept, so that every process starts from the same.
    """
    if kind == "dense":
        return model
    if is_main_process() and not target.exists():
        encoder = load_splade(model, revision, settings, corpus)
        save_encoder(encoder, target)
    wait_for_all()
    return target


def save_encoder(encoder: Any, target: Path, number: int | None = None) -> None:
    """A model folder that is whole or absent; InputError for weights that are not finite.

    Args:
        encoder: the model.
        target: its folder.
        number: the round that it comes from, counted from 1, for `ROUND_FILE`.
    """
    check_finite(encoder, f"{target}: not saved")

    def save(path: Path) -> None:
        encoder.save_pretrained(str(path), create_model_card=False)
        if number is not None:
            (path / ROUND_FILE).write_text(json.dumps({"round": number}) + "\n", encoding="utf-8")

    write_whole(target, save)


def _is_sparse_encoder(model: str | os.PathLike, revision: str | None) -> bool:
    from sentence_transformers.util import load_file_path

    found = load_file_path(os.fspath(model), "config_sentence_transformers.json", revision=revision)
    return found is not None and '"SparseEncoder"' in Path(found).read_text(encoding="utf-8")


def teach_head(encoder: SparseEncoder, corpus: IndexableCorpus, settings: RetrieverTraining) -> None:
    """Teach a fresh head the vocabulary on windows of passages, then let a passage start with few weighty terms.

    Masked-language-model steps with the loss over all words, masked or not: naming the tokens that are there is what
    SPLADE's head mostly does, naming the masked ones is what lets it weigh terms that are not there. Softmax does not
    see a constant added to all logits, but SPLADE's ReLU does; so the bias is lowered afterwards until passages weigh
    `_TERMS_AT_START` terms on average, where contrastive training would otherwise start from dense vectors.
    """
    from transformers import DataCollatorForLanguageModeling, get_linear_schedule_with_warmup

    model: Any = encoder[0].auto_model
    tokenizer = encoder.tokenizer
    special = torch.tensor(tokenizer.all_special_ids)
    generator = torch.Generator().manual_seed(settings.seed)
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED, seed=settings.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_HEAD_LEARNING_RATE, weight_decay=settings.weight_decay)
    steps = settings.head_steps
    schedule = get_linear_schedule_with_warmup(optimizer, int(settings.warmup_share * steps), steps)
    if settings.bf16 and model.device.type == "cpu":
        use_matmul_attention(model)
    model.train()
    bar = tqdm(range(steps), desc="teach the MLM head", unit="step")
    for _ in bar:
        windows = [_window(tokenizer, text, generator) for text in _some_texts(corpus, generator)]
        batch, whole = collate(windows), tokenizer.pad({"input_ids": windows}, return_tensors="pt")["input_ids"]
        batch["labels"] = whole.masked_fill(torch.isin(whole, special), -100)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=settings.bf16):
            loss = model(**{name: values.to(model.device) for name, values in batch.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.2f}")
    model.eval()
    _start_sparse(encoder, _some_texts(corpus, generator))


def _some_texts(corpus: IndexableCorpus, generator: torch.Generator) -> list[str]:
    """A batch of passages, drawn with replacement."""
    places = torch.randint(len(corpus), (_HEAD_BATCH,), generator=generator).tolist()
    return [corpus.texts(place, place + 1)[0] for place in places]


def _window(tokenizer: Any, text: str, generator: torch.Generator) -> list[int]:
    """`_HEAD_TOKENS` tokens from anywhere in a passage."""
    options = {"truncation": True, "max_length": _HEAD_TOKENS, "return_overflowing_tokens": True}
    windows = tokenizer([text], **options)["input_ids"]
    return windows[int(torch.randint(len(windows), (1,), generator=generator))]


@torch.no_grad()
def _start_sparse(encoder: SparseEncoder, passages: list[str]) -> None:
    model: Any = encoder[0].auto_model
    features = encoder.tokenizer(
        passages, truncation=True, max_length=encoder.max_seq_length, padding=True, return_tensors="pt"
    ).to(model.device)
    logits = model(**features).logits
    logits = logits.masked_fill(features["attention_mask"][..., None] == 0, -torch.inf)
    highest = logits.amax(dim=1).flatten()
    model.get_output_embeddings().bias -= highest.topk(_TERMS_AT_START * len(passages)).values[-1]


class SharedFlopsLoss(torch.nn.Module):
    r"""FLOPS over the whole batch of all devices.

    .. math:: \ell = \sum_{t \in V} \Big(\frac{1}{N} \sum_{i=1}^{N} w_{i,t}\Big)^2

    Paria et al. 2020 (ICLR), Eq. 5. A device's own mean over fewer texts is noisier, and its square larger: with
    the same weight, more devices would mean sparser vectors. Here the means are averaged over devices first, so that
    gradients equal those of one device with the whole batch.
    """

    def compute_loss_from_embeddings(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Scalar; `embeddings` is [texts of this device, vocabulary], with equally many texts on every device."""
        mean = embeddings.float().mean(dim=0)
        if _devices() > 1:
            from torch.distributed.nn.functional import all_reduce

            mean = all_reduce(mean) / _devices()
        return mean.square().sum()


def _devices() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def train(
    encoder: Any,
    tuples: Dataset,
    settings: RetrieverTraining,
    checkpoints: str | os.PathLike,
    loss: torch.nn.Module | None = None,
) -> TrainerState:
    """Train in place; SPLADE with FLOPS regularisation beside the loss.

    Args:
        encoder: SentenceTransformer or SparseEncoder.
        tuples: see `write_tuples`; they hold all epochs.
        settings: of this training.
        checkpoints: folder of the trainer; a training that was killed goes on from the last one in it.
        loss: has `compute_loss_from_embeddings`; default `contrastive_loss`.

    Returns:
        The trainer's state, whose `log_history` holds the losses.

    Raises:
        InputError: the training diverged, or the tuples do not fill one batch; nothing would be learnt.
    """
    batch = settings.per_device_train_batch_size * _devices()
    if len(tuples) < batch:
        raise InputError(
            f"{len(tuples)} tuples of all epochs do not fill one batch of {batch}; "
            "lower per_device_train_batch_size, or take more queries"
        )
    override_dropout(encoder, settings.dropout)
    if settings.bf16 and not torch.accelerator.is_available():
        use_matmul_attention(encoder[0].auto_model)
    trainer = trainer_of(encoder, tuples, loss or contrastive_loss(encoder, settings), settings, checkpoints)
    training_checkpoints.train(trainer)
    if not trainer.state.global_step:  # a batch holds no query twice where all share their negatives
        raise InputError(f"no batch of {batch} different queries could be filled; lower per_device_train_batch_size")
    return trainer.state


def trainer_of(
    encoder: SentenceTransformer | SparseEncoder,
    tuples: Dataset,
    loss: torch.nn.Module,
    settings: RetrieverTraining,
    checkpoints: str | os.PathLike,
) -> Trainer:
    """sentence-transformers' trainer for an encoder of this kind. Arguments as in `train`."""
    from sentence_transformers import SparseEncoder

    make: Callable[..., Trainer] = _splade_trainer if isinstance(encoder, SparseEncoder) else _dense_trainer
    return make(encoder, tuples, loss, settings, _arguments(settings, checkpoints))


def contrastive_loss(encoder: Any, settings: RetrieverTraining) -> torch.nn.Module:
    """Softmax cross-entropy over mined negatives and the other passages of the batch (of all devices)."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.util import cos_sim, dot_score

    cosine, temperature = similarity_of(encoder, settings)
    return MultipleNegativesRankingLoss(
        encoder, 1 / temperature, cos_sim if cosine else dot_score, gather_across_devices=_devices() > 1
    )


def similarity_of(encoder: Any, settings: RetrieverTraining) -> tuple[bool, float]:
    """Whether the encoder's similarity is the cosine, and the temperature that its scores are divided by."""
    cosine = str(encoder.similarity_fn_name) == "cosine"
    return cosine, settings.temperature or (0.05 if cosine else 1.0)


def _arguments(settings: RetrieverTraining, checkpoints: str | os.PathLike) -> dict[str, Any]:
    return {
        "output_dir": os.fspath(checkpoints),
        "num_train_epochs": 1,
        "per_device_train_batch_size": settings.per_device_train_batch_size,
        "learning_rate": settings.learning_rate,
        "warmup_steps": settings.warmup_share,
        "weight_decay": settings.weight_decay,
        "seed": settings.seed,
        "bf16": settings.bf16,
        "use_cpu": not torch.accelerator.is_available(),
        "batch_sampler": "no_duplicates" if settings.in_batch_negatives else "batch_sampler",
        "dataloader_drop_last": True,
        "save_steps": _CHECKPOINTS,
        "save_total_limit": 1,
        "logging_steps": settings.logging_steps,
        "report_to": settings.report_to,
    }


def _dense_trainer(
    encoder: SentenceTransformer, tuples: Dataset, loss: torch.nn.Module, settings: RetrieverTraining, arguments: dict
):
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    args = SentenceTransformerTrainingArguments(**arguments)
    use_one_gpu(args)
    return SentenceTransformerTrainer(encoder, args, train_dataset=tuples, loss=loss, callbacks=[StopDiverged()])


def _splade_trainer(
    encoder: SparseEncoder, tuples: Dataset, loss: torch.nn.Module, settings: RetrieverTraining, arguments: dict
):
    from sentence_transformers import SparseEncoderTrainer, SparseEncoderTrainingArguments
    from sentence_transformers.sparse_encoder.callbacks.splade_callbacks import (
        SpladeRegularizerWeightSchedulerCallback,
    )
    from sentence_transformers.sparse_encoder.losses import SpladeLoss

    loss = SpladeLoss(
        encoder,
        loss,
        document_regularizer_weight=settings.document_flops,
        query_regularizer_weight=settings.query_flops,
        document_regularizer=SharedFlopsLoss(),
        query_regularizer=SharedFlopsLoss(),
    )
    args = SparseEncoderTrainingArguments(**arguments)
    use_one_gpu(args)
    callbacks = [SpladeRegularizerWeightSchedulerCallback(loss), StopDiverged()]
    return SparseEncoderTrainer(encoder, args, train_dataset=tuples, loss=loss, callbacks=callbacks)
