"""What is prepared is whole, public and pinned; a stale figure, an unpinned source or a foreign run is refused."""

import gzip
import json
import re
import shutil

import pytest
import yaml
from foreign_toy import stack
from published_toy import run

from r2anker_hf.publishing.hub import PublishingError
from r2anker_hf.publishing.preparing import Stated, files_of, prepare
from r2anker_hf.publishing.sending import check_loading
from r2anker_hf.records import InputError
from r2anker_hf.run import Run
from r2anker_hf.stage import digest_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PLANTED = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ" + "abcdefgh"  # of a token's form alone


@pytest.fixture(scope="module")
def prepared(finished, tmp_path_factory):
    into = tmp_path_factory.mktemp("prepared") / "ranker"
    stated = Stated(language=["en"], watts=100, grams_per_kwh=400, benchmark="owner/bench#reranking")
    return prepare("ranker", finished / "ranker", "me/toy", into=into, report=finished / "report", stated=stated)


@pytest.fixture
def copy(finished, tmp_path):
    """The ranker and its report to change at will; their inputs stay where they are."""
    shutil.copytree(finished / "ranker", tmp_path / "ranker")
    shutil.copytree(finished / "report", tmp_path / "report")
    return tmp_path


def prepare_again(copy, measured=True, **options):
    options = {"systems": ["ranker"], **options} if measured else options
    report = copy / "report" if measured else None
    return prepare(
        "ranker", copy / "ranker", "me/toy", into=copy / "prepared", report=report, stated=Stated(**options)
    )


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_what_is_prepared(prepared):
    assert prepared.repo_type == "model" and prepared.files == files_of(prepared.folder)
    assert set(prepared.files) == {
        *("README.md", "config.json", "config_sentence_transformers.json", "model.safetensors", "tokenizer.json"),
        *("tokenizer_config.json", "provenance.json", "publication.json", "plots/results.png"),
        *("plots/negatives_agreement.png", "plots/negatives_suspects.png", "eval/golden.json", "eval/report.json"),
        *("eval/judgements.json", "eval/qrels.txt.gz", "eval/runs/bm25.trec.gz", "eval/runs/dense.trec.gz"),
        *("eval/runs/ranker.trec.gz", ".eval_results/ranker.yaml"),
    }


def test_nothing_of_this_machine_is_in_it(prepared, finished):
    for path in prepared.folder.rglob("*"):
        if path.is_file():
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            assert str(finished).encode() not in content and b"/tmp/" not in content, path


def test_evidence_is_what_was_measured(prepared, finished):
    report = json.loads((prepared.folder / "eval/report.json").read_text())
    assert report["collection"]["name"] == "toy" and report["qrels_file"] == "eval/qrels.txt.gz"
    for system in report["systems"]:
        packed = gzip.decompress((prepared.folder / system["run_file"]).read_bytes())
        assert packed == (finished / "test" / system["name"] / "run.trec").read_bytes()
    lines = gzip.decompress((prepared.folder / "eval/qrels.txt.gz").read_bytes()).decode().splitlines()
    assert len(lines) == 22 and lines[0].split()[1::2] == ["0", "1"]
    provenance = json.loads((prepared.folder / "provenance.json").read_text())
    assert provenance["systems"] == ["ranker"] and provenance["licence"] == "cc-by-4.0"
    assert (
        provenance["negatives"]["splits"]["train"]["queries"] == 33
        and "suspicious" not in provenance["negatives"]["audit"]
    )
    entry = yaml.safe_load((prepared.folder / ".eval_results/ranker.yaml").read_text())[0]
    assert entry["dataset"] == {"id": "owner/bench", "task_id": "reranking"} and "22 queries" in entry["notes"]


def test_preparing_again_gives_the_same_bytes(prepared, finished, tmp_path):
    stated = Stated(language=["en"], watts=100, grams_per_kwh=400, benchmark="owner/bench#reranking")
    options = {"report": finished / "report", "stated": stated}
    again = prepare("ranker", finished / "ranker", "me/toy", into=tmp_path / "again", **options)
    assert again.files == prepared.files


def test_other_files_of_the_source_stay_behind(copy):
    (copy / "ranker" / "notes.txt").write_text(PLANTED)
    (copy / "ranker" / "runs").mkdir()
    (copy / "ranker" / "runs" / "events").write_text("x")
    names = prepare_again(copy, measured=False).files
    assert not any("notes" in name or "events" in name or name.endswith("config.yaml") for name in names)


def test_a_planted_token_is_refused_and_nothing_is_left(copy):
    edit_json(copy / "ranker" / "config.json", lambda config: config.update(note=PLANTED))
    with pytest.raises(InputError, match="^config.json: holds a Hugging Face token$"):
        prepare_again(copy, measured=False)
    assert not (copy / "prepared").exists()


def test_a_planted_pickle_local_path_and_training_row_are_refused(copy):
    (copy / "ranker" / "optimizer.pt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"optimizer.pt: is a pickle .* remove it$"):
        prepare_again(copy, measured=False)
    (copy / "ranker" / "optimizer.pt").unlink()
    edit_json(copy / "ranker" / "config.json", lambda config: config.update(note="/home/ann/model"))
    with pytest.raises(InputError, match="^config.json: holds a local path, '/home/ann/model'$"):
        prepare_again(copy, measured=False)
    row = "Which function of the river returns the file, and not red?"
    edit_json(copy / "ranker" / "config.json", lambda config: config.update(note=row))
    with pytest.raises(InputError, match="^config.json: holds a training row, 'which function of the river"):
        prepare_again(copy, measured=False)


def test_a_stale_figure_is_refused(copy):
    def better(report):
        report["systems"][2]["scores"]["MRR@10"]["mean"] += 0.125

    edit_json(copy / "report" / "report.json", better)
    with pytest.raises(
        InputError, match=r"report.json: ranker: MRR@10 \(mean\) is stated as \S+, but runs and judgements"
    ):
        prepare_again(copy)


def test_a_run_that_changed_since_is_refused(copy, finished):
    run = Run.read_trec(finished / "test" / "ranker" / "run.trec")
    Run({q: [(d, -s) for d, s in run[q]] for q in run}).write_trec(copy / "run.trec")
    with pytest.raises(InputError, match="run.trec: has changed since .*report.json measured it; score again"):
        prepare_again(copy, runs={"ranker": str(copy / "run.trec")})


def test_a_run_of_another_model_is_refused(copy):
    edit_json(copy / "ranker" / "config.json", lambda config: config.update(layer_norm_eps=1e-5))
    with pytest.raises(InputError, match="run.trec: was made by another model than .*ranker, or files there changed"):
        prepare_again(copy)
    with pytest.raises(InputError, match=r"made none of the report's runs \(bm25, dense, ranker\)"):
        prepare_again(copy, systems=[])


@pytest.mark.parametrize(
    "what, reference, option",
    [("model", "owner/base@main", "--base_model"), ("negatives", "owner/negatives@v1", "--negatives")],
)
def test_an_unpinned_source_is_refused(what, reference, option, copy):
    edit_json(copy / "ranker" / "provenance.json", lambda record: record["inputs"].update({what: reference}))
    with pytest.raises(
        InputError, match=f"provenance.json: {reference} is not pinned to a commit; give {option} owner"
    ):
        prepare_again(copy)


def test_a_base_model_on_the_hub_is_named_with_its_commit(copy):
    card = (prepare_again(copy, base_model=f"owner/base@{COMMIT}").folder / "README.md").read_text()
    assert "base_model: owner/base\n" in card and "[owner/base](https://huggingface.co/owner/base)" in card
    with pytest.raises(InputError, match="base_model: owner/base is not pinned to a commit"):
        prepare_again(copy, base_model="owner/base")


def test_a_ranker_names_its_teacher_by_id_and_revision(finished, tiny_model, tmp_path):
    ranker, taught = stack(tiny_model, tmp_path / "others"), tmp_path / "taught"
    run("teach", "TeachingConfig", negatives=finished / "negatives", ranker=ranker, depth=5, output_dir=taught)
    options = {"negatives": taught, "model": tiny_model, "objective": "ranker", "max_steps": 1, "num_negatives": 1}
    options |= {"use_cpu": "true", "mixed_precision": "no", "report_to": "none", "output_dir": tmp_path / "ranker"}
    run("train_ranker", "RankerConfig ListwiseOptions", **options)
    by_hash = {"ranking": "teacher", "name": ranker.name, "revision": digest_of(ranker)}
    for number, (stated, expected) in enumerate(
        [(None, by_hash), (f"owner/big@{COMMIT}", {"ranking": "teacher", "name": "owner/big", "revision": COMMIT})]
    ):
        if stated:
            taught_by(taught, tmp_path / "ranker", stated)
        folder = prepare("ranker", tmp_path / "ranker", "me/toy", into=tmp_path / f"prepared{number}").folder
        record = json.loads((folder / "provenance.json").read_text())
        assert record["teachers"] == [expected] and record["stages"][-1]["settings"]["teacher_ranking"] == "teacher"
        settings = record["negatives"]["splits"]["train"]["rankings"]["teacher"]["settings"]
        assert settings["scored_by"].startswith("sentence-transformers ")
        assert f"the scores of {expected['name']} ({expected['revision'][:12]}" in (folder / "README.md").read_text()
    taught_by(taught, tmp_path / "ranker", "owner/big@main")
    with pytest.raises(InputError, match="of a ranker that is not pinned .owner/big@main.; teach with --ranker_rev"):
        prepare("ranker", tmp_path / "ranker", "me/toy", into=tmp_path / "refused")
    with pytest.raises(
        InputError, match="ranking teacher: owner/big@main is not pinned; teach with --ranker_revision"
    ):
        prepare("negatives", taught, "me/toy", into=tmp_path / "refused")


def taught_by(taught, ranker, stated):
    """Write into candidates that another ranker scored them, and into a ranker that it learned from those."""

    def change(manifest):
        manifest["splits"]["train"]["rankings"]["teacher"]["settings"]["ranker"] = stated

    edit_json(taught / "manifest.json", change)
    digest = digest_of(taught)
    edit_json(ranker / "provenance.json", lambda record: record["inputs"].update(negatives=digest))


def test_changed_negatives_and_clashing_licences_are_refused(copy, finished):
    with pytest.raises(InputError, match="licence mit: clashes with cc-by-nc-4.0"):
        negatives = shutil.copytree(finished / "negatives", copy / "negatives")
        edit_json(negatives / "manifest.json", lambda manifest: manifest.update(licence="cc-by-nc-4.0"))
        digest = digest_of(negatives)
        edit_json(copy / "ranker" / "provenance.json", lambda record: record["inputs"].update(negatives=digest))
        prepare_again(copy, negatives=str(negatives), licence="mit")
    (negatives / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="negatives: has changed since .*ranker was trained on it"):
        prepare_again(copy, negatives=str(negatives))


def test_weights_keep_the_licence_of_the_base_model(copy, tiny_model):
    base = shutil.copytree(tiny_model, copy / "base")
    (base / "README.md").write_text("---\nlicense: agpl-3.0\n---\n")
    config = yaml.safe_load((copy / "ranker/config.yaml").read_text()) | {"model": str(base)}
    (copy / "ranker/config.yaml").write_text(yaml.safe_dump(config))
    told = "licence mit: clashes with agpl-3.0, that of the base model: works made from it keep its licence"
    with pytest.raises(InputError, match=told):
        prepare_again(copy, measured=False, licence="mit")


def test_judgements_by_reference_need_a_pinned_collection(copy):
    with pytest.raises(InputError, match="reference needs a collection on the Hub at a commit, but it is toy@sha256"):
        prepare_again(copy, judgements="reference")
    prepared = prepare_again(copy, judgements="reference", collection=f"owner/toy@{COMMIT}")
    assert "eval/qrels.txt.gz" not in prepared.files
    stated = json.loads((prepared.folder / "eval/judgements.json").read_text())
    assert stated["collection"] == f"owner/toy@{COMMIT}" and stated["file"] is None and len(stated["sha256"]) == 64


def test_negatives_are_what_their_manifest_lists(finished, tmp_path):
    prepared = prepare("negatives", finished / "negatives", "me/toy-negatives", into=tmp_path / "n")
    listed = json.loads((tmp_path / "n" / "manifest.json").read_text())["files"]
    made = {"README.md", "manifest.json", "audit.json", "provenance.json", "publication.json"}
    made |= {f"plots/{name}.png" for name in ("agreement", "overlap", "positives", "suspects")}
    assert set(prepared.files) == {*listed, *made} and prepared.repo_type == "dataset"
    with pytest.raises(InputError, match="licence mit: clashes with cc-by-sa-4.0"):
        path = shutil.copytree(finished / "negatives", tmp_path / "sa")
        edit_json(path / "manifest.json", lambda manifest: manifest.update(licence="cc-by-sa-4.0"))
        prepare("negatives", path, "me/x", into=tmp_path / "x", stated=Stated(licence="mit"))


def test_negatives_that_changed_or_are_unpinned_are_refused(finished, tmp_path):
    path = shutil.copytree(finished / "negatives", tmp_path / "negatives")
    edit_json(path / "manifest.json", lambda manifest: manifest["collection"].update(revision="main"))
    with pytest.raises(InputError, match="manifest.json: collection at main is not pinned to a commit"):
        prepare("negatives", path, "me/x", into=tmp_path / "x")
    shard = next((path / "candidates").iterdir())
    shard.write_bytes(shard.read_bytes() + b" ")
    edit_json(path / "manifest.json", lambda manifest: manifest["collection"].update(revision=COMMIT))
    with pytest.raises(InputError, match="parquet: is not the file that manifest.json lists; mine again"):
        prepare("negatives", path, "me/x", into=tmp_path / "x")


def called(folder, split):
    """Candidates whose split is called so."""
    edit_json(folder / "manifest.json", lambda content: content["splits"].update({split: content["splits"]["train"]}))
    edit_json(folder / "manifest.json", lambda content: content["splits"].pop("train"))


@pytest.mark.parametrize("split, better", [("zh-CN.test", "zh_CN_test"), ("dev-small", "dev_small"), ("a..b", "a_b")])
def test_a_split_that_datasets_cannot_load_is_refused_before_it_is_sent(split, better, finished, tmp_path):
    path = shutil.copytree(finished / "negatives", tmp_path / "negatives")
    called(path, split)
    told = f"datasets loads no split called {split!r}; in a copy of the collection, call its judgements {better}, say"
    with pytest.raises(InputError, match=re.escape(told)):
        prepare("negatives", path, "me/x", into=tmp_path / "x")


def test_what_datasets_does_not_load_is_told_in_one_line(finished, tmp_path):
    folder = prepare("negatives", finished / "negatives", "me/x", into=tmp_path / "x").folder
    check_loading(folder)
    card = folder / "README.md"
    card.write_text(card.read_text().replace("split: train", "split: zh-CN"))
    called(folder, "zh-CN")
    with pytest.raises(PublishingError, match="^zh-CN: datasets does not load what README.md says: .*") as told:
        check_loading(folder)
    assert "\n" not in str(told.value)


def test_arguments_that_make_no_sense(finished, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for arguments, into, reason in (
        (("model", finished / "ranker", "me/x"), "a", "kind is 'model'; choices: ranker, negatives, retriever"),
        (("ranker", finished / "ranker", "x"), "a", "repo_id is 'x', but a repository is called owner/name"),
        (("ranker", finished / "nowhere", "me/x"), "a", "nowhere: no such folder"),
        (("ranker", finished / "toy", "me/x"), "a", "provenance.json: no such file; give the folder that a recipe"),
        (("ranker", finished / "ranker", "me/x"), ".", "holds other files; give a new folder"),
    ):
        with pytest.raises(InputError, match=reason):
            prepare(*arguments, into=tmp_path / into)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    with pytest.raises(InputError, match="benchmark is 'owner/bench', but is written owner/name#task_id"):
        Stated(benchmark="owner/bench")
