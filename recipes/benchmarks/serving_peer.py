"""sentence-transformers' CrossEncoder behind a pipe, for serving.py.

It is run by an interpreter that need not have this package: the backends ONNX and OpenVINO need optimum, which refuses
the transformers that this package needs. Calls come as lines of JSON, and so do answers. Seconds are taken here, so
that the pipe costs none.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
from sentence_transformers import CrossEncoder

Clock = Callable[[], float]
FILES = {"onnx": "onnx/model.onnx", "openvino": "openvino/openvino_model.xml"}
CALIBRATION = "calibration"  # folder with a CSV file: texts by which OpenVINO's int8 is calibrated


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    sides: dict[str, tuple[CrossEncoder, Clock]] = {}
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), sides)), file=answers, flush=True)


def answer(call: dict[str, Any], sides: dict[str, tuple[CrossEncoder, Clock]]) -> dict[str, Any]:
    """Loads a side, or takes the seconds of `rank` or `predict`, by what the call holds beside the side's name.

    Args:
        call: `folder`, `threads` and `cpu_time`, or `batch_size` and either `query` and `documents`, or `pairs`.
        sides: those that are loaded, which this function adds to.

    Returns:
        `version`; or `seconds` and `scores`, in the order of documents or pairs.
    """
    name = call["side"]
    if "folder" in call:
        model = load(name, Path(call["folder"]), call["threads"])
        sides[name] = model, time.process_time if call["cpu_time"] else time.perf_counter
        return {"version": sentence_transformers.__version__, "precision": precision(model)}
    model, clock = sides[name]
    size = {"batch_size": call["batch_size"], "show_progress_bar": False}
    started = clock()
    if "pairs" in call:
        scores = model.predict([tuple(pair) for pair in call["pairs"]], **size)
        return {"seconds": clock() - started, "scores": scores.tolist()}
    ranked = model.rank(call["query"], call["documents"], **size)
    seconds = clock() - started
    scores = {one["corpus_id"]: float(one["score"]) for one in ranked}
    return {"seconds": seconds, "scores": [scores[place] for place in range(len(scores))]}


def load(side: str, folder: Path, threads: int) -> CrossEncoder:
    """A side on the CPU; files of its backend are exported at their first use, and stay in the folder.

    Args:
        side: `torch-float32`, `torch-bfloat16`, `onnx`, `onnx-int8`, `openvino` or `openvino-int8`.
        folder: of a ranker.
        threads: of a forward pass.
    """
    torch.set_num_threads(threads)
    backend, _, kind = side.partition("-")
    if backend == "torch":
        return CrossEncoder(str(folder), device="cpu", model_kwargs={"torch_dtype": getattr(torch, kind)})
    if not (folder / FILES[backend]).exists():
        opened(folder, backend, threads).save_pretrained(str(folder))
    name = FILES[backend]
    if kind == "int8":
        name = {"onnx": onnx_int8, "openvino": openvino_int8}[backend](folder, threads)
    return opened(folder, backend, threads, name)


def opened(folder: Path, backend: str, threads: int, name: str | None = None) -> CrossEncoder:
    """A file of a backend; without a name the weights, exported."""
    if backend == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        settings = {"session_options": options, "provider": "CPUExecutionProvider"}
    else:
        settings = {"ov_config": {"INFERENCE_NUM_THREADS": str(threads)}}
    settings |= {"file_name": name} if name else {"export": True}
    return CrossEncoder(str(folder), device="cpu", backend=backend, model_kwargs=settings)


def onnx_int8(folder: Path, threads: int) -> str:
    """The file of the library's own helper for CPUs with AVX512 VNNI."""
    from sentence_transformers import export_dynamic_quantized_onnx_model

    name = "onnx/model_qint8_avx512_vnni.onnx"
    if not (folder / name).exists():
        model = opened(folder, "onnx", threads, FILES["onnx"])
        export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(folder))
    return name


def openvino_int8(folder: Path, threads: int) -> str:
    """The file of the library's own helper, calibrated on the texts that lie in the folder."""
    from sentence_transformers import export_static_quantized_openvino_model

    name = "openvino/openvino_model_qint8_quantized.xml"
    if not (folder / name).exists():
        model = opened(folder, "openvino", threads, FILES["openvino"])
        texts = {"dataset_name": str(folder / CALIBRATION), "dataset_config_name": "default"}
        export_static_quantized_openvino_model(
            model, None, str(folder), **texts, dataset_split="train", column_name="text"
        )
    return name


def precision(model: CrossEncoder) -> str:
    """Of OpenVINO, which takes bfloat16 for float32 weights on CPUs that multiply in it."""
    request = getattr(model.model, "request", None)
    return str(request.get_property("INFERENCE_PRECISION_HINT")) if request else ""


if __name__ == "__main__":
    main()
