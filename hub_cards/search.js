// The search page: a query goes to BM25 at once, then to the ranker, and both orders stand side by side.

import { BM25 } from "./bm25.js";
import { loadRanker } from "./ranker.js";

const at = id => document.getElementById(id);
const settings = JSON.parse(at("settings").textContent);
const passages = await (await fetch("passages.json")).json();
const bm25 = new BM25(passages);
let asked = 0; // the number of the newest query: what older ones still find is not shown
let ranker = null; // the promise of it

function made(kind, name, text) {
  const one = document.createElement(kind);
  if (name) one.className = name;
  if (text !== undefined) one.textContent = text;
  return one;
}
const tell = text => (at("status").textContent = text);
const megabytes = bytes => Math.round(bytes / 1e6);

function ranked() {
  if (ranker) return ranker;
  let loading = true;
  ranker = loadRanker(settings, (come, all) => {
    if (loading) tell(`Loading the ranker, once: ${megabytes(come)} of ${megabytes(all)} MB`);
  });
  ranker.catch(() => (ranker = null)).finally(() => (loading = false)); // after a failure the next query tries again
  return ranker;
}

/** One list: each passage with its rank, how far it moved, and its score. */
function show(list, found, before, relevant) {
  list.replaceChildren(...found.slice(0, settings.shown).map(({ place, score }, rank) => {
    const { id, text } = passages[place], item = made("li"), about = made("p", "about");
    about.append(made("b", "", `${rank + 1}`));
    const moved = before ? before.findIndex(one => one.place === place) - rank : 0;
    if (moved) about.append(made("span", moved > 0 ? "up" : "down", `${moved > 0 ? "▲" : "▼"} ${Math.abs(moved)}`));
    if (relevant.includes(id)) about.append(made("span", "judged", "judged relevant"));
    about.append(made("span", "score", score.toFixed(2).replace("-", "−")));
    const shown = made("p", "text", text);
    shown.dir = "auto";
    shown.title = id;
    item.append(about, shown);
    return item;
  }));
}

async function search(query) {
  const mine = ++asked, started = performance.now();
  const relevant = settings.examples.find(one => one.text === query)?.relevant ?? [];
  const first = bm25.search(query, settings.depth);
  const took = performance.now() - started;
  show(at("first"), first, null, relevant);
  at("second").replaceChildren();
  at("results").hidden = first.length === 0;
  if (!first.length) return tell("No passage shares a word with this query.");
  tell("Loading the ranker, once");
  try {
    const score = await ranked();
    if (mine !== asked) return;
    const begun = performance.now(), count = done => mine === asked && tell(`The ranker reads: ${done} of ${first.length}`);
    count(0);
    const scores = await score(query, first.map(one => passages[one.place].text), count);
    if (mine !== asked) return;
    const second = first.map((one, rank) => ({ place: one.place, score: scores[rank], rank }));
    second.sort((a, b) => b.score - a.score || a.rank - b.rank);
    show(at("second"), second, first, relevant);
    const seconds = ((performance.now() - begun) / 1000).toFixed(1);
    tell(`BM25: ${took.toFixed(1)} ms over ${passages.length} passages. Ranker: ${seconds} s for ${first.length}, on this device.`);
  } catch (error) {
    if (mine === asked) tell(`The ranker could not be used: ${error.message}. BM25's order stands.`);
  }
}

at("search").addEventListener("submit", event => {
  event.preventDefault();
  const query = at("query").value.trim();
  if (query) search(query);
});
for (const button of document.querySelectorAll("button.example"))
  button.addEventListener("click", () => {
    at("query").value = button.textContent;
    search(button.textContent);
  });
at("go").disabled = false;
