"""How a listwise training is doing: what it ranks right, what still fools it, and how busy the hardware is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

COLLAPSED = 1e-3  # score spread, in logits, below which documents of a group can no longer be told apart

# Dense bfloat16 peak of a device in TFLOP/s, by a part of its name; manufacturers' data sheets.
PEAK_TFLOPS = {
    **{"B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "A10": 125.0},
    **{"L40S": 362.0, "L4": 121.0, "RTX 4090": 165.0, "RTX 3090": 71.0},
}


class Health:
    """Sums over the groups since the last line of the log; they stay on the device until they are read.

    Args:
        retrievers: names behind the bits of a group's `sources`.
        device: where scores are.
        peak_tflops: of one device, for the model FLOP utilisation; default by the GPU's name, unknown for others.
    """

    def __init__(self, retrievers: Sequence[str], device: torch.device, peak_tflops: float | None = None):
        self.retrievers, self.device = list(retrievers), device
        self.peak_tflops = peak_tflops or _peak_of(device)
        self.reset()

    @property
    def flops(self) -> float:
        """Of forward and backward over real tokens, since the last line; 0 where no peak is known."""
        return self.counts[3]

    def reset(self) -> None:
        """Begin the next line of the log."""
        # groups, real tokens, computed tokens, FLOPs: what the host knows
        self.counts = [0.0] * 4
        # gold's ranks, groups won, score spreads: what the device finds, which is read once a line
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        self.fooled = torch.zeros(2, len(self.retrievers), dtype=torch.float64, device=self.device)
        self.started = time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    @torch.no_grad()
    def observe(
        self,
        scores: torch.Tensor,
        labels: torch.Tensor,
        mask: torch.Tensor,
        sources: torch.Tensor | None = None,
        tokens: float = 0.0,
        computed: float = 0.0,
        flops: float = 0.0,
    ) -> None:
        """Take in a batch of groups. The gold document of a group is the one with the highest label.

        Args:
            scores: [queries, list_size] logits.
            labels: [queries, list_size], any real.
            mask: [queries, list_size], nonzero for a real document.
            sources: [queries, list_size] bits of the retrievers that listed each document.
            tokens: real tokens of the batch.
            computed: tokens that went through the model, padding included.
            flops: of forward and backward over the real tokens.
        """
        real = mask.bool()
        scores = scores.float()
        gold = labels.float().masked_fill(~real, -torch.inf).argmax(dim=1, keepdim=True)
        rival = real.clone().scatter_(1, gold, False)
        above = rival & (scores >= scores.gather(1, gold))  # an equal score wins nothing
        mean = (scores * real).sum(dim=1) / real.sum(dim=1)
        spread = (((scores - mean[:, None]) ** 2 * real).sum(dim=1) / real.sum(dim=1)).sqrt()
        ranks = 1 + above.sum(dim=1)
        found = [len(scores), tokens, computed, flops]
        self.counts = [before + now for before, now in zip(self.counts, found, strict=True)]
        self.sums += torch.stack([values.sum().double() for values in (ranks, ranks == 1, spread)])
        if sources is not None:
            for number in range(len(self.retrievers)):
                listed = rival & (sources >> number & 1).bool()
                self.fooled[:, number] += torch.stack([(listed & above).sum(), listed.sum()])

    def figures(self, reduce: Any = lambda values: values, processes: int = 1) -> dict[str, float]:
        """What the groups since `reset` amount to; nothing if there were none.

        Args:
            reduce: sums a tensor over the processes.
            processes: how many there are.

        Returns:
            `gold_rank` (mean, 1 is best), `groups_won` (share whose gold document is first), `score_spread` (mean
            standard deviation within a group, logits), `tokens_per_second` (real ones, of all processes),
            `padding_share` (of computed tokens), `mfu` (model FLOP utilisation, 0 to 1, where the peak is known),
            `peak_memory_gib` (of this process), and `fooled_by_NAME`: the share of that retriever's negatives that
            score no lower than the gold document.
        """
        seconds = time.perf_counter() - self.started
        counts = torch.tensor(self.counts, dtype=torch.float64, device=self.device)
        sums, fooled = reduce(torch.cat([counts, self.sums])).tolist(), reduce(self.fooled).tolist()
        groups, tokens, computed, flops, ranks, won, spread = sums
        if not groups:
            return {}
        figures = {"gold_rank": ranks / groups, "groups_won": won / groups, "score_spread": spread / groups}
        figures["tokens_per_second"] = tokens / seconds
        figures["padding_share"] = 1 - tokens / computed if computed else 0.0
        if self.peak_tflops:
            figures["mfu"] = flops / (seconds * processes * self.peak_tflops * 1e12)
        figures["peak_memory_gib"] = _peak_memory(self.device) / 2**30
        for name, above, listed in zip(self.retrievers, *fooled, strict=True):
            if listed:
                figures[f"fooled_by_{name}"] = above / listed
        return {name: round(value, 6) for name, value in figures.items()}


def training_flops(model: torch.nn.Module, lengths: torch.Tensor) -> float:
    """FLOPs of forward and backward over real tokens: 6 a weight and token, and attention's 12 layers n^2 hidden.

    Kaplan et al. 2020, table 1 (3 x forward), attention not causal. Word embeddings are looked up, not multiplied.

    Args:
        model: a transformer encoder.
        lengths: [pairs] tokens.
    """
    config: Any = getattr(model, "module", model).config
    embeddings = sum(weights.numel() for name, weights in model.named_parameters() if "embeddings" in name)
    weights = sum(weights.numel() for weights in model.parameters()) - embeddings
    lengths = lengths.double()
    attention = 12 * config.num_hidden_layers * config.hidden_size * (lengths**2).sum()
    return float(6 * weights * lengths.sum() + attention)


def _peak_of(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux
