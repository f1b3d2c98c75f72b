"""Distillation of a ranker into a dense or SPLADE retriever, over one positive and mined negatives a query."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from .options import DistillationTraining
from .training import contrastive_loss, similarity_of


class DistillationLoss(torch.nn.Module):
    r"""What the student's scores of a query's passages differ from the teacher's, mean over queries.

    With :math:`s_i = \mathrm{sim}(q, d_i) / \tau` of the student, :math:`t_i` of the teacher (`label`) and its
    temperature :math:`T`:

    .. math::
        \text{kl:} \quad & \sum_i p_i \, (\log p_i - \log \pi_i), \quad
            p = \mathrm{softmax}(t / T), \; \pi = \mathrm{softmax}(s) \\
        \text{margin\_mse:} \quad & \tfrac{1}{n} \sum_{i>0} \big( (s_0 - s_i) - (t_0 - t_i) / T \big)^2

    R2ANKER, appendix C (KL); Hofstätter et al. 2020, Eq. 2 (MarginMSE). `contrastive_weight` times
    `training.contrastive_loss` is added. The parts are sentence-transformers' own losses.

    Args:
        encoder: SentenceTransformer or SparseEncoder, the student.
        settings: loss, temperatures and weight.
    """

    def __init__(self, encoder: Any, settings: DistillationTraining):
        from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss, MarginMSELoss

        super().__init__()
        self.model, self.settings = encoder, settings
        # the scores are scaled here and not by the loss's own temperature, which would also scale the loss, by .0025
        # for cosines at .05
        similarity = scaled_similarity(*similarity_of(encoder, settings))
        kl = settings.loss == "kl"
        self.teaching = DistillKLDivLoss(encoder, similarity) if kl else MarginMSELoss(encoder, similarity)
        self.contrast: Any = contrastive_loss(encoder, settings) if settings.contrastive_weight else None

    def forward(self, sentence_features: Iterable[dict[str, torch.Tensor]], labels: torch.Tensor) -> torch.Tensor:
        """Scalar; features of queries, positives and each place of the negatives, and the teacher's scores."""
        from sentence_transformers.base.losses.merged_forward import embed_columns

        return self.compute_loss_from_embeddings(embed_columns(self.model, sentence_features), labels)

    def compute_loss_from_embeddings(self, embeddings: list[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Scalar.

        Args:
            embeddings: of queries, of positives, of each place of the negatives: 2 + n tensors [queries, dimensions].
            labels: [queries, 1 + n] the teacher's logits, the positive's first.
        """
        labels = labels.float() / self.settings.teacher_temperature
        loss = self.teaching.compute_loss_from_embeddings(embeddings, labels)
        if self.contrast is not None:
            contrast = self.contrast.compute_loss_from_embeddings(embeddings, labels)
            loss = loss + self.settings.contrastive_weight * contrast
        return loss


def scaled_similarity(cosine: bool, temperature: float) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Similarity of row i with row i, in float32 and divided by the temperature."""
    from sentence_transformers.util import pairwise_cos_sim, pairwise_dot_score

    similarity = pairwise_cos_sim if cosine else pairwise_dot_score

    def pairwise_similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return similarity(a.float(), b.float()) / temperature

    return pairwise_similarity
