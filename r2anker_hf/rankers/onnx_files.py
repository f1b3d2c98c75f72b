"""ONNX files of a ranker, straight from torch: where sentence-transformers, transformers.js and TEI look for them.

`onnx/model.onnx` has float32 weights. `onnx/model_quantized.onnx` has int8 ones, a quarter of the size, which
transformers.js loads by dtype "q8". Both take token ids of any number of pairs and tokens, and give logits [pairs, 1].
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from ..models.loading import load, load_tokenizer, loading
from ..models.padding_free import use_first_tokens
from ..records import InputError

FILES = {"onnx": "onnx/model.onnx", "onnx-int8": "onnx/model_quantized.onnx"}
"""What a backend reads."""
OPSET = 20  # the first with Gelu as one operator, to which onnxruntime fuses the bias
LARGEST = 2 * 10**9  # bytes of weights: one protobuf file holds less than 2 GiB
SLOWER = ["SkipLayerNormFusion"]  # onnxruntime normalises faster by itself than together with the sum before
BATCH_SIZE = 8  # pairs of full length, of which onnxruntime holds all activations at once
SAMPLE = (("a query", "a passage that is longer"), ("another", ""))  # of unlike length, so that the mask is traced


def export(folder: str | os.PathLike) -> None:
    """Write both ONNX files into a ranker's folder; equal weights give equal bytes.

    int8 weights are rounded to nearest per output channel, within seven bits, so that CPUs without VNNI do not
    overflow. Activations are rounded while the model runs.

    Raises:
        InputError: the extra `onnx` is not installed; the weights do not fit into one file; torch cannot export them.
    """
    folder = Path(folder)
    onnx, _ = packages()
    model = load(AutoModelForSequenceClassification, folder, kind="ranker", labels=1).eval()
    model.set_attn_implementation("eager")  # the mask is added once; PyTorch's own guards every score against NaN
    use_first_tokens(model)
    if sum(value.nbytes for value in model.state_dict().values()) > LARGEST:
        raise InputError(f"{folder}: weights of more than {LARGEST:,} bytes do not fit into one ONNX file")
    target = folder / FILES["onnx"]
    target.parent.mkdir(exist_ok=True)
    with loading(folder, "ranker that torch exports to ONNX"), _quiet():
        _trace(model, folder, target)
        _strip(onnx, target)
        _quantise(target, folder / FILES["onnx-int8"])
        _strip(onnx, folder / FILES["onnx-int8"])


def packages() -> tuple[Any, Any]:
    """The modules `onnx` and `onnxruntime`.

    Raises:
        InputError: they are not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; pip install 'r2anker_hf[onnx]'") from None
    return onnx, onnxruntime


class OnnxModel:
    """A ranker's ONNX file in the place of its torch model, on the CPU.

    Args:
        path: the file.
        config: of the ranker, as transformers read it.
        name: what errors call it.
    """

    def __init__(self, path: Path, config: Any, name: str):
        _, onnxruntime = packages()
        self.path, self.config, self.name_or_path, self.device = path, config, name, torch.device("cpu")
        self.dtype = torch.float32  # of its inputs' and outputs' numbers
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.enable_mem_pattern = False  # it is kept by shape, and every batch has another
        options.log_severity_level = 3  # errors
        with loading(name, f"ranker ({path.name})"):
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER
            )

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike, revision: str | None, backend: str) -> OnnxModel:
        """Of a folder or the Hub.

        Raises:
            InputError: another backend than `FILES` names, no such file, or none of onnxruntime's.
        """
        if backend not in FILES:
            raise InputError(f"backend is {backend!r}; choices: torch, {', '.join(FILES)}")
        path, config = Path(model) / FILES[backend], None
        with loading(model, "ranker"):
            if not Path(model).is_dir():
                from huggingface_hub import hf_hub_download

                path = Path(hf_hub_download(str(model), FILES[backend], revision=revision))
            config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
        if not path.is_file():
            raise InputError(f"{path}: no such file; publish.py --onnx writes it")
        return cls(path, config, str(model))

    def __call__(self, **inputs: torch.Tensor) -> SimpleNamespace:
        """`logits`, [pairs, 1], of token ids [pairs, tokens]; what the file takes and nobody gave is zero."""
        tokens = {name: value.numpy() for name, value in inputs.items()}
        zeros = np.zeros_like(tokens["input_ids"])
        given = {one.name: tokens.get(one.name, zeros) for one in self.session.get_inputs()}
        return SimpleNamespace(logits=torch.from_numpy(self.session.run(["logits"], given)[0]))

    def eval(self) -> OnnxModel:
        """Itself: it does nothing else."""
        return self

    def named_modules(self) -> tuple:
        """None: its configuration says how many positions it has."""
        return ()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The file's bytes, by which a fingerprint knows it."""
        return {self.path.name: torch.from_numpy(np.fromfile(self.path, np.uint8))}


class _Logits(torch.nn.Module):
    """A classifier that takes tensors by place and gives its logits only, as an ONNX graph does."""

    def __init__(self, model: torch.nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, tensors, strict=True))).logits


def _trace(model: torch.nn.Module, folder: Path, target: Path) -> None:
    queries, passages = map(list, zip(*SAMPLE, strict=True))
    inputs: Mapping[str, torch.Tensor] = load_tokenizer(folder, None, "ranker")(
        queries, passages, padding=True, return_tensors="pt"
    )
    axes = {0: torch.export.Dim("batch_size"), 1: torch.export.Dim("sequence_length")}
    torch.onnx.export(
        _Logits(model, tuple(inputs)).eval(),
        tuple(inputs.values()),
        str(target),
        input_names=list(inputs),
        output_names=["logits"],
        dynamic_shapes=(tuple(axes for _ in inputs),),
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _quantise(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say of packages for images, and of their own functions."""
    logs = [logging.getLogger(name) for name in (None, "torch.onnx")]
    levels = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _strip(onnx: Any, path: Path) -> None:
    """Leave out what exporters note down: the source lines that a node came from, and their places."""
    model = onnx.load(path)
    for one in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.functions):
        one.ClearField("doc_string")
        del one.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.initializer):
        value.ClearField("doc_string")
        del value.metadata_props[:]
    onnx.save(model, path)
