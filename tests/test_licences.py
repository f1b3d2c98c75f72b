"""Licences are carried over, and a clash names both sides."""

import pytest

from r2anker_hf.publishing.licences import carried
from r2anker_hf.records import InputError


def test_the_strictest_is_carried_over():
    sources = {"a": "mit", "b": "CC-BY-NC-4.0", "c": None}
    assert carried(None, sources, derived=False) == "cc-by-nc-4.0"
    assert carried(None, {"a": None}, derived=True) is None
    assert carried(None, {"a": "mit", "b": "cc-by-sa-4.0"}, derived=True) == "cc-by-sa-4.0"
    assert carried("apache-2.0", {"a": "cc-by-4.0", "b": "cc-by-sa-4.0"}, derived=False) == "apache-2.0"


@pytest.mark.parametrize("base", ["agpl-3.0", "cc-by-sa-4.0", "CC-BY-ND-4.0", "other", "llama3.1", "openrail"])
def test_weights_keep_the_terms_of_the_base_model_and_not_those_of_what_they_learned_from(base):
    with pytest.raises(InputError, match=f"licence mit: clashes with {base.lower()}, that of the base model: works"):
        carried("mit", {"the data": "mit"}, derived=False, base=base)
    assert carried("mit", {"the data": base}, derived=False) == "mit"
    if base != "CC-BY-ND-4.0":
        assert carried(None, {"the data": "mit"}, derived=False, base=base) == base


def test_a_base_model_that_binds_nothing_leaves_the_choice():
    for base in ("apache-2.0", "mit", "cc-by-4.0", None):
        assert carried("mit", {"the data": "cc-by-sa-4.0"}, derived=False, base=base) == "mit"
    with pytest.raises(InputError, match="clashes with cc-by-nc-4.0, that of the base model: it forbids commercial"):
        carried("mit", {"the data": "mit"}, derived=False, base="cc-by-nc-4.0")


@pytest.mark.parametrize(
    "stated, source, derived, reason",
    [
        (
            "mit",
            "cc-by-nc-4.0",
            False,
            "licence mit: clashes with cc-by-nc-4.0, that of the data: it forbids commercial",
        ),
        ("mit", "cc-by-sa-4.0", True, "works made from it keep its licence"),
        (None, "cc-by-nd-4.0", True, "may not be passed on"),
        ("cc-by-nc-4.0", "cc-by-nc-sa-4.0", True, "keep its licence"),
    ],
)
def test_a_clash_is_refused(stated, source, derived, reason):
    with pytest.raises(InputError, match=reason):
        carried(stated, {"the data": source}, derived)
