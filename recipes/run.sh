#!/usr/bin/env bash
# The whole story of one recipe folder: two first stages, joint negatives, a ranker, and what it is worth.
#
#     bash recipes/run.sh nfcorpus
#
# OUT         folder for all results                        (default out/<recipe>)
# LAUNCH      how recipes are started                       (default python; "accelerate launch --config_file ..." on GPUs)
# COLLECTION  a local BEIR folder instead of the Hub's copy (default what the recipe's YAML files name)
# MODEL       what the ranker starts from                   (default as above)
# RETRIEVER   the dense retriever                           (default as above)
# SPLADE      a SPLADE model whose negatives join theirs    (default none; train_retriever.py makes one, its L2)
# PSEUDO      warm up on so many pseudo-queries             (default: on the training queries)
# COMMON, WARM_START, TRAINING, RERANKING   further options for every stage, or for one
#
# Stages that are finished are not done twice, so a run that was stopped goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."

recipe=recipes/${1:?which recipe? one of: $(cd recipes && echo */)}
OUT=${OUT:-out/$1}
LAUNCH=${LAUNCH:-python}
COMMON="${COLLECTION:+--collection $COLLECTION} ${COMMON:-}"
export TOKENIZERS_PARALLELISM=false

run() { # run STAGE [options]: the recipe of that stage with this folder's settings
  local script=$1 settings=$2
  shift 2
  # shellcheck disable=SC2086  # COMMON and LAUNCH hold several words
  $LAUNCH "recipes/$script.py" --config "$recipe/$settings.yaml" $COMMON "$@"
}

splits="train test"
if grep -q '^dev_split:' "$recipe/train_ranker.yaml"; then
  splits="train dev test"
fi
for split in $splits; do
  printf '\n== retrieve: the %s queries, by BM25 and by a dense retriever\n' "$split"
  run retrieve retrieve_bm25 --split "$split" --index "$OUT/index/bm25" --output_dir "$OUT/runs/$split/bm25"
  run retrieve retrieve_dense --split "$split" ${RETRIEVER:+--model "$RETRIEVER"} --index "$OUT/index/dense" \
    --output_dir "$OUT/runs/$split/dense"
done

lists=(bm25="$OUT/runs/train/bm25/run.trec" dense="$OUT/runs/train/dense/run.trec")
if [ -n "${SPLADE:-}" ]; then
  printf '\n== retrieve: the train queries, by SPLADE\n'
  run retrieve retrieve_splade --split train --model "$SPLADE" --index "$OUT/index/splade" \
    --output_dir "$OUT/runs/train/splade"
  lists+=(splade="$OUT/runs/train/splade/run.trec")
fi
printf '\n== mine: the candidates that negatives are drawn from\n'
run mine mine --runs "${lists[@]}" --output_dir "$OUT/negatives"

if [ -e "$recipe/warm_start.yaml" ]; then
  unlabelled=$OUT/negatives
  if [ -n "${PSEUDO:-}" ]; then
    printf '\n== pseudo-queries: titles and first sentences, and what both retrievers find for them\n'
    split=pseudo.$PSEUDO unlabelled=$OUT/unlabelled
    run retrieve retrieve_bm25 --split "$split" --index "$OUT/index/bm25" --output_dir "$OUT/runs/$split/bm25"
    run retrieve retrieve_dense --split "$split" ${RETRIEVER:+--model "$RETRIEVER"} --index "$OUT/index/dense" \
      --output_dir "$OUT/runs/$split/dense"
    run mine mine --split "$split" --audit_queries 0 --output_dir "$unlabelled" \
      --runs bm25="$OUT/runs/$split/bm25/run.trec" dense="$OUT/runs/$split/dense/run.trec"
    WARM_START="--negatives_split $split --leave_out_positives true ${WARM_START:-}"
  fi
  printf "\n== warm start: a fresh ranker learns the retrievers' own scores, without judgements\n"
  # shellcheck disable=SC2086
  run train_ranker warm_start --negatives "$unlabelled" ${MODEL:+--model "$MODEL"} ${WARM_START:-} \
    --output_dir "$OUT/warm_start"
  MODEL=$OUT/warm_start
fi

printf '\n== train: a listwise cross-encoder on negatives of all\n'
if [ -e "$OUT/runs/dev" ]; then
  TRAINING="--dev_run $OUT/runs/dev/bm25/run.trec ${TRAINING:-}"
fi
# shellcheck disable=SC2086
run train_ranker train_ranker --negatives "$OUT/negatives" ${MODEL:+--model "$MODEL"} ${TRAINING:-} \
  --output_dir "$OUT/ranker"

for first in bm25 dense; do
  printf '\n== rerank: what %s found for the test queries\n' "$first"
  # shellcheck disable=SC2086
  run rerank rerank --ranker "$OUT/ranker" --split test --first_stage "$OUT/runs/test/$first/run.trec" ${RERANKING:-} \
    --output_dir "$OUT/runs/test/ranker_over_$first"
done

printf '\n== score: every system on the test queries\n'
run score score --runs bm25="$OUT/runs/test/bm25/run.trec" dense="$OUT/runs/test/dense/run.trec" \
  ranker_over_bm25="$OUT/runs/test/ranker_over_bm25/run.trec" \
  ranker_over_dense="$OUT/runs/test/ranker_over_dense/run.trec" --output_dir "$OUT/report"
