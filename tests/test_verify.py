"""Anyone can check a published folder: what holds is said to hold, and each edit by hand is caught and named."""

import gzip
import json
import shutil
import sys

import pytest
from PIL import Image
from published_toy import recipe
from safetensors.torch import load_file, save_file

from r2anker_hf.publishing import cards
from r2anker_hf.publishing.preparing import prepare
from r2anker_hf.publishing.verify import Line, check_folder, parse_tables, verify_folder
from r2anker_hf.records import InputError
from r2anker_hf.run import Run


@pytest.fixture(scope="module")
def published(finished, tmp_path_factory):
    into = tmp_path_factory.mktemp("published")
    prepare("ranker", finished / "ranker", "me/toy", into=into / "ranker", report=finished / "report")
    prepare("negatives", finished / "negatives", "me/toy-negatives", into=into / "negatives")
    return into


@pytest.fixture
def ranker(published, tmp_path):
    return shutil.copytree(published / "ranker", tmp_path / "ranker")


@pytest.fixture
def negatives(published, tmp_path):
    return shutil.copytree(published / "negatives", tmp_path / "negatives")


def forge(folder):
    """Write the hashes of the files as they are now into publication.json, as a careful forger would."""
    from r2anker_hf.files import sha256_file

    path = folder / "publication.json"
    content = json.loads(path.read_text())
    for name, facts in content["files"].items():
        facts["sha256"] = sha256_file(folder / name)
    path.write_text(json.dumps(content))


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def failing(folder):
    return [line.what for line in verify_folder(folder, online=False) if line.failures]


def test_what_was_prepared_holds(published):
    for kind, lines in (("ranker", 8), ("negatives", 6)):
        checked = list(verify_folder(published / kind))
        assert [str(line) for line in checked if line.failures or line.failures is None] == []
        assert len(checked) == lines and check_folder(published / kind) == []


def test_a_figure_of_the_card_edited_by_hand_is_caught(ranker):
    table = next(table for table in parse_tables((ranker / "README.md").read_text()) if table.header[0] == "system")
    row = next(row for row in table.rows if "this model" in row[0])
    replace(ranker / "README.md", row[1], row[1].replace("0.", "0.9", 1))
    assert failing(ranker) == [
        "files: names and sha256",
        "README.md: every figure of its tables",
        "README.md: every line from report and provenance",
    ]
    forge(ranker)
    failures = check_folder(ranker)
    assert failures[0].startswith("README.md: ranker (this model), MRR@10: the card says '") and len(failures) == 2


def test_metadata_and_prose_edited_by_hand_are_caught(ranker):
    replace(ranker / "README.md", "22 judged queries", "2200 judged queries")
    forge(ranker)
    assert len(failures := check_folder(ranker)) == 1 and "2200 judged queries" in failures[0]
    text = (ranker / "README.md").read_text()
    value = text[text.index("value: ") + 7 :].split("\n")[0]
    replace(ranker / "README.md", f"value: {value}", "value: 0.9999")
    forge(ranker)
    assert "model-index: ranker" in check_folder(ranker)[0] and "the card says 0.9999, not" in check_folder(ranker)[0]


def test_another_template_leaves_the_figures_checked(ranker):
    replace(ranker / "publication.json", '"template_sha256": "', '"template_sha256": "0')
    lines = list(verify_folder(ranker, online=False))
    assert [line.what for line in lines if line.failures is None][0].startswith("README.md: every line")
    assert not any(line.failures for line in lines) and str(lines[-1]).startswith("not checked  README.md")


def test_another_template_tells_which_lines_were_not_compared(ranker, negatives):
    for folder in (ranker, negatives):
        replace(folder / "publication.json", '"template_sha256": "', '"template_sha256": "0')
        replace(folder / "README.md", "\n## Citation", "\nIt is the best of all.\n\n## Citation")
        forge(folder)
        lines = list(verify_folder(folder, online=False))
        assert not any(line.failures for line in lines)
        assert "lines unlike this version's: 1, such as 'It is the best of all.')" in str(lines[-1])
    replace(negatives / "README.md", "license: cc-by-4.0", "license: mit")
    replace(negatives / "README.md", "| bm25 |", "| bm52 |")
    forge(negatives)
    assert failing(negatives) == ["README.md: head and tables"] and len(check_folder(negatives)) == 2


def test_a_picture_that_is_only_nearly_the_same_is_not_checked(ranker):
    path = ranker / "plots/results.png"
    picture = Image.open(path)
    picture.putpixel((0, 0), (0, 0, 0, 255))
    picture.save(path)
    forge(ranker)
    lines = [line for line in verify_folder(ranker, online=False) if line.failures != []]
    assert len(lines) == 1 and str(lines[0]).startswith("not checked  plots/results.png: as another matplotlib")


def test_what_a_leaderboard_is_given_holds(ranker):
    _, (measured, *_), _ = cards.read(ranker)
    cards.write_eval_results(ranker, measured.report, measured.systems, "me/benchmark#retrieval")
    failures = check_folder(ranker)
    assert failures == [".eval_results/ranker.yaml: was not published with the rest"]


def test_a_stranger_s_text_does_not_steer_the_terminal():
    line = Line("model \x1b[2J", ["a: \x1b[8m\nholds        files: names and sha256", "\u202eb"])
    assert str(line) == (
        "FAILS        model \\x1b[2J\n    a: \\x1b[8m\\nholds        files: names and sha256\n    \\u202eb"
    )


def test_what_a_download_leaves_is_passed_over_in_a_folder_only(ranker, tmp_path):
    left = ranker / ".cache/huggingface/download/config.json.metadata"
    left.parent.mkdir(parents=True)
    left.write_text("0" * 40)
    assert check_folder(ranker) == []
    left.rename(tmp_path / "blob")
    left.symlink_to(tmp_path / "blob")  # as the Hub's cache holds the files of a repository
    failures = check_folder(ranker)
    assert len(failures) == 2 and all(failure.startswith(".cache/huggingface/download") for failure in failures)


def test_without_a_network_sources_are_not_checked(ranker, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.utils import httpx

    def answer(error):
        def repo_info(*args, **kwargs):
            raise error

        monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
        return {line.what: line.failures for line in verify_folder(ranker) if "me/negatives" in line.what}

    content = json.loads((ranker / "provenance.json").read_text())
    content["negatives"].update(name="me/negatives", revision="c" * 40)
    (ranker / "provenance.json").write_text(json.dumps(content))
    exists, figures = "dataset me/negatives at cccccccccccc exists", "provenance.json: figures of the negatives"
    assert answer(httpx.ConnectError("no network")) == {exists: None, f"{figures} me/negatives": None}
    gone = RepositoryNotFoundError("404", response=httpx.Response(404, request=httpx.Request("GET", "http://a/b")))
    assert "is not on the Hub" in answer(gone)[exists][0]


@pytest.mark.parametrize("name", ["README.md", "provenance.json", "eval/report.json", "eval/golden.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff"])
def test_a_broken_file_fails_without_a_trace(name, content, ranker):
    (ranker / name).write_bytes(content)
    assert len(check_folder(ranker)) > 1


def test_a_forged_report_and_a_forged_run_are_caught(ranker):
    report = json.loads((ranker / "eval/report.json").read_text())
    report["systems"][2]["scores"]["MRR@10"]["mean"] = 0.99
    (ranker / "eval/report.json").write_text(json.dumps(report))
    forge(ranker)
    assert "ranker: MRR@10 (mean) is stated as 0.99" in check_folder(ranker)[0]
    path = ranker / "eval/runs/ranker.trec.gz"
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress("\n".join(text.splitlines()[1:]).encode()))
    forge(ranker)
    assert "eval/runs/ranker.trec.gz: is not the run that eval/report.json measured" in check_folder(ranker)


def test_other_judgements_are_caught(ranker):
    path = ranker / "eval/qrels.txt.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b" 1\n", b" 2\n")))
    assert any("judgements are others than those that were used" in failure for failure in check_folder(ranker))


def test_other_weights_missing_and_added_files_are_caught(ranker):
    weights = load_file(ranker / "model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, ranker / "model.safetensors", metadata={"format": "pt"})
    (ranker / "plots/results.png").unlink()
    (ranker / "training_args.bin").write_bytes(b"x")
    (ranker / ".gitattributes").write_text("the Hub's own")
    failures = "\n".join(check_folder(ranker))
    for found in (
        *("model.safetensors: has another sha256", "plots/results.png: is missing", "eval/golden.json: pair 1"),
        *("training_args.bin: was not published with the rest", "training_args.bin: is a pickle"),
    ):
        assert found in failures
    assert "gitattributes" not in failures


def test_negatives_are_counted_and_audited_again(negatives):
    manifest = json.loads((negatives / "manifest.json").read_text())
    manifest["splits"]["train"]["retrievers"]["bm25"]["candidates"] += 1
    (negatives / "manifest.json").write_text(json.dumps(manifest))
    manifest["splits"]["train"]["rankings"] = {"teacher": {"candidates": 9, "queries_whose_positive_is_found": 9}}
    manifest["documents"] = 10**7
    (negatives / "manifest.json").write_text(json.dumps(manifest))
    audit = json.loads((negatives / "audit.json").read_text())
    audit["retrievers"]["dense"]["suspected"] += 1
    (negatives / "audit.json").write_text(json.dumps(audit))
    forge(negatives)
    failures = check_folder(negatives)
    for failure, start in zip(
        failures,
        (
            *("manifest.json: 10000000 documents are stated", "manifest.json: train, teacher: (9, 9) are stated"),
            *("manifest.json: train, bm25: (", "audit.json: retrievers:", "README.md, line "),
        ),
        strict=True,
    ):
        assert failure.startswith(start)


def test_a_hub_out_of_reach_is_one_line(monkeypatch):
    import huggingface_hub
    from huggingface_hub.utils import httpx

    def unreachable(*args, **kwargs):
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", unreachable)
    with pytest.raises(InputError, match="me/ranker: cannot be downloaded: Name or service not known"):
        recipe("verify").download("me/ranker", None)


def test_the_recipe_says_what_fails_and_its_exit_code_too(ranker, capsys, monkeypatch):
    from r2anker_hf.config import run_recipe

    module = recipe("verify")
    run_recipe(module.main, args=["--folder", str(ranker)])
    assert "8 hold, 0 fail, 0 were not checked" in capsys.readouterr().out
    replace(ranker / "README.md", "## Limits and bias", "## No limits")
    with pytest.raises(SystemExit) as ended:
        run_recipe(module.main, args=["--folder", str(ranker)])
    printed = capsys.readouterr().out
    assert ended.value.code == 1 and "FAILS        files: names and sha256\n    README.md: has another" in printed
    for words in ([], ["--folder", str(ranker), "--repo_id", "me/x"], ["--folder", str(ranker / "eval")]):
        with pytest.raises(SystemExit) as ended:
            run_recipe(module.main, args=words)
        assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert sys.modules["verify"] is module


def test_a_folder_that_nobody_published_is_no_failure_but_an_error(tmp_path):
    with pytest.raises(InputError, match="publication.json: no such file; this was not published by r2anker_hf"):
        check_folder(tmp_path)


def test_evidence_gives_the_measured_values(published):
    text = gzip.decompress((published / "ranker/eval/runs/ranker.trec.gz").read_bytes())
    (published / "run.trec").write_bytes(text)
    assert len(Run.read_trec(published / "run.trec")) == 22
