"""What a forger plants in a published folder, hashes and all, is caught by name in rankers and retrievers alike."""

import gzip
import json
import re
import shutil
from dataclasses import replace as replaced

import pytest
from huggingface_hub import ModelCard
from PIL import Image, ImageOps
from published_toy import run
from safetensors.torch import load_file, save_file

from r2anker_hf.files import sha256_file
from r2anker_hf.publishing import cards
from r2anker_hf.publishing.preparing import prepare
from r2anker_hf.publishing.verify import check_folder

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
MARKUP = "<script>alert(1)</script>|[x](javascript:y)"


@pytest.fixture(scope="module")
def published(finished, student, tmp_path_factory):
    """A measured ranker and a measured retriever that it taught, prepared."""
    into = tmp_path_factory.mktemp("published")
    prepare("ranker", finished / "ranker", "me/ranker", into=into / "ranker", report=finished / "report")
    common = {"collection": finished / "toy", "split": "test"}
    found = {"retriever": "dense", "model": student, "depth": 12, "output_dir": into / "run"}
    run("retrieve", "RetrievalConfig", **common, **found)
    runs = [f"bm25={finished / 'test' / 'bm25' / 'run.trec'}", f"student={into / 'run' / 'run.trec'}"]
    run("score", "ScoringConfig", **common, runs=runs, resamples=200, output_dir=into / "report")
    prepare("retriever", student, "me/retriever", into=into / "retriever", report=into / "report")
    return into


@pytest.fixture(params=["ranker", "retriever"])
def folder(request, published, tmp_path):
    return shutil.copytree(published / request.param, tmp_path / request.param)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def replace(path, pattern, new):
    text = path.read_text()
    assert re.search(pattern, text)
    path.write_text(re.sub(pattern, new, text, count=1))


def report(change):
    return lambda folder: edit(folder / "eval/report.json", change)


def golden(change):
    return lambda folder: edit(folder / "eval/golden.json", change)


def provenance(change):
    return lambda folder: edit(folder / "provenance.json", change)


def last_run(folder):
    return sorted((folder / "eval/runs").iterdir())[-1]


def other_run(folder):
    path = last_run(folder)
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    path.write_bytes(gzip.compress("\n".join(lines[1:]).encode()))


def endless(folder):
    """An archive of two megabytes that unpacks to two gigabytes."""
    with gzip.open(last_run(folder), "wb") as file:
        for _ in range(2000):
            file.write(bytes(1 << 20))


def other_weights(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if name.endswith("weight"))
    weights[name] = weights[name] * 1.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def other_weights_without_their_pairs(folder):
    other_weights(folder)
    golden(lambda content: content.update(pairs=[]))(folder)


def other_judgements(folder):
    path = folder / "eval/qrels.txt.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b" 1\n", b" 3\n", 1)))


def again(change):
    """Edit a file, and render the card again from what the files say then."""

    def plant(folder):
        change(folder)
        kind = json.loads((folder / "publication.json").read_text())["kind"]
        (folder / "README.md").write_text(cards.render(kind, *cards.read(folder)))

    return plant


def of_another_template(change):
    """Edit a card, and say that another version's template made it."""

    def plant(folder):
        change(folder)
        edit(folder / "publication.json", lambda content: content.update(template_sha256="0" * 64))

    return plant


def card(pattern, new):
    return lambda folder: replace(folder / "README.md", pattern, new)


def without_evidence(folder):
    """All evidence is gone, but the figures of the card have stayed."""
    for path in (folder / "eval").iterdir():
        if path.name != "golden.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    provenance(lambda content: content.update(systems=[], runs={}))(folder)


def second_entry(folder):
    """An entry before the true one, of the same name."""
    card = ModelCard.load(folder / "README.md")
    card.data.eval_results.insert(0, replaced(card.data.eval_results[0], metric_value=0.9999))
    card.save(folder / "README.md")


def leaderboard(folder):
    _, (measured, *_), _ = cards.read(folder)
    cards.write_eval_results(folder, measured.report, measured.systems, "me/benchmark#retrieval")


def value_of_a_leaderboard(folder):
    leaderboard(folder)
    replace(next((folder / ".eval_results").iterdir()), r"value: .*", "value: 0.9999")


def file_of_a_leaderboard(folder):
    leaderboard(folder)
    shutil.copy(next((folder / ".eval_results").iterdir()), folder / ".eval_results/more.yaml")


def other_picture(folder):
    path = folder / "plots/results.png"
    ImageOps.mirror(Image.open(path)).save(path)


def freer_licence(content):
    content["negatives"]["licence"], content["licence"] = "cc-by-nc-4.0", "mit"


def flipped(folder):
    content = bytearray(last_run(folder).read_bytes())
    content[10] = 0xFF  # the first byte of the compressed stream: zlib itself raises
    last_run(folder).write_bytes(content)


def written(name, content=b"\x80\x04."):
    def plant(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return plant


PLANTED = {
    "a figure of the card": (
        lambda folder: replace(folder / "README.md", r"\((this model)\) \| 0\.\d{4}", r"(\1) | 0.9999"),
        "README.md: .*MRR@10: the card says '0.9999",
    ),
    "a figure of the metadata": (
        lambda folder: replace(folder / "README.md", r"value: 0\.\d+", "value: 0.9999"),
        "model-index: .*: the card says 0.9999",
    ),
    "a sentence of the card": (
        lambda folder: replace(folder / "README.md", r"\n## ", "\nIt is the best of all.\n\n## "),
        "README.md, line .*It is the best of all",
    ),
    "markup in the card": (
        lambda folder: replace(folder / "README.md", r"\n## ", f"\n{MARKUP}\n\n## "),
        "README.md, line .*script",
    ),
    "a figure of the report": (
        report(lambda content: content["systems"][-1]["scores"]["MRR@10"].update(mean=0.99)),
        r"MRR@10 \(mean\) is stated as 0.99",
    ),
    "another name of a system": (
        report(lambda content: content["systems"][-1].update(name=MARKUP)),
        "no system is called",
    ),
    "a run of other documents": (other_run, "is not the run that eval/report.json measured"),
    "a run outside the repository": (
        report(lambda content: content["systems"][-1].update(run_file="../../../../etc/hostname")),
        r"\.\./\.\./\.\./\.\./etc/hostname: leads out of the repository",
    ),
    "judgements outside the repository": (
        lambda folder: edit(folder / "eval/judgements.json", lambda content: content.update(file="/etc/hostname")),
        "/etc/hostname: leads out of the repository",
    ),
    "an archive without end": (endless, "unpacks to more than 100 times its size"),
    "other judgements": (other_judgements, "the judgements are others than those that were used"),
    "other weights": (other_weights, "eval/golden.json: pair 1"),
    "other weights without their golden pairs": (
        other_weights_without_their_pairs,
        "eval/golden.json: holds other pairs than the 8",
    ),
    "a golden score": (
        golden(lambda content: content["pairs"][0].update(score=7.0)),
        "eval/golden.json: pair 1 .*not 7.0",
    ),
    "a text among the golden pairs": (
        golden(lambda content: content["pairs"][0].update(document=MARKUP)),
        "eval/golden.json: holds other pairs",
    ),
    "other data": (
        provenance(lambda content: content["negatives"].update(revision="sha256:" + "0" * 64)),
        "negatives: candidates mined from .*0000",
    ),
    "more queries than there were": (
        provenance(lambda content: content["negatives"]["splits"]["train"].update(queries=10**6)),
        "README.md, line",
    ),
    "a pickle": (lambda folder: (folder / "training_args.bin").write_bytes(b"x"), "training_args.bin: is a pickle"),
    "code": (lambda folder: (folder / "modeling.py").write_text("import os"), "modeling.py"),
    "a token": (
        lambda folder: edit(
            folder / "config.json",
            lambda content: content.update(note="hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ" + "abcdefgh"),
        ),
        "config.json.*token",
    ),
    "a summary without a known template": (
        of_another_template(card(r"(Quality\*\*: \S+) 0\.\d+", r"\1 0.9999")),
        "README.md: says .*0.9999",
    ),
    "a licence without a known template": (
        of_another_template(card(r"license: .*", "license: wtfpl")),
        "license is stated as wtfpl",
    ),
    "a table without evidence": (
        of_another_template(without_evidence),
        "README.md: the table with the columns system, MRR@10.* rests on no evidence",
    ),
    "metadata without evidence": (of_another_template(without_evidence), "model-index: .* was not measured"),
    "evidence less": (
        again(lambda folder: (folder / "eval/report.json").unlink()),
        "eval/report.json: is missing, but provenance.json",
    ),
    "a second entry of the metadata": (
        of_another_template(second_entry),
        r"model-index: .* MRR@10 on toy, test stands there 2 times",
    ),
    "a value for a leaderboard": (value_of_a_leaderboard, r"\.eval_results/.*: states .*0\.9999"),
    "a file for a leaderboard": (file_of_a_leaderboard, r"\.eval_results/more\.yaml: states"),
    "another picture": (other_picture, "plots/results.png: is not the picture that the figures give"),
    "a picture that nothing gives": (
        lambda folder: shutil.copy(folder / "plots/results.png", folder / "plots/more.png"),
        "plots/more.png: is not the picture",
    ),
    "another size": (
        again(provenance(lambda content: content["model"].update(parameters=10**9, bytes=10**10))),
        "model: parameters is stated as 1000000000",
    ),
    "another base model": (
        again(provenance(lambda content: content["base_model"].update(revision="sha256:" + "0" * 64))),
        "base model: .*0000 is stated, but the training recorded",
    ),
    "a freer licence": (again(provenance(freer_licence)), "licence mit: clashes with cc-by-nc-4.0"),
    "no query without a relevant document": (
        again(report(lambda content: content.update(queries_without_relevant=7))),
        "queries_without_relevant is stated as 7",
    ),
    "a deeper system": (again(report(lambda content: content["systems"][-1].update(depth=1000))), "depth is stated"),
    "ties": (again(report(lambda content: content["systems"][-1].update(tied=0.9))), "tied is stated as 0.9"),
    "a flipped byte": (flipped, "is no gzip file"),
    "a pointer in place of a picture": (
        written("plots/results.png", POINTER),
        "plots/results.png: is no PNG file",
    ),
    "a pickle in a cache": (
        written(".cache/a.pkl"),
        r"\.cache/a\.pkl: was not published.*\.cache/a\.pkl: is a pickle",
    ),
    "a pickle among what a download leaves": (written(".cache/huggingface/download/a.pkl"), r"a\.pkl: is a pickle"),
    "a pickle beside the Hub's attributes": (written(".gitattributes.pt"), r"\.gitattributes\.pt: is a pickle"),
    "code beside the Hub's attributes": (
        written(".gitattributes_modeling.py", b"import os"),
        r"\.gitattributes_modeling\.py: was not published with the rest",
    ),
    "a file more": (lambda folder: (folder / "eval/more.txt").write_text("x"), "eval/more.txt"),
    "a file less": (lambda folder: last_run(folder).unlink(), "is missing|no such file"),
}


def forge(folder):
    """publication.json with the hashes of the files as they are now; what is gone stays in it."""
    content = json.loads((folder / "publication.json").read_text())
    for name, facts in content["files"].items():
        if (folder / name).exists():
            facts["sha256"] = sha256_file(folder / name)
    (folder / "publication.json").write_text(json.dumps(content))


@pytest.mark.parametrize("what", PLANTED)
def test_what_is_planted_is_caught_and_named(what, folder):
    plant, named = PLANTED[what]
    plant(folder)
    forge(folder)
    failures = check_folder(folder)
    assert re.search(named, "\n".join(failures), re.DOTALL), failures


def test_nothing_is_caught_where_nothing_was_planted(folder):
    forge(folder)
    assert check_folder(folder) == []
