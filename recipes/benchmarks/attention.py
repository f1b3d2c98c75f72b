"""Bench: training on this CPU in bfloat16, with PyTorch's fused attention and with two matrix products.

    python recipes/benchmarks/attention.py --model M

Padded batches, as models have them that cannot run without padding. No dropout. Both sides run in turn in one process;
prints the median of pairs a second and the ratio. A minute.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

import torch
from transformers import AutoModelForSequenceClassification

from r2anker_hf.config import run_recipe
from r2anker_hf.models.attention import use_matmul_attention


@dataclass
class BenchConfig:
    model: str = field(metadata={"help": "Encoder: a folder or Hub id."})
    pairs: int = field(default=64, metadata={"help": "Pairs a step."})
    tokens: int = field(default=96, metadata={"help": "Tokens a pair."})
    repeats: int = field(default=7, metadata={"help": "Steps of each side.", "formerly": "rounds"})
    seed: int = field(default=42, metadata={"help": "Of the token ids."})


def main(config: BenchConfig) -> None:
    fused, matmul = (AutoModelForSequenceClassification.from_pretrained(config.model, num_labels=1) for _ in range(2))
    use_matmul_attention(matmul)
    for module in (*fused.modules(), *matmul.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.manual_seed(config.seed)
    ids = torch.randint(1000, fused.config.vocab_size, (config.pairs, config.tokens))
    mask = torch.ones_like(ids)
    mask[::2, -config.tokens // 8 :] = 0  # some padding, as in any batch
    times: dict[str, list[float]] = {"fused": [], "matmul": []}
    for _ in range(config.repeats + 1):
        for name, model in (("fused", fused), ("matmul", matmul)):
            times[name].append(_step(model, ids, mask))
    rates = {name: config.pairs / statistics.median(seconds[1:]) for name, seconds in times.items()}
    for name, rate in rates.items():
        print(f"{name}: {rate:.1f} pairs a second")
    print(f"ratio: {rates['matmul'] / rates['fused']:.2f}")


def _step(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> float:
    model.train()
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, attention_mask=mask).logits.float().sum()
    loss.backward()
    model.zero_grad()
    return time.perf_counter() - started


if __name__ == "__main__":
    run_recipe(main)
