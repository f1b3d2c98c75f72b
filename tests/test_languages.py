"""Protects BM25's other languages: what is a term, that inflected words meet, and that an index knows its language."""

import math

import pytest
from every_recipe import configs
from hypothesis import given, settings
from hypothesis import strategies as st

from r2anker_hf.config import parse_config
from r2anker_hf.records import InputError
from r2anker_hf.retrievers import languages
from r2anker_hf.retrievers.base import Passages
from r2anker_hf.retrievers.bm25 import BM25Retriever
from r2anker_hf.retrievers.languages import analysis, analysis_identity, stop_words
from r2anker_hf.retrievers.lucene import analyze

LANGUAGES = languages.languages()
STEMMED = [name for name in LANGUAGES if name != "english" and name not in languages.OF_CHARACTERS]
GERMAN = {"d1": "Das Haus am Fluss", "d2": "Die Häuser der Städte am Meer", "d3": "Ein Boot"}


def build(passages, **options):
    return BM25Retriever.build(Passages(passages), progress=False, **options)


def found(run, query_id="q"):
    return {document.doc_id: document.score for document in run[query_id]}


# --- arithmetic


@pytest.mark.parametrize(
    ("language", "text", "terms"),
    [
        ("german", "Die Häuser des Kindes", ["haus", "kind"]),
        ("german", "Straße, STRASSE", ["strass", "strass"]),
        ("french", "L'eau des forêts, l’eau", ["eau", "forêt", "eau"]),
        ("french", "fore\u0302ts", ["forêt"]),
        ("italian", "dell'acqua", ["acqua"]),
        ("spanish", "las casas de la ciudad", ["cas", "ciud"]),
        ("russian", "книги и книга", ["книг", "книг"]),
        ("turkish", "IRMAK ırmak İstanbul'da istanbul", ["ırmak", "ırmak", "istanbul", "istanbul"]),
        ("chinese", "北京大学", ["北京", "京大", "大学"]),
        ("chinese", "水。火山", ["水", "火山"]),
        ("chinese", "ＢＭ２５算法 And", ["bm25", "算法", "and"]),
        ("japanese", "東京タワーへ", ["東京", "京タ", "タワ", "ワー", "ーへ"]),
        ("japanese", "\uff76\uff9e\uff7d", ["ガス"]),  # half-width
        ("korean", "한국의 수도", ["한국", "국의", "수도"]),
    ],
)
def test_terms(language, text, terms):
    assert analysis(language)(text) == terms


def test_inflected_words_meet_and_count_as_lucenes_formula_says():
    run = build(GERMAN, language="german").search({"q": "in Häusern"}, 10)
    # After "das", "die", "der", "am" and "ein": 2, 3 and 1 terms, avgdl 2; "haus" stands in 2 of 3 documents.
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    d1 = idf / (1 + 0.9 * (1 - 0.4 + 0.4 * 2 / 2))
    d2 = idf / (1 + 0.9 * (1 - 0.4 + 0.4 * 3 / 2))
    assert found(run) == pytest.approx({"d1": d1, "d2": d2}, rel=1e-6)
    assert found(build(GERMAN).search({"q": "in Häusern"}, 10)) == {}  # no English stem


def test_a_chinese_query_finds_the_passage_that_shares_most_pairs():
    passages = {"a": "北京是中国的首都", "b": "上海是中国的城市", "c": "巴黎是法国的首都"}
    run = build(passages, language="chinese").search({"q": "中国首都"}, 3)
    assert [document.doc_id for document in run["q"]][0] == "a"  # 中国 and 首都; 国首 stands nowhere
    # 6 pairs in each of 8 characters are 7; 中国 and 首都 each stand in 2 of 3 passages
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    one = idf / (1 + 0.9)
    assert found(run) == pytest.approx({"a": 2 * one, "b": one, "c": one}, rel=1e-6)


# --- properties of every language


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=30)


@pytest.mark.parametrize("language", LANGUAGES)
@settings(deadline=None, max_examples=40)
@given(first=words, second=words)
def test_terms_are_words_that_cross_no_space(language, first, second):
    analyse = analysis(language)
    assert analyse(f"{first} {second}") == analyse(first) + analyse(second)
    assert all(term and not set(term) & set(" \t\n\r") for term in analyse(first))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_passage_is_found_by_its_own_words_whatever_their_case(language):
    text = {"chinese": "火山", "japanese": "ひらがな", "korean": "한국어"}.get(language, "Zebra Xylophon")
    run = build({"a": f"{text}, 7", "b": "8 9"}, language=language).search({"q": text.upper()}, 2)
    assert list(found(run)) == ["a"]


@pytest.mark.parametrize("language", [name for name in STEMMED if stop_words(name)])
def test_stop_words_are_no_terms(language):
    assert analysis(language)(" ".join(sorted(stop_words(language)))) == []


def test_english_is_lucenes_and_the_default():
    assert analysis("english") is analyze
    assert build(GERMAN).language == "english" and analysis_identity("english") == {"analysis": "lucene"}


# --- the index


@pytest.mark.parametrize("language", ["german", "chinese"])
def test_an_index_knows_its_language_and_refuses_another(language, tmp_path):
    corpus = Passages(GERMAN)
    built = build(GERMAN, language=language, folder=tmp_path / "index")
    loaded = BM25Retriever.load(tmp_path / "index", corpus, progress=False)
    assert loaded.language == language
    assert loaded.search({"q": "Häuser"}, 3) == built.search({"q": "Häuser"}, 3) and found(
        loaded.search(GERMAN, 3), "d1"
    )
    with pytest.raises(InputError, match=f"an index of analysis '{language}'.* not 'lucene'"):
        build(GERMAN, folder=tmp_path / "index")


def test_an_index_of_another_stemmer_is_refused(tmp_path, monkeypatch):
    build(GERMAN, language="german", folder=tmp_path / "index")
    monkeypatch.setattr(languages, "version", lambda package: "2.0")
    with pytest.raises(InputError, match=r"an index of stemmer 'PyStemmer .* stop words', not 'PyStemmer 2.0, "):
        build(GERMAN, language="german", folder=tmp_path / "index")
    with pytest.raises(InputError, match="an index of stemmer"):
        BM25Retriever.load(tmp_path / "index", Passages(GERMAN))


def test_an_unknown_language_is_refused_with_the_choices():
    with pytest.raises(InputError, match="unknown language 'german2'; choose from arabic, .*chinese, .*turkish"):
        build(GERMAN, language="german2")
    with pytest.raises(InputError, match="unknown language 'de'; choose from"):
        parse_config(*configs("retrieve"), args="--collection apidocs --output_dir OUT --language de".split())
