"""A toy pre-training that tests run in this process, in two processes, and with a break: python pretrain_toy.py ..."""

import json
import sys
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

from r2anker_hf.models.tokens import Tokens
from r2anker_hf.retrievers.pretraining import (
    BottleneckModel,
    PassageCollator,
    Passages,
    PretrainingConfig,
    PretrainingTrainer,
    load_encoder,
)

WORDS = "cat dog bird fish tree river stone house bread water".split()


def passages(count: int = 24) -> list[str]:
    """Texts of uneven length, and an empty one."""
    texts = [" ".join(WORDS[(n * step) % 10] for step in range(1, 4 + n % 5)) for n in range(count)]
    return [*texts[:5], "", *texts[5:]]


def tokens(model: str) -> Tokens:
    """Their token ids, in a folder of their own."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    return Tokens.build((), passages(), tokenizer, tempfile.mkdtemp() + "/tokens", 30)


def model_of(model: str, bottleneck: str = "cls", **fresh: int) -> BottleneckModel:
    """A bottleneck model over the tiny encoder, its head and decoder included always the same."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    return BottleneckModel(load_encoder(model, fresh=fresh), tokenizer.mask_token_id, bottleneck)


def trainer(model: str, output_dir: str, **options) -> PretrainingTrainer:
    """A trainer on the toy passages whose log holds the losses of every step."""
    settings = {"learning_rate": 1e-3, "num_train_epochs": 2, "mixed_precision": "no", "use_cpu": True}
    settings |= {"logging_steps": 1, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    config = PretrainingConfig(output_dir=output_dir, **settings | options)
    tokenizer = AutoTokenizer.from_pretrained(model)
    dataset = Passages(tokens(model), config, tokenizer)
    return PretrainingTrainer(model_of(model, config.bottleneck), config, dataset, PassageCollator(tokenizer))


def losses(trained: PretrainingTrainer) -> list[float]:
    """The loss of every step."""
    return [entry["loss"] for entry in trained.state.log_history if "loss" in entry]


def gradient_norms(trained: PretrainingTrainer) -> list[float]:
    """The norm of every step's gradient, before clipping."""
    return [entry["grad_norm"] for entry in trained.state.log_history if "grad_norm" in entry]


if __name__ == "__main__":
    model, output_dir, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    trained = trainer(model, output_dir, **options)
    trained.train()
    if trained.is_world_process_zero():
        Path(output_dir, "losses.json").write_text(json.dumps(losses(trained)))
