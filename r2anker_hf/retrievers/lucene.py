"""Lucene's EnglishAnalyzer, as Anserini uses it, without a JVM.

Four steps in this order: words by Unicode's word-break rules, possessive 's off, lower case, 33 stop words out,
Porter's stemmer. BM25 figures compare with published ones only when this text analysis is the same.

Known differences: Hebrew quotation marks inside words end the word, and Unicode tables are those of the installed
`regex` package (Lucene 10 has Unicode 12.1), which matters for characters added since.
"""

from __future__ import annotations

from functools import lru_cache

import regex

STOP_WORDS = frozenset(
    """a an and are as at be but by for if in into is it no not of on or such
    that the their then there these they this to was will with""".split()
)
MAX_TOKEN_LENGTH = 255

# Most running text is few distinct words; the bounds keep memory flat on corpora of any size.
_CACHED_CHUNKS = 2**18
_LONGEST_CACHED_CHUNK = 64
_NARROW_NO_BREAK_SPACE = "\u202f"


def analyze(text: str) -> list[str]:
    """The index terms of a text, in order, with repetitions.

    >>> analyze("The cat's 3,000 U.S. biologies weren't O'Neill's.")
    ['cat', '3,000', 'u.', 'biologi', "weren't", "o'neil"]
    """
    # Words never cross a space, so what stands between spaces can be cached. The narrow no-break space is the
    # exception: it joins words (UAX #29, WB13a), but Python splits at it.
    chunks = text.split(" ") if _NARROW_NO_BREAK_SPACE in text else text.split()
    terms: list[str] = []
    for chunk in chunks:
        terms += _cached_terms(chunk) if len(chunk) <= _LONGEST_CACHED_CHUNK else _terms(chunk)
    return terms


def tokenize(text: str) -> list[str]:
    """Words as Lucene's StandardTokenizer cuts them: UAX #29 word boundaries, white space and punctuation dropped.

    A word longer than 255 characters is cut into pieces of 255.

    >>> tokenize("i.e. 1,024.5 foo_bar don't, (a:b) x-y")
    ['i.e', '1,024.5', 'foo_bar', "don't", 'a:b', 'x', 'y']
    """
    tokens = _WORD.findall(text)
    if len(text) <= MAX_TOKEN_LENGTH:
        return tokens
    cuts = range(0, len(text), MAX_TOKEN_LENGTH)
    return [token[cut : cut + MAX_TOKEN_LENGTH] for token in tokens for cut in cuts if cut < len(token)]


def porter_stem(word: str) -> str:
    """The stem of a lower-case word (Porter 1980, "An algorithm for suffix stripping", Program 14(3)).

    With the three departures of Porter's own later program, which Lucene runs: words of one or two letters stay as
    they are, step 2 has -bli -> -ble for -abli -> -able, and -logi -> -log besides.

    >>> [porter_stem(word) for word in ("relational", "possibly", "technology", "hopping", "is")]
    ['relat', 'possibl', 'technolog', 'hop', 'is']
    """
    if len(word) <= 2:
        return word
    word = _without_past(_without_plural(word))
    if word.endswith("y") and "v" in _shape(word[:-1]):
        word = word[:-1] + "i"
    for endings in (_STEP_2, _STEP_3):
        word = _with_shorter_ending(word, endings)
    return _without_final_e(_without_ending(word))


def _terms(chunk: str) -> tuple[str, ...]:
    lowered = (_lower(_without_possessive(token)) for token in tokenize(chunk))
    return tuple(porter_stem(token) for token in lowered if token not in STOP_WORDS)


_cached_terms = lru_cache(_CACHED_CHUNKS)(_terms)


def _without_possessive(token: str) -> str:
    return token[:-2] if token[-1] in "sS" and token[-2:-1] in _APOSTROPHES else token


def _lower(token: str) -> str:
    # Java lowers one character at a time: no final sigma, and a dotted capital I gives a plain i.
    return token.lower() if token.isascii() else "".join(map(_lower_character, token))


def _lower_character(character: str) -> str:
    return character.lower()[0]


_APOSTROPHES = ("'", "\u2019", "\uff07")


# --- Unicode word boundaries, UAX #29. A class of characters followed by any number of _EXTEND is one "letter" (WB4).

_EXTEND = r"[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]*+"


def _run(characters: str, inner: str) -> str:
    """A run of `characters` that one of `inner` may interrupt, if the run goes on after it (WB5-WB8, WB11, WB12)."""
    some = rf"(?:[{characters}]{_EXTEND})++"
    return rf"{some}(?:[{inner}]{_EXTEND}{some})*+"


def _word_pattern() -> regex.Pattern:
    letters = _run(
        r"\p{WB=ALetter}\p{WB=Hebrew_Letter}", r"\p{WB=MidLetter}\p{WB=MidNumLet}\p{WB=Single_Quote}:"
    )  # newer Unicode takes the colon out of MidLetter; Lucene's has it
    digits = _run(r"\p{WB=Numeric}\uff10-\uff19", r"\p{WB=MidNum}\p{WB=MidNumLet}\p{WB=Single_Quote}")
    katakana = rf"(?:\p{{WB=Katakana}}{_EXTEND})++"
    joiners = rf"(?:\p{{WB=ExtendNumLet}}{_EXTEND})"
    word = rf"(?:(?:{letters}|{digits})++|{katakana})"
    picture = rf"\p{{Extended_Pictographic}}{_EXTEND}"
    return regex.compile(
        "|".join(
            (
                r"[0-9#*]\ufe0f?\u20e3",  # key caps
                rf"{joiners}*+{word}(?:{joiners}++{word})*+{joiners}*+",  # WB9, WB10, WB13, WB13a, WB13b
                rf"(?:\p{{LB=SA}}{_EXTEND})++",  # Thai and its neighbours: a run is one token
                rf"\p{{Script=Han}}{_EXTEND}",
                rf"\p{{Script=Hiragana}}{_EXTEND}",
                rf"{picture}(?:(?<=\u200d){picture})*+",  # WB3c
                r"\p{WB=Regional_Indicator}{2}",
            )
        )
    )


_WORD = _word_pattern()


# --- Porter's stemmer. A word's shape has c for a consonant and v for a vowel; "vc" in it, counted, is his measure m.

_STEP_2 = {
    "ational": "ate",
    "tional": "tion",
    "enci": "ence",
    "anci": "ance",
    "izer": "ize",
    "bli": "ble",
    "alli": "al",
    "entli": "ent",
    "eli": "e",
    "ousli": "ous",
    "ization": "ize",
    "ation": "ate",
    "ator": "ate",
    "alism": "al",
    "iveness": "ive",
    "fulness": "ful",
    "ousness": "ous",
    "aliti": "al",
    "iviti": "ive",
    "biliti": "ble",
    "logi": "log",
}
_STEP_3 = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}
_STEP_4 = (
    "al ance ence er ic able ible ant ement ment ent sion tion ou ism ate iti ous ive ize".split()
)  # the longer of two that fit stands first; of -sion and -tion only -ion goes


def _shape(word: str) -> str:
    shape = ""
    for letter in word:
        vowel = letter in "aeiou" or (letter == "y" and shape[-1:] == "c")
        shape += "v" if vowel else "c"
    return shape


def _measure(word: str) -> int:
    return _shape(word).count("vc")


def _ends_in_double_consonant(word: str) -> bool:
    return len(word) >= 2 and word[-1] == word[-2] and _shape(word)[-1] == "c"


def _ends_in_short_syllable(word: str) -> bool:
    return _shape(word)[-3:] == "cvc" and word[-1] not in "wxy"


def _without_plural(word: str) -> str:
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _without_past(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    stem = word[:-2] if word.endswith("ed") else word[:-3] if word.endswith("ing") else ""
    if "v" not in _shape(stem):
        return word
    if stem.endswith(("at", "bl", "iz")):
        return stem + "e"
    if _ends_in_double_consonant(stem):
        return stem if stem[-1] in "lsz" else stem[:-1]
    return stem + "e" if _measure(stem) == 1 and _ends_in_short_syllable(stem) else stem


def _with_shorter_ending(word: str, endings: dict[str, str]) -> str:
    for ending, shorter in endings.items():
        if word.endswith(ending):
            stem = word[: -len(ending)]
            return stem + shorter if _measure(stem) > 0 else word
    return word


def _without_ending(word: str) -> str:
    for ending in _STEP_4:
        if word.endswith(ending):
            stem = word[: -len(ending)] + (ending[0] if ending in ("sion", "tion") else "")
            return stem if _measure(stem) > 1 else word
    return word


def _without_final_e(word: str) -> str:
    measure = _measure(word)
    if word.endswith("e") and (measure > 1 or (measure == 1 and not _ends_in_short_syllable(word[:-1]))):
        word = word[:-1]
    return word[:-1] if measure > 1 and word.endswith("l") and _ends_in_double_consonant(word) else word
