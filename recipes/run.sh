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
# SPLITS      the splits that are reported                  (default those of the recipe's score*.yaml)
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

SPLITS=${SPLITS:-$(sed -n 's/^split: *\([^ #]*\).*/\1/p' "$recipe"/score*.yaml)}
# the split that chooses the checkpoint, where no training queries are held out for that
DEV=$(sed -n 's/^dev_split: *\([^ #]*\).*/\1/p' "$recipe/train_ranker.yaml")
for split in $SPLITS; do
  if [ "$split" = "$DEV" ]; then
    echo "error: SPLITS: $split chooses the checkpoint, so it is not reported" >&2
    exit 2
  fi
done
for split in train $DEV $SPLITS; do
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
TRAINING="${DEV:+--dev_run $OUT/runs/$DEV/bm25/run.trec} ${TRAINING:-}"
# shellcheck disable=SC2086
run train_ranker train_ranker --negatives "$OUT/negatives" ${MODEL:+--model "$MODEL"} $TRAINING \
  --output_dir "$OUT/ranker"

for split in $SPLITS; do
  runs=$OUT/runs/$split
  for first in bm25 dense; do
    printf '\n== rerank: what %s found for the %s queries\n' "$first" "$split"
    # shellcheck disable=SC2086
    run rerank rerank --ranker "$OUT/ranker" --split "$split" --first_stage "$runs/$first/run.trec" ${RERANKING:-} \
      --output_dir "$runs/ranker_over_$first"
  done

  printf '\n== score: every system on the %s queries\n' "$split"
  settings=score_$split report=$OUT/report_$split
  [ -e "$recipe/$settings.yaml" ] || settings=score
  [ "$split" != test ] || report=$OUT/report
  run score "$settings" --split "$split" --runs bm25="$runs/bm25/run.trec" dense="$runs/dense/run.trec" \
    ranker_over_bm25="$runs/ranker_over_bm25/run.trec" ranker_over_dense="$runs/ranker_over_dense/run.trec" \
    --output_dir "$report"
done
