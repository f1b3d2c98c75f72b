"""Protects the pages: their commands parse, their Python runs, their links lead somewhere, and the site is built."""

import doctest
import importlib.util
import json
import re

import pytest
from every_recipe import CONFIGS, configs
from pages import LINK, NOTEBOOKS, PAGES, REPOSITORY, anchors, commands, name, sentences, snippets, text, without_code

from r2anker_hf.config import parse_config

LINKED = [*PAGES, *NOTEBOOKS, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "recipes/results/RESULTS.md"]
MOST_WORDS = 19
# options of torch.distributed.run and accelerate
PROGRAMS = {"config_file", "cpu", "multi_gpu", "nproc_per_node", "num_processes", "quiet"}


def hooks():
    specification = importlib.util.spec_from_file_location("hooks", REPOSITORY / "docs/hooks.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_is_one_that_its_recipe_takes(page, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    for stage, args in commands(page):
        parse_config(*configs(stage), args=args)


def named_options(page):
    """(recipe or None, option) of every piece of code in a sentence, such as `mine --depth 200` or `--depth 200`."""
    for code in re.findall(r"`([^`\n]+)`", without_code(text(page))):
        stage = code.split()[0].removesuffix(".py")
        for option in re.findall(r"(?<!\S)--(\w+)", code):
            yield (stage if stage in CONFIGS else None), option


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_option_that_a_sentence_names_is_one(page):
    taken = {
        stage: {field for one in configs(stage) for field in one.__dataclass_fields__}
        for stage in CONFIGS
        if "/" not in stage
    }
    others = {"config", "help", "help_all", "version", *PROGRAMS}
    for stage, option in named_options(page):
        known = taken[stage] | others if stage else set().union(others, *taken.values())
        assert option in known, f"no option --{option} of {stage or 'any recipe'}"


def test_options_in_sentences_are_found_at_all():
    found = {pair for page in PAGES for pair in named_options(page)}
    assert found >= {("distil", "loss"), ("retrieve", "preset"), (None, "leave_out_suspects")}


def test_commands_are_found_at_all():
    assert {stage for page in PAGES for stage, _ in commands(page)} >= {"retrieve", "train_ranker", "verify", "score"}


def test_every_recipe_stands_in_the_table():
    table = text(REPOSITORY / "recipes/README.md")
    scripts = [path.name for kind in ("*.py", "*.sh") for path in (REPOSITORY / "recipes").glob(kind)]
    assert scripts and [script for script in scripts if f"`{script}`" not in table] == []


@pytest.mark.parametrize("page", [page for page in PAGES if name(page).startswith("docs/tasks")], ids=name)
def test_python_runs_from_top_to_bottom(page, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"MODEL": str(tiny_model)}
    for number, snippet in enumerate(snippets(page, "python")):
        exec(compile(snippet, f"{name(page)}[{number}]", "exec"), names)


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_links_lead_somewhere(page):
    for path, anchor in LINK.findall(without_code(text(page))):
        target = page if not path else (page.parent / path)
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=name)
def test_sentences_are_short(page):
    found = sentences(text(page))
    long = [sentence for sentence in found if len(sentence.split()) > MOST_WORDS]
    assert found and not long
    assert not [sentence for sentence in found if " alone" in sentence]  # "only" is the word


def test_every_page_stands_in_the_site():
    site = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    paths = [name(page).removeprefix("docs/") for page in [*PAGES, *NOTEBOOKS] if name(page) != "README.md"]
    assert [path for path in paths if f" {path}\n" not in site] == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_notebooks_run_from_top_to_bottom(notebook, tiny_model, minilm, tmp_path):
    """At toy size: what the cell of parameters sets is replaced, but for nothing that it does not set."""
    names, toy = {}, {"MODEL": tiny_model, "PASSAGES": 80, "STEPS": 2, "OUT": tmp_path}
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name(notebook)}[{number}]", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            names |= {key: value for key, value in toy.items() if key in names}
    assert names["MODEL"] == tiny_model and any(tmp_path.iterdir())


def test_notebooks_hold_their_outputs_and_no_path():
    for notebook in NOTEBOOKS:
        cells = [
            cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"
        ]
        assert sum(bool(cell["outputs"]) for cell in cells) > len(cells) / 2
        assert not re.search(r"/(home|root|tmp|work)/", json.dumps([cell["outputs"] for cell in cells]))


def test_links_of_the_site():
    links, pages = hooks().links_for_site, hooks().TAKEN
    assert doctest.testmod(hooks()).failed == 0
    assert all((REPOSITORY / page).is_file() for page in pages)
    said = "[a](LOG.md#x) [b](../../docs/tasks/train.md) [c](../run.sh) ![d](retrieval_costs.png) `[e](run.sh)`"
    done = "[a](LOG.md#x) [b](../../tasks/train.md) c ![d](retrieval_costs.png) `e`"
    assert links(said, "recipes/results/RESULTS.md") == done
    assert links("```\n[c](run.sh)\n```", "recipes/README.md") == "```\n[c](run.sh)\n```"


def test_a_notebook_as_a_page():
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "Text."]},
        {
            "cell_type": "code",
            "source": ["print(1)\n", "2"],
            "outputs": [
                {"output_type": "stream", "text": ["1\n"]},
                {"output_type": "execute_result", "data": {"text/plain": ["2"]}},
                {"output_type": "display_data", "data": {"image/png": "aGk=\n", "text/plain": ["<Figure>"]}},
            ],
        },
    ]
    page = hooks().notebook_page({"cells": cells})
    shown = ["# Title\nText.", "```python\nprint(1)\n2\n```", "```text\n1\n```", "```text\n2\n```"]
    assert page == "\n\n".join([*shown, '<img alt="figure" src="data:image/png;base64,aGk=">']) + "\n"
