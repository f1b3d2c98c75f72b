// BM25 as r2anker_hf has it: Lucene's English analysis and formula, so that a page ranks as the package does.
// Word classes are made of general Unicode properties here, so words of a rare script may be cut otherwise.

const STOP_WORDS = new Set(
  ("a an and are as at be but by for if in into is it no not of on or such "
    + "that the their then there these they this to was will with").split(" ")
);
const LONGEST = 255; // characters of a token
const K1 = 0.9, B = 0.4; // Anserini's defaults

// Word boundaries of UAX #29. A class of characters followed by any number of EXTEND is one letter (WB4).
const EXTEND = "[\\p{M}\\p{Emoji_Modifier}\\u00ad\\u200c\\u200d\\u2060\\ufeff]*";
const RUN_TOGETHER = "\\p{sc=Thai}\\p{sc=Lao}\\p{sc=Khmer}\\p{sc=Myanmar}"; // without spaces: a run is one token
const LETTER = `[\\p{Alphabetic}--[\\p{M}\\p{Ideographic}\\p{sc=Katakana}\\p{sc=Hiragana}${RUN_TOGETHER}]]`;
const BETWEEN_BOTH = ".\\u2018\\u2019\\u2024\\ufe52\\uff07\\uff0e'";
const BETWEEN_LETTERS = `[:\\u00b7\\u0387\\u055f\\u05f4\\u2027\\ufe13\\ufe55\\uff1a${BETWEEN_BOTH}]`;
const BETWEEN_DIGITS = `[,;\\u037e\\u0589\\u060c\\u060d\\u066c\\u07f8\\u2044\\ufe10\\ufe14\\ufe50\\ufe54\\uff0c\\uff1b${BETWEEN_BOTH}]`;
const JOINER = `(?:[\\p{Pc}\\u202f]${EXTEND})`;
const run = (letter, between) => `(?:${letter}${EXTEND})+(?:${between}${EXTEND}(?:${letter}${EXTEND})+)*`;
const WORD = `(?:(?:${run(LETTER, BETWEEN_LETTERS)}|${run("\\p{Nd}", BETWEEN_DIGITS)})+|(?:\\p{sc=Katakana}${EXTEND})+)`;
const TOKEN = new RegExp(
  [
    "[0-9#*]\\ufe0f?\\u20e3", // key caps
    `${JOINER}*${WORD}(?:${JOINER}+${WORD})*${JOINER}*`,
    `(?:[${RUN_TOGETHER}]${EXTEND})+`,
    `[\\p{sc=Han}\\p{sc=Hiragana}]${EXTEND}`,
    `\\p{Extended_Pictographic}${EXTEND}`,
  ].join("|"),
  "gv"
);

// Porter's stemmer, with the departures of his own later program. A shape has c for a consonant and v for a vowel.
const STEP_2 = {
  ational: "ate", tional: "tion", enci: "ence", anci: "ance", izer: "ize", bli: "ble", alli: "al", entli: "ent",
  eli: "e", ousli: "ous", ization: "ize", ation: "ate", ator: "ate", alism: "al", iveness: "ive", fulness: "ful",
  ousness: "ous", aliti: "al", iviti: "ive", biliti: "ble", logi: "log",
};
const STEP_3 = { icate: "ic", ative: "", alize: "al", iciti: "ic", ical: "ic", ful: "", ness: "" };
const STEP_4 = "al ance ence er ic able ible ant ement ment ent sion tion ou ism ate iti ous ive ize".split(" ");

function shapeOf(word) {
  let shape = "";
  for (const letter of word)
    shape += "aeiou".includes(letter) || (letter === "y" && shape.endsWith("c")) ? "v" : "c";
  return shape;
}
const measure = word => shapeOf(word).split("vc").length - 1;
const hasVowel = word => shapeOf(word).includes("v");
const endsDouble = word => word.length > 1 && word.at(-1) === word.at(-2) && shapeOf(word).endsWith("c");
const endsShort = word => shapeOf(word).endsWith("cvc") && !"wxy".includes(word.at(-1));
const without = (word, ending) => word.slice(0, word.length - ending.length);

function withoutPlural(word) {
  if (word.endsWith("sses") || word.endsWith("ies")) return word.slice(0, -2);
  return word.endsWith("s") && !word.endsWith("ss") ? word.slice(0, -1) : word;
}
function withoutPast(word) {
  if (word.endsWith("eed")) return measure(word.slice(0, -3)) > 0 ? word.slice(0, -1) : word;
  const stem = word.endsWith("ed") ? word.slice(0, -2) : word.endsWith("ing") ? word.slice(0, -3) : "";
  if (!hasVowel(stem)) return word;
  if (/(at|bl|iz)$/.test(stem)) return stem + "e";
  if (endsDouble(stem)) return "lsz".includes(stem.at(-1)) ? stem : stem.slice(0, -1);
  return measure(stem) === 1 && endsShort(stem) ? stem + "e" : stem;
}
function withShorterEnding(word, endings) {
  const ending = Object.keys(endings).find(one => word.endsWith(one));
  if (ending === undefined) return word;
  const stem = without(word, ending);
  return measure(stem) > 0 ? stem + endings[ending] : word;
}
function withoutEnding(word) {
  const ending = STEP_4.find(one => word.endsWith(one));
  if (ending === undefined) return word;
  const stem = without(word, ending) + (ending === "sion" || ending === "tion" ? ending[0] : "");
  return measure(stem) > 1 ? stem : word;
}
function withoutFinalE(word) {
  const many = measure(word);
  if (word.endsWith("e") && (many > 1 || (many === 1 && !endsShort(word.slice(0, -1))))) word = word.slice(0, -1);
  return many > 1 && word.endsWith("l") && endsDouble(word) ? word.slice(0, -1) : word;
}
export function stem(word) {
  if ([...word].length <= 2) return word;
  word = withoutPast(withoutPlural(word));
  if (word.endsWith("y") && hasVowel(word.slice(0, -1))) word = word.slice(0, -1) + "i";
  for (const endings of [STEP_2, STEP_3]) word = withShorterEnding(word, endings);
  return withoutFinalE(withoutEnding(word));
}

const known = new Map(); // stems: running text is few distinct words
function stemOf(word) {
  if (!known.has(word)) known.set(word, stem(word));
  return known.get(word);
}
function pieces(token) {
  const characters = [...token];
  if (characters.length <= LONGEST) return [token];
  const starts = Array.from({ length: Math.ceil(characters.length / LONGEST) }, (_, number) => number * LONGEST);
  return starts.map(start => characters.slice(start, start + LONGEST).join(""));
}
const lower = token => [...token].map(character => [...character.toLowerCase()][0]).join("");

/** The index terms of a text, in order, with repetitions. */
export function analyze(text) {
  return (text.match(TOKEN) ?? []).flatMap(pieces)
    .map(token => lower(token.replace(/['\u2019\uff07][sS]$/, "")))
    .filter(token => !STOP_WORDS.has(token)).map(stemOf);
}

/** An index over passages, an array of {id, text}. */
export class BM25 {
  constructor(passages) {
    this.ids = passages.map(passage => passage.id);
    this.postings = new Map();
    const lengths = passages.map((passage, place) => this.#add(place, analyze(passage.text)));
    this.documents = lengths.filter(length => length > 0).length; // as Lucene: only those with a term count
    const average = lengths.reduce((a, b) => a + b, 0) / this.documents;
    this.norms = lengths.map(length => K1 * (1 - B + (B * length) / average));
  }
  #add(place, terms) {
    const counts = new Map();
    for (const term of terms) counts.set(term, (counts.get(term) ?? 0) + 1);
    for (const [term, count] of counts) {
      if (!this.postings.has(term)) this.postings.set(term, []);
      this.postings.get(term).push([place, count]);
    }
    return terms.length;
  }
  /** The best `depth` passages that share a term with the query: [{place, score}], equal scores by falling id. */
  search(query, depth) {
    const scores = new Map();
    for (const term of analyze(query)) {
      const posting = this.postings.get(term) ?? [];
      const idf = Math.log(1 + (this.documents - posting.length + 0.5) / (posting.length + 0.5));
      for (const [place, count] of posting)
        scores.set(place, (scores.get(place) ?? 0) + (idf * count) / (count + this.norms[place]));
    }
    const found = [...scores].map(([place, score]) => ({ place, score: Math.fround(score) }));
    return found.sort((a, b) => b.score - a.score || (this.ids[a.place] < this.ids[b.place] ? 1 : -1)).slice(0, depth);
  }
}
