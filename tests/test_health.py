"""What is logged about a training is what its scores say."""

import math

import pytest
import torch
from listwise_toy import trainer
from transformers import BertConfig, BertForSequenceClassification

from r2anker_hf.rankers.health import Health, training_flops


def test_figures_of_two_groups_by_hand():
    health = Health(["bm25", "dense"], torch.device("cpu"), peak_tflops=1e-12)
    scores = torch.tensor([[2.0, 1.0, 3.0], [5.0, 5.0 - 2.0, 99.0]])
    labels = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    sources = torch.tensor([[3, 1, 3], [0, 2, 0]])  # bm25's bit is 1, dense's 2
    health.observe(scores, labels, mask, sources, tokens=75, computed=100, flops=10)
    health.started -= 5  # seconds
    figures = health.figures()
    assert figures["gold_rank"] == 1.5 and figures["groups_won"] == 0.5
    assert figures["score_spread"] == pytest.approx((math.sqrt(2 / 3) + 1) / 2, abs=1e-5)
    assert figures["padding_share"] == 0.25
    assert figures["tokens_per_second"] == pytest.approx(15, rel=0.01)
    assert figures["mfu"] == pytest.approx(2, rel=0.01)
    # of bm25's two negatives one lies above the gold document, of dense's two as well
    assert figures["fooled_by_bm25"] == figures["fooled_by_dense"] == 0.5
    assert 0 < figures["peak_memory_gib"] < 1000
    health.reset()
    assert health.figures() == {}


def test_equal_scores_win_nothing():
    health = Health([], torch.device("cpu"))
    health.observe(torch.zeros(1, 4), torch.tensor([[1.0, 0, 0, 0]]), torch.ones(1, 4))
    assert health.figures()["gold_rank"] == 4 and health.figures()["groups_won"] == 0


def test_flops_of_a_model_by_hand():
    config = {"hidden_size": 4, "num_attention_heads": 1, "intermediate_size": 8, "num_hidden_layers": 2}
    model = BertForSequenceClassification(BertConfig(vocab_size=9, num_labels=1, **config))
    layer = 4 * (4 * 4 + 4) + (4 * 8 + 8) + (8 * 4 + 4) + 2 * 8  # projections, feed-forward, two norms
    weights = 2 * layer + (4 * 4 + 4) + (4 + 1)  # and pooler and head
    expected = 6 * weights * 5 + 12 * 2 * 4 * (2**2 + 3**2)
    assert training_flops(model, torch.tensor([2, 3])) == expected


def test_the_trainer_logs_them_and_warns_of_a_collapse(tiny_model, tmp_path):
    options = {"per_device_train_batch_size": 8, "peak_tflops": 1.0, "learning_rate": 1e-8, "num_train_epochs": 1}
    trained = trainer(tiny_model, str(tmp_path), **options)
    trained.model.classifier.weight.data.zero_()
    with pytest.warns(UserWarning, match="scores have collapsed"):
        trained.train()
    (line, *_) = (entry for entry in trained.state.log_history if "loss" in entry)
    assert line["groups_won"] == 0 and line["score_spread"] == 0 and line["fooled_by_bm25"] == 1
    assert line["padding_share"] == 0 and 0 < line["mfu"] < 1
