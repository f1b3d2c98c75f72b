"""ONNX files of a ranker: they score as torch does, whatever the lengths, and what is edited or planted is caught."""

import json
import shutil

import numpy as np
import pytest
from test_verify import forge, replace

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from r2anker_hf.publishing import latency as latency_module  # noqa: E402
from r2anker_hf.publishing.golden import PAIRS  # noqa: E402
from r2anker_hf.publishing.latency import latency  # noqa: E402
from r2anker_hf.publishing.lint import Machine, findings  # noqa: E402
from r2anker_hf.publishing.preparing import Stated, prepare  # noqa: E402
from r2anker_hf.publishing.verify import check_folder, verify_folder  # noqa: E402
from r2anker_hf.rankers.onnx_files import FILES, export  # noqa: E402
from r2anker_hf.rankers.ranker import CrossEncoderRanker  # noqa: E402
from r2anker_hf.records import InputError  # noqa: E402


@pytest.fixture(scope="module")
def published(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    (folder / "latency.json").write_text("{}")
    stated = Stated(onnx=True, onnx_queries=10, latency=True)
    options = {"report": finished / "report", "stated": stated}
    return prepare("ranker", finished / "ranker", "me/toy", into=folder / "ranker", **options).folder


@pytest.fixture
def copy(published, tmp_path):
    return shutil.copytree(published, tmp_path / "ranker")


def test_float32_scores_as_torch_and_int8_nearly(published):
    load = CrossEncoderRanker.from_pretrained
    pairs = [*PAIRS, ("cat", ""), ("green tree", "a river and a house " * 3)]
    ours, whole, small = (load(published, device="cpu", backend=one).score(pairs) for one in ("torch", *FILES))
    assert whole == pytest.approx(ours, abs=1e-4)
    assert 0 < np.abs(small - ours).max() < 0.2 * np.ptp(ours)
    alone = load(published, backend="onnx").score([pairs[-1]])
    assert alone == pytest.approx(whole[-1:], abs=1e-4)  # padding plays no part
    assert (published / FILES["onnx-int8"]).stat().st_size < 0.6 * (published / FILES["onnx"]).stat().st_size


def test_equal_weights_give_equal_bytes(copy):
    before = [(copy / name).read_bytes() for name in FILES.values()]
    export(copy)
    assert [(copy / name).read_bytes() for name in FILES.values()] == before


def test_all_of_it_is_published_and_holds(published):
    assert check_folder(published) == []
    checked = [line.what for line in verify_folder(published, online=False)]
    assert "golden scores of the ONNX files" in checked and "README.md: every figure of int8" in checked
    card = (published / "README.md").read_text()
    assert "## What int8 costs" in card and "| nDCG@10 |" in card and "\n8 queries of the first report" in card
    seconds = json.loads((published / "provenance.json").read_text())["latency"]["seconds"]
    assert set(seconds) == {"torch", *FILES} and all(value > 0 for value in seconds.values())
    assert f"100 passages of 64 tokens take {seconds['torch']} s on" in card


def test_latency_is_measured_once_for_a_model(published, tmp_path, monkeypatch):
    first = latency(published, tmp_path / "latency.json")
    monkeypatch.setattr(latency_module, "_seconds", lambda *_: 7.0)
    assert latency(published, tmp_path / "latency.json") == first
    other = shutil.copytree(published, tmp_path / "other")
    shutil.rmtree(other / "onnx")
    assert latency(other, tmp_path / "latency.json")["seconds"] == {"torch": 7.0}


def change_weight(path):
    model = onnx.load(path)
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    tensor.raw_data = bytes(len(tensor.raw_data))
    onnx.save(model, path)


@pytest.mark.parametrize("name", FILES.values())
def test_an_edited_file_is_caught(copy, name):
    change_weight(copy / name)
    forge(copy)
    assert check_folder(copy)[0].startswith(f"{name}: golden pair 1 scores")


def test_a_figure_of_int8_edited_by_hand_is_caught(copy):
    row = next(line for line in (copy / "README.md").read_text().splitlines() if line.startswith("| MRR@10 |"))
    value = row.split(" | ")[2]
    replace(copy / "README.md", row, row.replace(f"| {value} |", "| 0.9999 |"))
    replace(copy / "publication.json", '"template_sha256": "', '"template_sha256": "0')
    forge(copy)
    assert check_folder(copy) == [f"README.md: MRR@10, int8: the card says '0.9999', not '{value}'"]


def test_without_onnxruntime_it_is_said_not_to_be_checked(copy, monkeypatch):
    monkeypatch.setattr("r2anker_hf.publishing.golden.find_spec", lambda name: None)
    lines = [str(line) for line in verify_folder(copy, online=False)]
    assert "not checked  golden scores of the ONNX files" in lines and not any("FAILS" in line for line in lines)


def planted(model):
    """(what is done to a model, what the lint says of it)"""
    node, weight = model.graph.node[0], model.graph.initializer[0]
    yield lambda: setattr(node, "doc_string", 'File "/home/ann/train.py"'), "holds a local path, '/home/ann/train.py'"
    yield lambda: setattr(node, "domain", "evil"), f"has the operator evil.{node.op_type}, for which onnxruntime"
    yield lambda: setattr(weight, "data_location", onnx.TensorProto.EXTERNAL), f"keeps the weights {weight.name!r} in"


@pytest.mark.parametrize("number", range(3))
def test_what_is_planted_is_found(published, tmp_path, number):
    model = onnx.load(published / FILES["onnx"])
    act, said = list(planted(model))[number]
    act()
    folder = tmp_path / "planted"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    found = findings(folder, Machine())
    assert len(found) == 1 and found[0].startswith(f"model.onnx: {said}")


def test_a_file_that_is_missing_or_broken_is_said(copy):
    shutil.rmtree(copy / "onnx")
    with pytest.raises(InputError, match="model.onnx: no such file; publish.py --onnx writes it"):
        CrossEncoderRanker.from_pretrained(copy, backend="onnx")
    with pytest.raises(InputError, match="backend is 'tpu'; choices: torch, onnx, onnx-int8"):
        CrossEncoderRanker.from_pretrained(copy, backend="tpu")
    (copy / "onnx").mkdir()
    (copy / FILES["onnx"]).write_bytes(b"garbage " * 9)
    with pytest.raises(InputError, match=r"cannot be loaded as a ranker \(model.onnx\)"):
        CrossEncoderRanker.from_pretrained(copy, backend="onnx")
    assert "onnx/model.onnx: is no ONNX file" in "\n".join(findings(copy, Machine()))


def test_an_onnx_ranker_is_not_saved(published, tmp_path):
    ranker = CrossEncoderRanker.from_pretrained(published, backend="onnx")
    assert ranker.fingerprint() != CrossEncoderRanker.from_pretrained(published, backend="onnx-int8").fingerprint()
    with pytest.raises(InputError, match="an ONNX file is not saved again"):
        ranker.save_pretrained(tmp_path / "saved")
