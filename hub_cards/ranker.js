// The ranker of a Hub repository in the browser, by transformers.js: its int8 weights, onnx/model_quantized.onnx.

/**
 * Load a ranker, once.
 *
 * settings: library, the address of transformers.js; hub; ranker, owner/name; revision, its commit.
 * progress: called with the bytes that came and those to come.
 *
 * Returns score(query, passages, told): one logit for each passage; told(count) says how many are done.
 */
export async function loadRanker(settings, progress) {
  const { AutoModelForSequenceClassification, AutoTokenizer, Tensor, env } = await import(settings.library);
  env.remoteHost = settings.hub;
  const files = {};
  const progress_callback = told => {
    if (told.status !== "progress") return;
    files[told.file] = told;
    const sum = name => Object.values(files).reduce((total, file) => total + file[name], 0);
    progress(sum("loaded"), sum("total"));
  };
  const options = { revision: settings.revision, progress_callback };
  const [tokenizer, model] = await Promise.all([
    AutoTokenizer.from_pretrained(settings.ranker, options),
    AutoModelForSequenceClassification.from_pretrained(settings.ranker, { ...options, dtype: "q8", device: "wasm" }),
  ]);
  const pairs = pairsOf(tokenizer, model.config.r2anker ?? {});
  const logit = async pair => Number((await model(inputs(pair, Tensor))).logits.data[0]);
  return async (query, passages, told) => {
    const scores = [];
    for (const passage of passages) {
      // one at a time: int8 scores depend on what else is in a batch, and padding would cost as much as it saves
      let best = -Infinity;
      for (const pair of pairs(query, passage)) best = Math.max(best, await logit(pair));
      told(scores.push(best));
      await new Promise(resolve => setTimeout(resolve)); // lets the page draw
    }
    return scores;
  };
}

/**
 * How a ranker reads: [special] query [special] passage [special], cut as PairEncoder of r2anker_hf cuts it.
 * transformers.js itself would cut off the last special token of a long pair.
 *
 * Returns pairs(query, passage): one {ids, types} for each window of the passage.
 */
export function pairsOf(tokenizer, { max_length = 128, max_query_length = Infinity, max_windows = 1 }) {
  const idsOf = text => tokenizer(text, { add_special_tokens: false, return_tensor: false }).input_ids;
  const parts = template(tokenizer, idsOf("a"));
  const room = max_length - parts.before.length - parts.between.length - parts.after.length;
  return (query, passage) => {
    const asked = idsOf(query).slice(0, max_query_length ?? Infinity), told = idsOf(passage);
    const shorter = Math.min(asked.length, told.length, Math.floor(room / 2));
    const longer = Math.min(Math.max(asked.length, told.length), room - shorter);
    const [ofQuery, size] = asked.length > told.length ? [longer, shorter] : [shorter, longer];
    const step = Math.max(1, Math.ceil(size / 2));
    const count = Math.min(1 + Math.ceil((told.length - size) / step), max_windows);
    return Array.from({ length: count }, (_, number) => {
      const start = Math.min(number * step, told.length - size);
      return joined(parts, asked.slice(0, ofQuery), told.slice(start, start + size));
    });
  };
}

/** What the tokenizer puts before, between and after two texts, and the type of each part. */
function template(tokenizer, probe) {
  const options = { return_tensor: false, return_token_type_ids: true };
  const { input_ids: ids, token_type_ids: types } = tokenizer("a", { text_pair: "a", ...options });
  const found = start => ids.findIndex((_, place) => place >= start && probe.every((id, i) => ids[place + i] === id));
  const query = found(0), between = query + probe.length, passage = found(between), after = passage + probe.length;
  const type = place => types?.[place] ?? 0;
  return {
    before: ids.slice(0, query), between: ids.slice(between, passage), after: ids.slice(after),
    types: [type(0), type(query), type(between), type(passage), type(after)],
  };
}

function joined(parts, query, passage) {
  const pieces = [parts.before, query, parts.between, passage, parts.after];
  return { ids: pieces.flat(), types: pieces.flatMap((piece, number) => piece.map(() => parts.types[number])) };
}

/** A pair as a model's inputs, [1, tokens]. */
function inputs({ ids, types }, Tensor) {
  const tensor = values => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
  return { input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)), token_type_ids: tensor(types) };
}
