"""Protects what stands beside the code: promises of CONTRIBUTING, continuous integration, citation, forms, version."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
SOURCES = [path for folder in ("r2anker_hf", "tests", "recipes") for path in sorted((ROOT / folder).rglob("*.py"))]
MADE = {".venv", ".venv-lowest", "../shared/data"}  # no part of the repository


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


CODE = sorted(set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text("CONTRIBUTING.md"), flags=re.S | re.M))))
NAMES = [code for code in CODE if re.fullmatch(r"(\w+\.)?(_\w+|_?[A-Z]\w+)", code)]
PATHS = [code for code in CODE if re.fullmatch(r"[\w./-]*[/.][\w./-]*", code) and code not in {*NAMES, *MADE}]


def test_contributing_names_files_and_code():
    assert len(PATHS) > 20 and len(NAMES) > 8


@pytest.mark.parametrize("path", PATHS)
def test_a_file_that_contributing_names_is_there(path):
    """From the root, from the package, from the recipes, or a module's name as Python knows it."""
    module = f"{path.replace('.', '/')}.py"
    places = [ROOT / path, ROOT / "r2anker_hf" / path, ROOT / "recipes" / path, ROOT / "r2anker_hf" / module]
    assert any(place.exists() for place in places)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_contributing_gives_is_in_the_code(name):
    word = re.compile(rf"\b{name.rpartition('.')[2]}\b")
    made = ("setup.py", "Makefile", ".github/workflows/ci.yml")
    assert any(word.search(path.read_text(encoding="utf-8")) for path in [*SOURCES, *(ROOT / name for name in made)])


def test_the_workflow_runs_what_ci_runs():
    (job,) = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"].values()
    asked = [step["run"] for step in job["steps"] if "run" in step]
    assert asked == re.findall(r"^(?:exec )?(make [\w-]+)$", text(".ci/run"), re.M) and "make test" in asked
    targets = re.findall(r"^([\w-]+):", text("Makefile"), re.M)
    assert all(run.removeprefix("make ") in targets for run in asked)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_ask_for_something(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert form["name"] and form["description"]
    assert {field["type"] for field in form["body"]} <= {"textarea", "input"}
    assert len({field["id"] for field in form["body"]}) == len(form["body"])
    assert all(field["attributes"]["label"] for field in form["body"])
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_the_paper_is_cited_as_the_readme_cites_it():
    citation = yaml.safe_load(text("CITATION.cff"))
    paper, readme = citation["preferred-citation"], " ".join(text("README.md").split())
    names = ", ".join(f"{author['given-names']} {author['family-names']}" for author in paper["authors"])
    assert f"{names}: *{paper['title']}*" in readme and f"ACL {paper['year']}" in readme
    assert citation["license"] == "Apache-2.0" and citation["license"] in text("setup.py")


def test_the_version_stands_in_one_place():
    assert len(re.findall(r"^__version__ = ", text("r2anker_hf/__init__.py"), re.M)) == 1
    assert "version" not in yaml.safe_load(text("CITATION.cff")).keys() - {"cff-version"}
    assert not re.search(r"^version", text("pyproject.toml"), re.M) and "version=VERSION" in text("setup.py")
