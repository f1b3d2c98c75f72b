"""Model folders in every state that a download, a disk or a hand leaves them in."""

import json
import shutil
import struct
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

WEIGHTS = "model.safetensors"


def masked(tiny_model: Path, folder: Path) -> Path:
    """A masked language model with the tokenizer and sizes of the tiny ranker."""
    config = BertConfig.from_pretrained(tiny_model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        BertForMaskedLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def each_weight(folder: Path, change) -> None:
    """Write the weights anew, each as `change(name, values)` makes it."""
    weights = load_file(folder / WEIGHTS)
    save_file({name: change(name, values) for name, values in weights.items()}, folder / WEIGHTS, {"format": "pt"})


def in_bfloat16(folder: Path) -> None:
    """The checkpoint in half the bytes, and a configuration that says so."""
    each_weight(folder, lambda name, values: values.bfloat16())
    edit(folder / "config.json", dtype="bfloat16")


def unaligned(folder: Path) -> None:
    """The same weights, behind a header so long that none of them begins at a multiple of four bytes."""
    data = (folder / WEIGHTS).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + size].rstrip()
    header += b" " * (1 + -len(header) % 8)
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + data[8 + size :])


def one_value(folder: Path, value: float) -> None:
    def change(name, values):
        if name.endswith("layer.1.output.dense.weight"):
            values[3, 5] = value
        return values

    each_weight(folder, change)


def half_of(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def half_a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    half_of(folder / "pytorch_model.bin")


def a_shard_less(folder: Path) -> None:
    index = {
        "metadata": {},
        "weight_map": dict.fromkeys(load_file(folder / WEIGHTS), "model-00001-of-00002.safetensors"),
    }
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    (folder / WEIGHTS).unlink()


def more_tokens(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zebra", "zephyr"])
    tokenizer.save_pretrained(folder)


def without(folder: Path, *names: str) -> None:
    for path in [path for name in names for path in folder.glob(name)]:
        path.unlink()


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"

# What is done to a whole folder, and what every loader says of it.
BROKEN = {
    "weights are empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "model.safetensors: is empty"),
    "weights are a pointer": (lambda f: (f / WEIGHTS).write_text(POINTER), "is a Git LFS pointer.*git lfs pull"),
    "weights are cut off": (lambda f: half_of(f / WEIGHTS), "is truncated or no safetensors file"),
    "a pickle is cut off": (half_a_pickle, "pytorch_model.bin: is truncated or no PyTorch file"),
    "a shard is missing": (a_shard_less, "names model-00001-of-00002.safetensors, which is missing"),
    "no weights": (lambda f: without(f, WEIGHTS), "holds no model weights"),
    "a weight is NaN": (
        lambda f: one_value(f, float("nan")),
        "1 of 2048 values of .*dense.weight are NaN or infinite",
    ),
    "a weight is infinite": (lambda f: one_value(f, float("inf")), "are NaN or infinite"),
    "fewer layers": (lambda f: edit(f / "config.json", num_hidden_layers=3), "lack layers of config.json.*layer.2"),
    "more layers": (lambda f: edit(f / "config.json", num_hidden_layers=1), "layers that config.json lacks.*layer.1"),
    "other sizes": (lambda f: edit(f / "config.json", intermediate_size=48), "or have other sizes .*and . more"),
    "other kind": (lambda f: edit(f / "config.json", model_type="ernie"), "the weights lack layers of config.json"),
    "unknown kind": (lambda f: edit(f / "config.json", model_type="none"), "cannot be loaded as a"),
    "config is empty": (lambda f: (f / "config.json").write_text(""), "config.json: is empty"),
    "config is cut off": (lambda f: half_of(f / "config.json"), "config.json: is no JSON"),
    "config says nothing": (lambda f: (f / "config.json").write_text("{}"), "config.json: says nothing about a model"),
    "no config": (lambda f: without(f, "config.json"), "holds no config.json"),
    "no tokenizer": (lambda f: without(f, "tok*", "vocab*", "spec*"), "holds no tokenizer"),
    "no vocabulary": (lambda f: without(f, "tokenizer.json", "vocab*"), "holds no tokenizer's vocabulary"),
    "tokenizer is cut off": (lambda f: half_of(f / "tokenizer.json"), "tokenizer.json: is no JSON"),
    "tokenizer is a pointer": (lambda f: (f / "tokenizer.json").write_text(POINTER), "is a Git LFS pointer"),
    "tokenizer is another's": (more_tokens, "tokenizer has 223 tokens, but its embedding only 221"),
}
