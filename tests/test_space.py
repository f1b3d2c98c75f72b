"""Protects Spaces: the page ranks as the package does, in a real browser, and nothing local or unlicensed goes out."""

import json
import re
from urllib.parse import unquote

import pytest
import yaml
from browser import needs_browser, seen_at, served
from hub_server import Hub
from published_toy import recipe, write_collection
from test_publish_recipe import hub  # noqa: F401
from transformers import AutoTokenizer

from r2anker_hf.collection.collection import load_collection
from r2anker_hf.config import parse_config
from r2anker_hf.evaluation.evaluation import evaluate
from r2anker_hf.evaluation.report import Texts, write_report
from r2anker_hf.publishing import space
from r2anker_hf.publishing.space import SCRIPTS, WEIGHTS, searched, write_space
from r2anker_hf.rankers.collator import PairEncoder
from r2anker_hf.records import InputError
from r2anker_hf.retrievers.bm25 import BM25Retriever
from r2anker_hf.retrievers.lucene import analyze
from r2anker_hf.run import Run
from r2anker_hf.templates import template_folder

# transformers.js as far as the page uses it: it notes what it is asked for, and a passage's score is the number of
# its tokens, so that the longest one comes first.
LIBRARY = """
export const env = {};
const note = (name, value) => document.body.setAttribute(name, JSON.stringify(value));
export class Tensor { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } }
const ids = text => text.split(/\\s+/).map((_, place) => place + 10);
export const AutoTokenizer = { async from_pretrained(name, options) {
  note("data-tokenizer", [env.remoteHost, name, options.revision]);
  const tokenizer = (text, { text_pair, add_special_tokens = true }) => add_special_tokens
    ? { input_ids: [1, ...ids(text), 2, ...ids(text_pair), 2], token_type_ids: [0, 0, 0, 1, 1] }
    : { input_ids: ids(text) };
  return tokenizer;
} };
export const AutoModelForSequenceClassification = { async from_pretrained(name, options) {
  note("data-model", [name, options.revision, options.dtype, options.device]);
  options.progress_callback({ status: "progress", file: "onnx/model_quantized.onnx", loaded: 1e6, total: 2e6 });
  const model = async ({ input_ids }) => ({ logits: { data: [input_ids.dims[1]] } });
  return Object.assign(model, { config: { r2anker: { max_length: 64, max_query_length: null } } });
} };
"""
MARKUP = '<img src=x onerror="document.title=1"> </script><b>bold</b>'


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A small collection, one of whose passages is full of markup."""
    folder = tmp_path_factory.mktemp("toy") / "collection"
    write_collection(folder)
    with open(folder / "corpus.jsonl", "a") as file:
        file.write(json.dumps({"_id": "evil", "title": "", "text": f"the river function {MARKUP} " + "long " * 30}))
    return load_collection(folder, "test")


def search(collection, **options):
    about = {"ranker": "me/ranker", "revision": "c" * 40, "hub": "https://huggingface.co", "licence": "mit"}
    return searched(collection, **{**about, **options})


def run_scripts(folder, script):
    """What a module beside the page's scripts returns, as JSON."""
    folder.mkdir(exist_ok=True)
    for name in SCRIPTS:
        (folder / name).write_bytes((template_folder() / name).read_bytes())
    body = f"{script}\ndocument.body.textContent = encodeURIComponent(JSON.stringify(result));"
    (folder / "index.html").write_text(f'<meta charset="utf-8"><body></body><script type="module">{body}</script>')
    with served(folder) as address:
        shown = seen_at(f"{address}/index.html", folder.parent)
    return json.loads(unquote(re.search(r"<body>([^<]+)</body>", shown)[1]))


@needs_browser
def test_bm25_of_the_page_ranks_as_the_package_does(tmp_path):
    collection = load_collection("apidocs", "test", passages=300, test=30, dev=5)
    run = BM25Retriever.build(collection.corpus, progress=False).search(collection.queries, 10)
    odd = ["The cat's 3,000 U.S. biologies weren't O'Neill's. i.e. 1,024.5 foo_bar (a:b) x-y 's", "a" * 600]
    odd += ["Über naïve ΣΊΣΥΦΟΣ İstanbul 日本語 カタカナ ไทย привет 👍🏽 #️⃣ é́ dogs’ X＇S 10:30"]
    texts = [*odd, *collection.corpus.texts()]
    (tmp_path / "page").mkdir()
    passages = [{"id": one, "text": collection.corpus.text(one)} for one in collection.corpus.ids]
    for name, content in (("texts", texts), ("passages", passages), ("queries", list(collection.queries.values()))):
        (tmp_path / "page" / f"{name}.json").write_text(json.dumps(content))
    script = """
import { BM25, analyze } from "./bm25.js";
const [texts, passages, queries] = await Promise.all(
  ["texts", "passages", "queries"].map(async name => (await fetch(name + ".json")).json()));
const bm25 = new BM25(passages);
const found = queries.map(query => bm25.search(query, 10).map(({ place, score }) => [bm25.ids[place], score]));
const result = { terms: texts.map(analyze), found };
"""
    told = run_scripts(tmp_path / "page", script)
    assert told["terms"] == [analyze(text) for text in texts]
    for query_id, found in zip(collection.queries, told["found"], strict=True):
        assert [doc_id for doc_id, _ in found] == [document.doc_id for document in run[query_id]]
        assert [score for _, score in found] == pytest.approx([one.score for one in run[query_id]], rel=1e-5)


@needs_browser
def test_the_page_reads_pairs_as_the_package_does(tiny_model, tmp_path):
    """Its tokenizer here is a table of what the real one says; the cuts and windows are the page's own."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    words = "the list is a class of files and the function returns a value".split()
    texts = [" ".join((words * 9)[:size]) for size in (1, 3, 7, 20, 60)]
    limits = [{"max_length": 16}, {"max_length": 17, "max_windows": 3}, {"max_length": 40, "max_query_length": 2}]
    pairs = [(query, passage) for query in texts for passage in texts]
    table = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in [*texts, "a"]}
    probe = tokenizer("a", "a", return_token_type_ids=True)
    script = f"""
import {{ pairsOf }} from "./ranker.js";
const table = {json.dumps(table)}, probe = {json.dumps({**probe})};
const tokenizer = (text, options) => options.text_pair ? probe : {{ input_ids: table[text] }};
const result = {json.dumps(limits)}.map(limit => {{
  const read = pairsOf(tokenizer, limit);
  return {json.dumps(pairs)}.map(([query, passage]) => read(query, passage));
}});
"""
    for limit, told in zip(limits, run_scripts(tmp_path / "page", script), strict=True):
        encoder = PairEncoder(tokenizer, **limit)
        for (query, passage), windows in zip(pairs, told, strict=True):
            _, lengths, inputs = encoder.windowed([query], [passage])
            for name, key in (("input_ids", "ids"), ("token_type_ids", "types")):
                expected = [row[:n].tolist() for row, n in zip(inputs[name], lengths, strict=True)]
                assert [window[key] for window in windows] == expected, (limit, query, passage)


@pytest.fixture
def page(toy, tmp_path, monkeypatch):
    """A Space whose library is the one above; a function that types a query and returns what the browser shows."""
    monkeypatch.setattr(space, "LIBRARY", "./library.js")
    folder = tmp_path / "space"
    write_space(folder, f"Toy {MARKUP}", search=search(toy, examples=2, depth=12))
    (folder / "library.js").write_text(LIBRARY)
    index = (folder / "index.html").read_text()

    def ask(query):
        typed = f"""await new Promise(done => {{ const wait = () => document.getElementById("go").disabled
          ? setTimeout(wait, 20) : done(); wait(); }});
        const query = {json.dumps(query)};
        if (typeof query === "number") document.querySelectorAll("button.example")[query].click();
        else {{ document.getElementById("query").value = query; document.getElementById("go").click(); }}"""
        script = f'<script type="module">{typed}</script></body>'
        (folder / "index.html").write_text(index.replace("</body>", script))
        with served(folder) as address:
            return seen_at(f"{address}/index.html", tmp_path)

    return folder, ask


def listed(shown, name):
    return re.findall(r"<li>.*?</li>", re.search(rf'<ol id="{name}">(.*?)</ol>', shown, re.DOTALL)[1], re.DOTALL)


@needs_browser
def test_a_visitor_sees_both_orders_side_by_side(page, toy):
    _, ask = page
    shown = ask(0)
    first, second = listed(shown, "first"), listed(shown, "second")
    assert len(first) == len(second) == 10 and all('class="score"' in one for one in first + second)
    assert sum("judged relevant" in one for one in first) == 1
    run = BM25Retriever.build(toy.corpus, progress=False).search(toy.queries, 12)
    query = re.search(r'class="example"[^>]*>([^<]*)<', shown)[1]
    query_id = next(query_id for query_id, text in toy.queries.items() if text == query)
    assert [re.search(r'title="(\w+)"', one)[1] for one in first] == [one.doc_id for one in run[query_id][:10]]
    assert "▲" in "".join(second) and "▲" not in "".join(first)
    assert re.search(r'id="status" role="status">BM25: [\d.]+ ms over 56 passages. Ranker: [\d.]+ s for 12', shown)
    asked = "https://huggingface.co"
    assert f'data-tokenizer="[&quot;{asked}&quot;,&quot;me/ranker&quot;,&quot;{"c" * 40}&quot;]"' in shown
    assert f'data-model="[&quot;me/ranker&quot;,&quot;{"c" * 40}&quot;,&quot;q8&quot;,&quot;wasm&quot;]"' in shown


@needs_browser
def test_markup_in_titles_and_passages_is_text(page):
    _, ask = page
    shown = ask("river function bold")
    (passage,) = [one for one in listed(shown, "second") if 'title="evil"' in one]
    assert "<b>bold" not in shown and "<img" not in shown and "&lt;img" in passage
    assert listed(shown, "second")[0] == passage  # the longest one


@needs_browser
def test_without_the_ranker_the_first_stage_stands(page):
    folder, ask = page
    (folder / "library.js").unlink()
    shown = ask("river function")
    assert "The ranker could not be used" in shown and len(listed(shown, "first")) == 10
    assert "No passage shares a word" in ask("zzz")


def test_passages_are_bounded_and_hold_what_the_examples_need(toy):
    made = search(toy, passages=9, examples=4)
    ids = [doc_id for doc_id, _ in made.passages]
    assert len(ids) == 9 and made.documents == 56 and len(made.examples) == 4
    assert {doc_id for example in made.examples for doc_id in example.relevant} <= set(ids)
    assert made == search(toy, passages=9, examples=4) != search(toy, passages=9, examples=4, seed=7)
    assert len(search(toy).passages) == 56 and made.collection == "collection"


@pytest.mark.parametrize("licence, told", [(None, "state their licence"), ("cc-by-nd-4.0", "may not be passed on")])
def test_passages_go_out_within_their_licence(toy, licence, told):
    with pytest.raises(InputError, match=told):
        search(toy, licence=licence)


@pytest.fixture
def report(toy, tmp_path):
    """A report whose collection lies at an absolute path."""
    run = Run({query_id: [(toy.corpus.ids[0], 1.0)] for query_id in toy.queries}, "bm25")
    path = tmp_path / "runs" / "run.trec"
    path.parent.mkdir()
    run.write_trec(path)
    made = evaluate(toy, [run], ["MRR@10"], run_files={"bm25": str(path)})
    write_report(made, tmp_path / "report", Texts(toy.queries, toy.corpus.text))
    return tmp_path / "report"


def test_a_report_alone_is_the_page_and_names_no_local_path(report, toy, tmp_path):
    assert toy.name in (report / "report.html").read_text()
    write_space(tmp_path / "space", "Toy", [report], licence="mit")
    files = {path.name: path.read_text() for path in (tmp_path / "space").iterdir()}
    assert set(files) == {"README.md", "index.html"} and "collection@sha256" in files["index.html"]
    assert not [name for name, text in files.items() if toy.name in text or str(tmp_path) in text]
    head = yaml.safe_load(files["README.md"].split("---")[1])
    assert (head["sdk"], head["app_file"], head["license"], head["title"]) == ("static", "index.html", "mit", "Toy")
    assert len(head["short_description"]) <= 60


def test_pages_are_linked_both_ways(report, toy, tmp_path):
    write_space(tmp_path / "space", "A & B", [report, report], search(toy))
    index = (tmp_path / "space/index.html").read_text()
    pages = re.findall(r'href="(report[-\w]*\.html)"', index)
    assert pages == ["report.html", "report-2.html"]
    for name in pages:
        assert '<a href="index.html">← A &amp; B</a>' in (tmp_path / "space" / name).read_text()
    head = yaml.safe_load((tmp_path / "space/README.md").read_text().split("---")[1])
    assert head["models"] == ["me/ranker"]


def test_a_token_in_a_page_is_refused(report, tmp_path):
    page = report / "report.html"
    page.write_text(page.read_text().replace("</main>", "hf_" + "aBcDeFgH1234" * 3 + "</main>"))
    with pytest.raises(InputError, match="index.html: holds a Hugging Face token"):
        write_space(tmp_path / "space", "Toy", [report])


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_was_made_by_hand_is_kept(report, tmp_path):
    folder = tmp_path / "space"
    (folder / ".git").mkdir(parents=True)
    for name in (".git/HEAD", "README.md", "index.html"):
        (folder / name).write_text("years of work")
    before = contents(folder)
    for pages in ([report], [tmp_path / "mistyped"]):
        with pytest.raises(InputError, match="space: holds other files; move them away, or give a new folder"):
            write_space(folder, "Toy", pages)
    assert contents(folder) == before


@pytest.mark.parametrize("name, told", [("mistyped", "mistyped: cannot be read"), ("report", "a Hugging Face token")])
def test_a_space_is_replaced_only_by_a_whole_one(name, told, report, tmp_path):
    folder = tmp_path / "space"
    write_space(folder, "First", [report, report])
    before = contents(folder)
    with pytest.raises(InputError, match=told):
        write_space(folder, "hf_" + "aBcDeFgH1234" * 3, [report, tmp_path / name])
    assert contents(folder) == before and not list(tmp_path.glob(".space*"))
    write_space(folder, "Second", [report])
    assert set(map(str, contents(folder))) == {"README.md", "index.html"}
    (folder / "notes.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds other files"):
        write_space(folder, "Third", [report])


@pytest.mark.parametrize(
    "options, told",
    [
        ({}, "needs a page or a ranker"),
        ({"ranker": "me/ranker"}, "belong together"),
        ({"pages": "nowhere"}, "nowhere: cannot be read"),
        ({"pages": "empty"}, "holds no page; choices: report.html, study.html"),
    ],
)
def test_what_cannot_be_shown_is_told_in_one_line(options, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    module = recipe("space")
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with pytest.raises(InputError, match=told) as error:
        module.main(*parse_config(module.SpaceConfig, args=["--title", "T", "--output_dir", "out", *words]))
    assert "\n" not in str(error.value)


@pytest.mark.hub
def test_one_command_writes_and_publishes_it(hub: Hub, report, toy, tmp_path, capsys):  # noqa: F811
    module = recipe("space")
    bare = hub.commit("me/bare", {"config.json": b"{}"}, kind="model")
    commit = hub.commit("me/ranker", {"config.json": b"{}", WEIGHTS: b"weights"}, kind="model")
    options = ["--title", "Toy", "--pages", str(report), "--collection", toy.name, "--licence", "mit", "--public"]
    options += ["--output_dir", str(tmp_path / "out"), "--repo_id", "me/space"]

    def run(ranker, revision):
        words = [*options, "--ranker", ranker, "--ranker_revision", revision]
        module.main(*parse_config(module.SpaceConfig, args=words))

    with pytest.raises(InputError, match=f"holds no {WEIGHTS}"):
        run("me/bare", bare)
    run("me/ranker", commit)
    folder = tmp_path / "out/space"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(files) == {"README.md", "index.html", "report.html", "passages.json", *SCRIPTS}
    assert hub.content("me/space", "space") == files and not hub.repos["space", "me/space"].private
    assert str(tmp_path).encode() not in b"".join(files.values())
    assert json.loads((tmp_path / "out/receipt.json").read_text())["repo_type"] == "space"
    capsys.readouterr()
    run("me/ranker", commit)
    assert "published before, nothing new" in capsys.readouterr().out
