"""How long a ranker takes for 100 passages, on a CPU with a name."""

from __future__ import annotations

import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from ..fingerprints import fingerprint
from ..rankers.onnx_files import FILES
from ..rankers.ranker import CrossEncoderRanker
from .golden import PAIRS

PASSAGES = 100
REPEATS = 3  # of which the median counts


def latency(folder: Path, kept: Path) -> dict[str, Any]:
    """Seconds per 100 passages of full length, by torch in float32 and by each ONNX file of a ranker's folder.

    They are measured once per model and CPU and kept in a file, so that preparing it again gives equal bytes.

    Args:
        folder: the prepared ranker.
        kept: JSON file of what was measured before.

    Returns:
        `cpu` and `threads`, `passages` and `tokens` per pair, and `seconds` by backend.
    """
    backends = ["torch", *(backend for backend, name in FILES.items() if (folder / name).exists())]
    ranker = CrossEncoderRanker.from_pretrained(folder, device="cpu")
    facts = {"cpu": cpu_name(), "threads": torch.get_num_threads(), "passages": PASSAGES, "tokens": ranker.max_length}
    key = fingerprint(ranker.fingerprint(), backends, facts)
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if known.get("of") != key:
        known = {"of": key, "seconds": {backend: _seconds(folder, backend) for backend in backends}}
        kept.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return {**facts, "seconds": known["seconds"]}


def cpu_name() -> str:
    """What the processor calls itself."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _seconds(folder: Path, backend: str) -> float:
    """The median over repeats."""
    ranker = CrossEncoderRanker.from_pretrained(folder, device="cpu", backend=backend, max_windows=1)
    query, passage = max(PAIRS, key=lambda pair: len(pair[1]))
    words = passage.split() * (1 + 2 * ranker.max_length // len(passage.split()))
    pairs = [(query, " ".join([*words[place:], *words[:place]])) for place in range(PASSAGES)]
    ranker.score(pairs[:8])  # warms up
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        ranker.score(pairs)
        taken.append(time.perf_counter() - started)
    return float(f"{statistics.median(taken):.3g}")
