"""Protects the text analysis: the terms must be those of Lucene's EnglishAnalyzer, or BM25 figures do not compare."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2anker_hf.retrievers import lucene
from r2anker_hf.retrievers.lucene import STOP_WORDS, analyze, porter_stem, tokenize

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.mark.parametrize(
    "text, tokens",
    [
        ("e-mail me: a.b@c.org", ["e", "mail", "me", "a.b", "c.org"]),
        ("1,024.5 3.14 1. 2,a a,b", ["1,024.5", "3.14", "1", "2", "a", "a", "b"]),
        ("don't 'quoted' dogs' O\u2019Neill", ["don't", "quoted", "dogs", "O\u2019Neill"]),
        ("U.S.A. i.e. end.Start", ["U.S.A", "i.e", "end.Start"]),
        ("snake_case _x_ __ 10_000", ["snake_case", "_x_", "10_000"]),
        ("LDL:HDL 12:30", ["LDL:HDL", "12", "30"]),
        ("CD4+ p53-/- IL-2 3a.b4 a.4", ["CD4", "p53", "IL", "2", "3a.b4", "a", "4"]),
        ("nai\u0308ve \u03bcg 10\u202f000", ["nai\u0308ve", "\u03bcg", "10\u202f000"]),
        ("\u6771\u4eac\u30bf\u30ef\u30fc", ["\u6771", "\u4eac", "\u30bf\u30ef\u30fc"]),
        ("\u3072\u3089 \ud55c\uad6d\uc5b4", ["\u3072", "\u3089", "\ud55c\uad6d\uc5b4"]),
        ("\U0001f600\U0001f600 \U0001f1e9\U0001f1ea", ["\U0001f600", "\U0001f600", "\U0001f1e9\U0001f1ea"]),
        (" \t\n...!?", []),
        ("", []),
    ],
)
def test_words_follow_unicode_word_boundaries(text, tokens):
    assert tokenize(text) == tokens


def test_a_word_beyond_255_characters_is_cut():
    assert [len(token) for token in tokenize("x" * 600 + " y")] == [255, 255, 90, 1]


def test_filters_run_in_lucenes_order():
    # The possessive goes before the stop list sees the word, and capitals go before it too.
    assert analyze("It's THE Dog'S that\u2019s") == ["dog"]
    # Stemming comes last: "ours" is no stop word, and neither is what its stem "our" or "thing" -> "th" looks like.
    assert analyze("ours being its") == ["our", "be", "it"]
    assert len(STOP_WORDS) == 33


def test_lower_case_goes_by_single_characters_as_in_java():
    assert analyze("\u0130 \u039f\u0394\u039f\u03a3") == ["i", "\u03bf\u03b4\u03bf\u03c3"]


@pytest.mark.parametrize(
    "word, stem",
    # the examples of Porter's article, each through all steps
    [
        ("caresses", "caress"),
        ("ponies", "poni"),
        ("ties", "ti"),
        ("cats", "cat"),
        ("feed", "feed"),
        ("agreed", "agre"),
        ("bled", "bled"),
        ("motoring", "motor"),
        ("sing", "sing"),
        ("conflated", "conflat"),
        ("hopping", "hop"),
        ("falling", "fall"),
        ("fizzed", "fizz"),
        ("failing", "fail"),
        ("filing", "file"),
        ("happy", "happi"),
        ("sky", "sky"),
        ("conditional", "condit"),
        ("generalizations", "gener"),
        ("oscillators", "oscil"),
        ("adoption", "adopt"),
        ("controll", "control"),
        ("rate", "rate"),
        ("cease", "ceas"),
        # where Porter's program, and so Lucene, departs from the article
        ("possibly", "possibl"),
        ("technology", "technolog"),
        ("biology", "biologi"),  # bio- has measure 0
        ("as", "as"),
        # a suffix that is the whole word
        ("ies", "i"),
        ("ion", "ion"),
        ("eed", "eed"),
    ],
)
def test_porter_by_his_examples(word, stem):
    assert porter_stem(word) == stem


def _departs(word):
    """Whether a word may meet a rule in which Lucene's Porter differs from the article."""
    return len(word) <= 2 or "bl" in word or "log" in word


@settings(deadline=None)
@given(st.text(alphabet="abcdefgilmnorstuvxyz", max_size=6), st.sampled_from([*lucene._STEP_2, *lucene._STEP_4, ""]))
def test_porter_equals_snowballs_where_neither_departs(start, ending):
    stemmer = pytest.importorskip("Stemmer").Stemmer("porter")
    for word in (start + ending, start + ending + "s", start + ending + "ed", start + ending + "ing"):
        if not _departs(word):
            assert porter_stem(word) == stemmer.stemWord(word)


@pytest.mark.skipif(not SHARED.exists(), reason="no ../shared/data")
def test_porter_equals_snowballs_on_real_words():
    stemmer = pytest.importorskip("Stemmer").Stemmer("porter")
    words = set()
    with open(SHARED / "nfcorpus" / "corpus.jsonl", encoding="utf-8") as file:
        for line in file:
            words.update(token.lower() for token in tokenize(json.loads(line)["text"]))
    compared = [word for word in sorted(words) if not _departs(word)]
    assert len(compared) > 15_000
    assert [porter_stem(word) for word in compared] == stemmer.stemWords(compared)


@settings(deadline=None)
@given(st.text(alphabet="aZ9 .,:'\u2019_\u202f\u0308\n\u200d\u6771-", max_size=40))
def test_caching_by_chunk_changes_nothing(text):
    # Cutting at white space first must give what the whole text gives.
    assert analyze(text) == list(lucene._terms(text))


@settings(deadline=None)
@given(st.text(max_size=80))
def test_any_text_gives_terms_without_white_space(text):
    assert all(term and not set(term) & set(" \t\n\r") for term in analyze(text))
