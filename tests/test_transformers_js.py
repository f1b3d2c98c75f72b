"""Protects rankers in JavaScript: the real transformers.js scores as we do, in Node.js and on the Space's page."""

import json
import re
import shutil
import subprocess

import pytest
from browser import needs_browser, seen_at, served
from published_toy import write_collection

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from r2anker_hf.collection.collection import load_collection  # noqa: E402
from r2anker_hf.publishing import space  # noqa: E402
from r2anker_hf.publishing.golden import PAIRS  # noqa: E402
from r2anker_hf.publishing.space import LIBRARY, searched, write_space  # noqa: E402
from r2anker_hf.rankers.onnx_files import export  # noqa: E402
from r2anker_hf.rankers.ranker import CrossEncoderRanker  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("npm") is None, reason="Node.js is not installed"),
]
COMMIT = "c" * 40
# by itself, the library cuts off a long pair's last special token, and takes an empty passage for none
SHORT = [pair for pair in PAIRS if 0 < len(pair[1]) < 300]
IN_NODE = """
import { AutoModelForSequenceClassification, AutoTokenizer, env } from "@huggingface/transformers";
Object.assign(env, { localModelPath: "./", allowRemoteModels: false });
const tokenizer = await AutoTokenizer.from_pretrained("ranker");
const model = await AutoModelForSequenceClassification.from_pretrained("ranker", { dtype: process.argv[2] });
const scores = [];
for (const [query, passage] of JSON.parse(process.argv[3]))
  scores.push((await model(tokenizer(query, { text_pair: passage }))).logits.data[0]);
console.log(JSON.stringify(scores));
"""
IN_BROWSER = """
export * from "./transformers.min.js";
import { env } from "./transformers.min.js";
Object.assign(env.backends.onnx.wasm, { wasmPaths: new URL("./ort/", import.meta.url).href, numThreads: 1 });
Object.assign(env, { useBrowserCache: false, useWasmCache: false });
"""
FIRST_EXAMPLE = """
const until = async holds => { while (!holds()) await new Promise(done => setTimeout(done, 20)); };
const element = id => document.getElementById(id);
await until(() => !element("go").disabled);
document.querySelector("button.example").click();
await until(() => /Ranker: |could not/.test(element("status").textContent));
await fetch("/release");
"""


@pytest.fixture(scope="module")
def ranker(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "ranker"
    CrossEncoderRanker.from_pretrained(tiny_model).save_pretrained(folder)
    export(folder)
    return folder


@pytest.fixture(scope="module")
def packages(ranker):
    """node_modules with the version that a Space loads, beside the ranker."""
    named = LIBRARY.partition("/npm/")[2]
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", named]
    done = subprocess.run(install, cwd=ranker.parent, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"npm could not fetch {named}")
    return ranker.parent / "node_modules"


@pytest.mark.parametrize("dtype, backend, within", [("fp32", "onnx", 1e-4), ("q8", "onnx-int8", 0.05)])
def test_node_scores_as_we_do(ranker, packages, dtype, backend, within):
    ours = CrossEncoderRanker.from_pretrained(ranker, backend=backend)
    expected = [float(ours.score([pair])[0]) for pair in SHORT]  # int8 rounds by batch, so one by one
    (ranker.parent / "score.mjs").write_text(IN_NODE)
    command = ["node", "score.mjs", dtype, json.dumps(SHORT)]
    done = subprocess.run(command, cwd=ranker.parent, capture_output=True, text=True, timeout=300, check=True)
    spread = max(expected) - min(expected)
    assert json.loads(done.stdout) == pytest.approx(expected, abs=within * spread)


@needs_browser
def test_the_space_ranks_in_a_browser_as_we_do(ranker, packages, tmp_path, monkeypatch):
    monkeypatch.setattr(space, "LIBRARY", "./library.js")
    write_collection(tmp_path / "toy")
    collection = load_collection(tmp_path / "toy", "test")
    folder = tmp_path / "space"
    folder.mkdir()
    with served(folder) as address:
        chosen = {"ranker": "me/ranker", "revision": COMMIT, "hub": address, "licence": "mit", "examples": 1}
        search = searched(collection, **chosen, depth=10)
        write_space(folder, "Toy", search=search)
        (folder / "library.js").write_text(IN_BROWSER)
        shutil.copy(packages / "@huggingface/transformers/dist/transformers.min.js", folder)
        shutil.copytree(packages / "onnxruntime-web/dist", folder / "ort")
        for revision in (COMMIT, "main"):  # the library looks for the tokenizer at main, too
            shutil.copytree(ranker, folder / "me/ranker/resolve" / revision)
        page = folder / "index.html"
        script = f'<img src="/hold" alt=""><script type="module">{FIRST_EXAMPLE}</script></body>'
        page.write_text(page.read_text().replace("</body>", script))
        shown = seen_at(f"{address}/index.html", tmp_path, held=True)
    assert "Ranker: " in re.search(r'id="status"[^<]*', shown)[0], shown[-2000:]
    listed = re.search(r'<ol id="second">(.*?)</ol>', shown, re.DOTALL)[1]
    found = dict(re.findall(r'class="score">([−\d.]+)<.*?title="(\w+)"', listed, re.DOTALL))
    scores = {doc_id: float(score.replace("−", "-")) for score, doc_id in found.items()}
    ours = CrossEncoderRanker.from_pretrained(ranker, backend="onnx-int8")
    query = search.examples[0].text
    expected = {doc_id: float(ours.score([(query, collection.corpus.text(doc_id))])[0]) for doc_id in scores}
    assert len(scores) > 5 and scores == pytest.approx(expected, abs=0.05 * max(map(abs, expected.values())))
