"""Calibrated scores: the fit finds a known sigmoid, keeps every order, and an edited number is caught in public."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_toy import run as run_recipe
from published_toy import write_collection
from scipy.special import expit
from test_verify import forge, replace

from r2anker_hf.publishing.preparing import Stated, prepare
from r2anker_hf.publishing.verify import check_folder
from r2anker_hf.rankers.calibration import Calibration, calibrate, calibration_error
from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.records import InputError
from r2anker_hf.run import Run

PLAIN = Calibration(2.0, -1.0, 0.0, 0.0, 0.9, 0.5, 1.0, 1, 2, 1)


def drawn(queries, documents, slope, bias, seed=0):
    """A run of normal scores, and judgements drawn with probability sigmoid(slope * score + bias)."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(queries, documents))
    relevant = random.random(scores.shape) < expit(slope * scores + bias)
    lists = {f"q{q}": [(f"d{d}", float(scores[q, d])) for d in range(documents)] for q in range(queries)}
    qrels = {f"q{q}": {f"d{d}": int(relevant[q, d]) for d in range(documents)} for q in range(queries)}
    return Run(lists, name="drawn"), qrels


@pytest.mark.parametrize(("slope", "bias"), [(2.0, -3.0), (0.5, 0.0), (0.25, 1.0)])
def test_a_known_sigmoid_is_found(slope, bias):
    made = calibrate(*drawn(400, 100, slope, bias))
    assert 1 / made.temperature == pytest.approx(slope, rel=0.05) and made.bias == pytest.approx(bias, abs=0.05)
    assert made.expected_calibration_error < 0.01 < made.uncalibrated_error
    assert (made.queries, made.documents) == (400, 40_000)


def test_two_scores_give_the_logits_of_their_shares():
    # at score 1 three of four are relevant, at score 0 one of four: Platt's targets are 9/10 and 1/10
    lists = {f"q{q}": [(f"a{d}", 1.0) for d in range(4)] + [(f"b{d}", 0.0) for d in range(4)] for q in range(2)}
    qrels = {query_id: {"a0": 1, "a1": 2, "a2": 1, "b0": 1, "b1": 0} for query_id in lists}
    made = calibrate(Run(lists), qrels, precision=0.75)
    high, low = (share * 0.9 + (1 - share) * 0.1 for share in (0.75, 0.25))
    assert made.probabilities(np.array([1.0, 0.0])) == pytest.approx([high, low], abs=1e-5)
    # one query has four of each: its targets are 5/6 and 1/6, its shares 2/3 and 1/3, a twelfth beside the other's
    assert made.expected_calibration_error == pytest.approx(1 / 12, abs=1e-5)
    assert made.recall == 0.75 and made.probabilities(np.array([0.5]))[0] == pytest.approx(made.threshold, abs=1e-5)
    assert calibrate(Run(lists), qrels, precision=0.76).threshold is None
    whole = calibrate(Run(lists), qrels, precision=0.5)
    assert whole.recall == 1.0 and whole.threshold == pytest.approx(low, abs=1e-5)


def test_the_error_is_the_mean_gap_over_bins():
    # bins of a half: (0.1 + 0.3) against 1 relevant, (0.6 + 1.0) against 1: (0.6 + 0.6) / 4
    assert calibration_error(np.array([0.1, 0.3, 0.6, 1.0]), np.array([1, 0, 0, 1]), bins=2) == pytest.approx(0.3)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.floats(-50, 50), scale=st.floats(0.01, 100))
def test_probabilities_do_not_depend_on_where_scores_lie_or_how_wide(seed, shift, scale):
    run, qrels = drawn(20, 20, 1.5, -1.0, seed)
    moved = Run({q: [(d.doc_id, d.score * scale + shift) for d in run[q]] for q in run}, name="moved")
    one, other = calibrate(run, qrels), calibrate(moved, qrels)
    scores = np.linspace(-2, 2, 9)
    assert other.probabilities(scores * scale + shift) == pytest.approx(one.probabilities(scores), abs=2e-3)
    assert other.recall == one.recall
    assert other.expected_calibration_error == pytest.approx(one.expected_calibration_error, abs=1e-4)


def test_what_cannot_be_calibrated_is_refused():
    run, qrels = drawn(20, 20, -2.0, 0.0)
    with pytest.raises(InputError, match="drawn: relevant documents do not score higher"):
        calibrate(run, qrels)
    with pytest.raises(InputError, match="each half of the queries needs relevant and other"):
        calibrate(Run({"q0": [("d0", 1.0)]}), {"q0": {"d0": 1}})
    with pytest.raises(InputError, match="precision is 0"):
        calibrate(run, qrels, precision=0)
    with pytest.raises(InputError, match="temperature is -1"):
        Calibration.read({**vars(PLAIN), "temperature": -1}, "config.json")
    with pytest.raises(InputError, match="r2anker.calibration is not as this version"):
        Calibration.read({"scale": 1}, "config.json")


def test_a_ranker_keeps_its_calibration_and_its_order(tiny_model, tmp_path):
    ranker = CrossEncoderRanker.from_pretrained(tiny_model, device="cpu")
    with pytest.raises(InputError, match="has no calibration; publish.py --calibration fits one"):
        ranker.rank("green tree", ["a river"], calibrated=True)
    ranker.calibration = PLAIN
    ranker.save_pretrained(tmp_path / "saved")
    again = CrossEncoderRanker.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.calibration == PLAIN and again.fingerprint() == ranker.fingerprint()
    documents = ["a river", "the green tree", "house of stone", "a river", "", "cat and dog"]
    plain, probable = (again.rank("green tree", documents, calibrated=value) for value in (False, True))
    assert [one["corpus_id"] for one in plain] == [one["corpus_id"] for one in probable]
    for one, other in zip(plain, probable, strict=True):
        assert other["score"] == pytest.approx(1 / (1 + np.exp(1 - one["score"] / 2)), rel=1e-6)
    found = again.predict([("green tree", text) for text in documents], calibrated=True)
    assert [found[one["corpus_id"]] for one in probable] == pytest.approx([one["score"] for one in probable])
    assert again.predict(("green tree", "a river"), calibrated=True) == pytest.approx(float(found[0]))
    with pytest.raises(InputError, match="give one of them"):
        again.predict([("a", "b")], calibrated=True, activation_fn=abs)


@pytest.fixture(scope="module")
def published(finished, tmp_path_factory):
    """The toy ranker, calibrated on what it made of training queries."""
    folder = tmp_path_factory.mktemp("calibrated")
    options = {"collection": finished / "toy", "split": "train", "first_stage": finished / "train/bm25/run.trec"}
    run_recipe("rerank", "RerankingConfig", ranker=finished / "ranker", **options, output_dir=folder / "dev")
    stated = Stated(calibration=str(folder / "dev"), precision=0.2)
    return prepare("ranker", finished / "ranker", "me/toy", into=folder / "ranker", stated=stated).folder


def test_a_published_calibration_holds_and_is_loaded(published):
    assert check_folder(published) == []
    made = CrossEncoderRanker.from_pretrained(published, device="cpu").calibration
    card = (published / "README.md").read_text()
    assert f"sigmoid(score / {made.temperature}" in card and f"| {made.expected_calibration_error:.4f} |" in card
    assert f"{made.documents:,} passages" in card and "Scores are no probabilities" not in card


@pytest.mark.parametrize("name", ["temperature", "bias", "expected_calibration_error", "threshold", "precision"])
def test_an_edited_number_is_caught(published, tmp_path, name):
    folder = shutil.copytree(published, tmp_path / "ranker")
    config = json.loads((folder / "config.json").read_text())
    config["r2anker"]["calibration"][name] = (config["r2anker"]["calibration"][name] or 0.5) * 1.01
    (folder / "config.json").write_text(json.dumps(config))
    forge(folder)
    failures = check_folder(folder)
    wanted = "provenance.json: calibration: precision" if name == "precision" else f"config.json: calibration: {name}"
    assert any(wanted in line for line in failures), failures


def test_a_number_edited_in_the_card_or_left_out_of_the_config_is_caught(published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "ranker")
    replace(folder / "README.md", "sigmoid(score / ", "sigmoid(score / 2")
    config = json.loads((folder / "config.json").read_text())
    del config["r2anker"]["calibration"]
    (folder / "config.json").write_text(json.dumps(config))
    forge(folder)
    failures = "\n".join(check_folder(folder))
    assert "config.json: states no calibration" in failures and "README.md, line" in failures


def test_the_card_s_table_is_compared_without_its_template_too(published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "ranker")
    made = CrossEncoderRanker.from_pretrained(published, device="cpu").calibration
    replace(folder / "README.md", f"| {made.temperature:.4f} |", "| 7.0000 |")
    replace(folder / "publication.json", '"template_sha256": "', '"template_sha256": "0')
    forge(folder)
    assert check_folder(folder) == [
        f"README.md: {made.temperature:.4f}, temperature: the card says '7.0000', not '{made.temperature:.4f}'"
    ]


def test_a_reranking_of_another_ranker_or_limit_is_refused(finished, tmp_path):
    write_collection(tmp_path / "toy")
    folder = shutil.copytree(finished / "test" / "ranker", tmp_path / "run")
    record = json.loads((folder / "provenance.json").read_text())
    record["inputs"]["ranker"] = "sha256:" + 64 * "0"
    (folder / "provenance.json").write_text(json.dumps(record))
    stated = Stated(calibration=str(folder))
    with pytest.raises(InputError, match="was made by another ranker"):
        prepare("ranker", finished / "ranker", "me/toy", into=tmp_path / "prepared", stated=stated)
    assert not (tmp_path / "prepared").exists()
