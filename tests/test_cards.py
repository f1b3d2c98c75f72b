"""A card says what its files say: metadata that the Hub reads, tables from the report, snippets that run."""

import json
import re

import pytest
from huggingface_hub import ModelCard
from published_toy import run

from r2anker_hf.collection.collection import load_collection
from r2anker_hf.evaluation.report import read_report
from r2anker_hf.publishing.cards import EXAMPLE
from r2anker_hf.publishing.golden import score_ranker
from r2anker_hf.publishing.preparing import Stated, prepare
from r2anker_hf.publishing.verify import check_folder
from r2anker_hf.retrievers.training import save_encoder


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    into = tmp_path_factory.mktemp("card") / "ranker"
    stated = Stated(language=["en"], licence="cc-by-4.0", watts=250.0, grams_per_kwh=400.0)
    return prepare(
        "ranker", finished / "ranker", "me/toy", into=into, report=finished / "report", stated=stated
    ).folder


@pytest.fixture(scope="module")
def card(folder):
    return (folder / "README.md").read_text()


def test_metadata_is_what_the_hub_s_widgets_read(card, folder):
    data = ModelCard(card).data
    assert (data.pipeline_tag, data.library_name, data.license) == (
        "text-ranking",
        "sentence-transformers",
        "cc-by-4.0",
    )
    assert {"cross-encoder", "reranker", "sentence-transformers"} <= set(data.tags) and data.language == ["en"]
    report = read_report(folder / "eval")
    assert data.model_name == "toy" and len(data.eval_results) == 2
    one = next(result for result in data.eval_results if result.metric_type == "mrr_at_10")
    assert one.metric_value == round(report.system("ranker").scores["MRR@10"].mean, 4)
    assert one.metric_args["queries"] == 22 and one.metric_args["first_stage"] == "bm25"
    assert (one.task_type, one.dataset_type, one.dataset_split) == ("text-ranking", "toy", "test")
    assert data.to_dict()["widget"] == [EXAMPLE]
    assert "emissions" in data.to_dict()["co2_eq_emissions"] and "datasets" not in data.to_dict()


def test_figures_are_the_report_s(card, folder):
    report = read_report(folder / "eval")
    for system in report.systems:
        for measure in report.measures:
            one = system.scores[measure]
            assert re.search(rf"{one.mean:.4f}(\*\*)? \[{one.low:.3f}, {one.high:.3f}\]", card)
    first = report.system("ranker").first_stage
    assert f"| ranker | bm25 | 10 | R@10 {first.recall:.4f} |" in card
    pair = report.comparison("MRR@10", "bm25", "ranker")
    assert f"{pair.wins} / {pair.ties} / {pair.losses} |" in card and "22 judged queries, 55 documents" in card
    assert "| ranker (this model) |" in card


def test_what_a_reader_needs_is_said(card, folder):
    audit = json.loads((folder / "provenance.json").read_text())["negatives"]["audit"]
    share = audit["retrievers"]["bm25"]["suspected"]
    assert f"| bm25 | {audit['retrievers']['bm25']['negatives']} |" in card and f"| {share} (" in card
    for said in (
        *(
            "3 per query, by the policy `union`",
            "cc-by-4.0",
            "device hours on",
            "250.0 W a device",
            "@inproceedings{zhou",
        ),
        *("at most 64 tokens", "## Limits and bias", "Split `train`, 33 queries", "r2anker verify me/toy"),
        *("top 200", "Holm-corrected", "500 resamples", "candidates mined from toy"),
    ):
        assert said in card, said
    glance = dict(re.findall(r"^- \*\*(\w+)\*\*: (.*)$", card, re.MULTILINE))
    report = read_report(folder / "eval")
    means = [report.system(name).scores["nDCG@10"].mean for name in ("ranker", "bm25")]
    assert glance["Quality"] == f"nDCG@10 {means[0]:.4f} on toy, split test (bm25 {means[1]:.4f})."
    assert glance["Size"] == f"29 thousand parameters, {(folder / 'model.safetensors').stat().st_size / 1e6:.3g} MB."
    assert (glance["Languages"], glance["Licence"]) == ("en.", "cc-by-4.0.") and "Speed" not in glance
    for path in re.findall(r"!\[[^]]*\]\(([^)]*)\)", card):
        assert (folder / path).is_file()
    assert "{{" not in card and "{%" not in card and "None" not in card and "\n\n\n\n" not in card


def test_the_card_says_that_no_fusion_was_measured(card):
    assert "It was not compared with a fusion of its first stages" in card


@pytest.fixture(scope="module")
def beside_fusions(finished, tmp_path_factory):
    """The ranker's folder with a report that also has its first stages fused, and itself with them."""
    folder = tmp_path_factory.mktemp("fusions")
    runs = {name: finished / "test" / name / "run.trec" for name in ("bm25", "dense", "ranker")}
    fused = [f"{name}={runs[name]}" for name in ("bm25", "dense")]
    run("fuse", "FusionConfig", runs=fused, weights=["bm25=0.3", "dense=0.7"], output_dir=folder / "fused")
    mixed = {"runs": [f"ranker={runs['ranker']}", *fused], "within": "ranker"}
    run("fuse", "FusionConfig", **mixed, output_dir=folder / "interpolated")
    runs |= {name: folder / name / "run.trec" for name in ("fused", "interpolated")}
    options = {"collection": finished / "toy", "measures": ["MRR@10"], "first_stages": "ranker=bm25", "resamples": 200}
    run("score", "ScoringConfig", runs=[f"{n}={p}" for n, p in runs.items()], **options, output_dir=folder / "report")
    return prepare("ranker", finished / "ranker", "me/toy", into=folder / "ranker", report=folder / "report").folder


def test_a_ranker_is_compared_with_its_fused_first_stages(beside_fusions):
    card, report = (beside_fusions / "README.md").read_text(), read_report(beside_fusions / "eval")
    assert f"| fused | {report.system('fused').scores['MRR@10'].mean:.4f}" in card.replace("**", "")
    assert "fused is fused without training: `reciprocal_rank` of bm25 (weight 0.3), dense (weight 0.7)." in card
    assert "| ranker | bm25 | MRR@10 |" in card and "| ranker | fused | MRR@10 |" in card
    assert "| ranker | interpolated |" not in card and "interpolated is fused" not in card
    assert "than fused." in card or "from fused." in card
    assert "not compared with" not in card and "its first stage and to the fused run" in card
    assert check_folder(beside_fusions) == []


def test_tables_are_whole(card):
    for block in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1 and len(block.splitlines()) > 2, block


def test_the_snippets_run_and_agree(card, folder, capsys):
    texts, *snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == 3 and all(len(snippet.splitlines()) == 3 for snippet in snippets)
    assert max(len(line) for snippet in (texts, *snippets) for line in snippet.splitlines()) < 90
    scores = score_ranker(folder, [("how do tides work", text) for text in EXAMPLE["sentences"]])
    for snippet in snippets:
        exec(compile((texts + snippet).replace("me/toy", str(folder)), "snippet", "exec"), {})
        printed = capsys.readouterr().out
        found = [float(score) for score in re.findall(r"'score': (?:np.float32\()?(-?[\d.]+(?:e-\d+)?)", printed)]
        places = [int(place) for place in re.findall(r"'corpus_id': (\d)", printed)] or [0, 1]
        assert [found[places.index(0)], found[places.index(1)]] == pytest.approx(list(scores), abs=1e-5), printed


def test_without_a_report_nothing_is_claimed(finished, tmp_path):
    plain = prepare("ranker", finished / "ranker", "me/toy", into=tmp_path / "ranker").folder
    card = (plain / "README.md").read_text()
    assert "Nothing was measured yet." in card and "model-index" not in card and not (plain / "eval/runs").exists()


def test_the_negatives_card(finished, tmp_path):
    stated = Stated(language=["en"])
    folder = prepare(
        "negatives", finished / "negatives", "me/toy-negatives", into=tmp_path / "n", stated=stated
    ).folder
    card = (folder / "README.md").read_text()
    data = ModelCard(card).data.to_dict()
    assert data["task_categories"] == ["text-ranking", "text-retrieval"] and data["license"] == "cc-by-4.0"
    for said in (
        'load_dataset("me/toy-negatives"',
        "## Audit",
        "device hours",
        "r2anker verify me/toy-negatives",
        "@inproceedings",
    ):
        assert said in card, said
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    found = {}
    exec(compile(snippet.replace("me/toy-negatives", str(folder)), "snippet", "exec"), found)
    assert len(found["rows"]) == 33 == len(found["texts"]) and len(found["corpus"]) == 55


@pytest.fixture(scope="module")
def retriever(finished, tiny_model, tmp_path_factory):
    """A stage folder as train_retriever.py leaves it, without its minute of training."""
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("retriever")
    model = SentenceTransformer(str(tiny_model), device="cpu")
    save_encoder(model, folder / "D1", number=1)
    collection = load_collection(str(finished / "toy"), "train")
    record = json.loads((finished / "ranker" / "provenance.json").read_text())
    record["inputs"] = {"model": record["inputs"]["model"], "collection": f"toy@{collection.revision}"}
    (folder / "provenance.json").write_text(json.dumps(record))
    config = {"collection": str(finished / "toy"), "model": str(tiny_model), "retriever": "dense", "split": "train"}
    config |= {"revision": None, "use_titles": True, "collection_options": {}, "depth": 200, "negatives": None}
    (folder / "config.yaml").write_text(json.dumps(config))
    common = {"collection": finished / "toy", "split": "test"}
    first = {"retriever": "dense", "model": folder / "D1", "depth": 12, "output_dir": folder / "run"}
    run("retrieve", "RetrievalConfig", **common, **first)
    runs = [f"bm25={finished / 'test' / 'bm25' / 'run.trec'}", f"D1={folder / 'run' / 'run.trec'}"]
    run("score", "ScoringConfig", **common, runs=runs, resamples=200, output_dir=folder / "report")
    return folder / "D1"


def test_the_retriever_card_and_its_snippets(retriever, tmp_path, capsys):
    report = retriever.parent / "report"
    folder = prepare("retriever", retriever, "me/toy-dense", into=tmp_path / "dense", report=report).folder
    assert check_folder(folder) == []
    card = (folder / "README.md").read_text()
    assert "| D1 (this model) |" in card and "| D1 | bm25 | MRR@10 |" in card and "not hand over" not in card
    data = ModelCard(card).data
    assert {result.task_type for result in data.eval_results} == {"information-retrieval"}
    assert data.pipeline_tag == "sentence-similarity" and "dense" in data.tags
    assert "33 queries of split `train`. Negatives: BM25's top documents, down to rank 200." in card
    found = []
    texts, *snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    for snippet in snippets:
        exec(compile((texts + snippet).replace("me/toy-dense", str(folder)), "snippet", "exec"), {})
        found.append(capsys.readouterr().out)
    similarities = sorted(float(x) for x in re.findall(r"\d\.\d+", found[0]))
    assert similarities == pytest.approx(sorted(float(x) for x in re.findall(r"score=(\d\.\d+)", found[1])), abs=1e-4)
