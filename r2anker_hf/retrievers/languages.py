"""Text analysis for BM25 by language: what a text is indexed and searched as.

| language | terms |
|---|---|
| english | Lucene's EnglishAnalyzer, see `lucene` |
| any other of PyStemmer's | Snowball's stems of words in lower case, without bm25s's stop words, if it has any |
| chinese, japanese, korean | pairs of neighbouring characters, as Lucene's CJKAnalyzer has them; no stop words |

Words end where Unicode says, and at apostrophes: so elisions (l'eau) and case endings (Ankara'da) part from their
words. Most of them are stop words.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache
from importlib.metadata import version

import regex

from ..records import InputError
from .lucene import analyze, tokenize

Analysis = Callable[[str], list[str]]
"""A text -> its index terms, in order, with repetitions."""

ENGLISH = "english"
OF_CHARACTERS = ("chinese", "japanese", "korean")

_NOT_LANGUAGES = ("porter", "dutch_porter", ENGLISH)  # older stemmers of two languages; English is Lucene's
_CHARACTERS = regex.compile(r"[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\u30fc]+")
_APOSTROPHES = regex.compile("['\u2019\uff07]")
_TURKISH_I = str.maketrans({"I": "\u0131", "\u0130": "i"})


def languages() -> list[str]:
    """The languages that `analysis` knows; the stemmers are those of the installed PyStemmer."""
    import Stemmer

    stemmed = [name for name in Stemmer.algorithms() if name not in _NOT_LANGUAGES]
    return sorted([ENGLISH, *OF_CHARACTERS, *stemmed])


def check_language(language: str) -> None:
    """Refuse a language without text analysis.

    Raises:
        InputError: unknown language; the message lists the choices.
    """
    if language not in languages():
        raise InputError(f"unknown language {language!r}; choose from {', '.join(languages())}")


def analysis(language: str) -> Analysis:
    """The text analysis of a language.

    Raises:
        InputError: unknown language.

    >>> analysis("german")("Die Häuser des Kindes")
    ['haus', 'kind']
    >>> analysis("chinese")("北京大学 2024")
    ['北京', '京大', '大学', '2024']
    """
    check_language(language)
    if language == ENGLISH:
        return analyze
    return pairs_of_characters if language in OF_CHARACTERS else _stemmed(language)


def analysis_identity(language: str) -> dict[str, str]:
    """All that decides the terms: a stemmer or a list of stop words may change with its package.

    >>> analysis_identity("english"), analysis_identity("korean")
    ({'analysis': 'lucene'}, {'analysis': 'korean'})
    """
    if language == ENGLISH:
        return {"analysis": "lucene"}
    if language in OF_CHARACTERS:
        return {"analysis": language}
    stemmer = f"PyStemmer {version('PyStemmer')}, {len(stop_words(language))} stop words"
    return {"analysis": language, "stemmer": stemmer}


@cache
def stop_words(language: str) -> frozenset[str]:
    """The list of bm25s for a language; empty where it has none."""
    from bm25s import stopwords

    return frozenset(getattr(stopwords, f"STOPWORDS_{language.upper()}", ()))


def pairs_of_characters(text: str) -> list[str]:
    """Every two neighbouring Chinese, Japanese or Korean characters; one that stands apart; other words in lower case.

    >>> pairs_of_characters("東京タワー、水 Tower")
    ['東京', '京タ', 'タワ', 'ワー', '水', 'tower']
    """
    text, terms, end = unicodedata.normalize("NFKC", text), [], 0
    for run in _CHARACTERS.finditer(text):
        terms += tokenize(text[end : run.start()].lower())
        characters, end = run.group(), run.end()
        terms += [characters[at : at + 2] for at in range(len(characters) - 1)] or [characters]
    return terms + tokenize(text[end:].lower())


@cache
def _stemmed(language: str) -> Analysis:
    import Stemmer

    stem, stopped = Stemmer.Stemmer(language).stemWords, stop_words(language)

    def analyse(text: str) -> list[str]:
        text = unicodedata.normalize("NFKC", text)  # an accent of its own would be no letter of the stemmer's
        if language == "turkish":
            text = text.translate(_TURKISH_I)
        words = [word for token in tokenize(text.lower()) for word in _APOSTROPHES.split(token)]
        return stem([word for word in words if word and word not in stopped])

    return analyse
