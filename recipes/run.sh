#!/usr/bin/env bash
# The whole story of one recipe folder: two first stages and their fusion, joint negatives, a ranker, and its worth.
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
# RERANK      first stages that the ranker reranks          (default "bm25 dense fused"; fewer take less time)
# DEV_DEPTH   documents reranked per dev query              (default as for test)
# PSEUDO      warm up on so many pseudo-queries             (default: no warm start; needs warm_start.yaml)
# COMMON, WARM_START, TRAINING, RERANKING   further options for every stage, or for one
#
# Stages that are finished are not done twice, so a run that was stopped goes on where it was.
set -euo pipefail
recipes=$(cd "$(dirname "$0")" && pwd)

recipe=$recipes/${1:?which recipe? one of: $(cd "$recipes" && dirname */mine.yaml | xargs)}
OUT=${OUT:-out/$1}
LAUNCH=${LAUNCH:-python}
RERANK=${RERANK:-bm25 dense fused}
COMMON="${COLLECTION:+--collection $COLLECTION} ${COMMON:-}"
export TOKENIZERS_PARALLELISM=false

python() { # `r2anker demo` says by which interpreter
  command "${R2ANKER_PYTHON:-python}" "$@"
}

run() { # run STAGE [options]: the recipe of that stage with this folder's settings
  local script=$1 settings=$2
  shift 2
  # shellcheck disable=SC2086  # COMMON and LAUNCH hold several words
  $LAUNCH "$recipes/$script.py" --config "$recipe/$settings.yaml" $COMMON "$@"
}

SPLITS=${SPLITS:-$(sed -n 's/^split: *\([^ #]*\).*/\1/p' "$recipe"/score*.yaml)}
# the split that chooses the checkpoint, where no training queries are held out for that
DEV=$(sed -n 's/^dev_split: *\([^ #]*\).*/\1/p' "$recipe/train_ranker.yaml")
# the split that chooses how to fuse; none where fuse.yaml says it
FUSED_BY=$(sed -n 's/^dev_split: *\([^ #]*\).*/\1/p' "$recipe/fuse.yaml")
for split in $SPLITS; do
  if [ "$split" = "$DEV" ]; then
    echo "error: SPLITS: $split chooses the checkpoint, so it is not reported" >&2
    exit 2
  fi
done

both() { # both SPLIT: put the runs of BM25 and the dense retriever into `lists`
  lists=(bm25="$OUT/runs/$1/bm25/run.trec" dense="$OUT/runs/$1/dense/run.trec")
}

for split in train $DEV $SPLITS; do
  printf '\n== retrieve: the %s queries, by BM25 and by a dense retriever\n' "$split"
  run retrieve retrieve_bm25 --split "$split" --index "$OUT/index/bm25" --output_dir "$OUT/runs/$split/bm25"
  run retrieve retrieve_dense --split "$split" ${RETRIEVER:+--model "$RETRIEVER"} --index "$OUT/index/dense" \
    --output_dir "$OUT/runs/$split/dense"
done

for split in $DEV $SPLITS; do
  printf '\n== fuse: both lists of the %s queries as one%s\n' "$split" "${FUSED_BY:+, by weights that $FUSED_BY queries choose}"
  both "$split"
  runs=("${lists[@]}") chooser=()
  if [ -n "$FUSED_BY" ]; then
    both "$FUSED_BY"
    chooser=(--dev_runs "${lists[@]}")
  fi
  run fuse fuse --runs "${runs[@]}" "${chooser[@]}" --output_dir "$OUT/runs/$split/fused"
done

both train
if [ -n "${SPLADE:-}" ]; then
  printf '\n== retrieve: the train queries, by SPLADE\n'
  run retrieve retrieve_splade --split train --model "$SPLADE" --index "$OUT/index/splade" \
    --output_dir "$OUT/runs/train/splade"
  lists+=(splade="$OUT/runs/train/splade/run.trec")
fi
printf '\n== mine: the candidates that negatives are drawn from\n'
run mine mine --runs "${lists[@]}" --output_dir "$OUT/negatives"

if [ -n "${PSEUDO:-}" ]; then
  printf '\n== pseudo-queries: titles and first sentences, and what both retrievers find for them\n'
  split=pseudo.$PSEUDO unlabelled=$OUT/unlabelled
  run retrieve retrieve_bm25 --split "$split" --index "$OUT/index/bm25" --output_dir "$OUT/runs/$split/bm25"
  run retrieve retrieve_dense --split "$split" ${RETRIEVER:+--model "$RETRIEVER"} --index "$OUT/index/dense" \
    --output_dir "$OUT/runs/$split/dense"
  run mine mine --split "$split" --audit_queries 0 --output_dir "$unlabelled" \
    --runs bm25="$OUT/runs/$split/bm25/run.trec" dense="$OUT/runs/$split/dense/run.trec"
  WARM_START="--negatives_split $split --leave_out_positives true ${WARM_START:-}"
  printf "\n== warm start: a fresh ranker learns the retrievers' own scores, without judgements\n"
  # shellcheck disable=SC2086
  run train_ranker warm_start --negatives "$unlabelled" ${MODEL:+--model "$MODEL"} ${WARM_START:-} \
    --output_dir "$OUT/warm_start"
  MODEL=$OUT/warm_start
fi

printf '\n== train: a listwise cross-encoder on negatives of all\n'
TRAINING="${DEV:+--dev_run $OUT/runs/$DEV/fused/run.trec} ${TRAINING:-}"
# shellcheck disable=SC2086
run train_ranker train_ranker --negatives "$OUT/negatives" ${MODEL:+--model "$MODEL"} $TRAINING \
  --output_dir "$OUT/ranker"

scored=() # rerankings of one split, whose pairs are not scored again
rerank() { # rerank SPLIT FIRST_STAGE [options]
  local split=$1 first=$2
  shift 2
  printf '\n== rerank: what %s found for the %s queries\n' "$first" "$split"
  # shellcheck disable=SC2086
  run rerank rerank --ranker "$OUT/ranker" --split "$split" --first_stage "$OUT/runs/$split/$first/run.trec" \
    ${scored:+--scored "${scored[@]}"} ${RERANKING:-} "$@" --output_dir "$OUT/runs/$split/ranker_over_$first"
  scored+=("$OUT/runs/$split/ranker_over_$first")
}

weights=(--method standardise) # equal ones: a ranker's worth on its own training queries is no guide
if [[ -n "$DEV" && " $RERANK " == *" fused "* ]]; then
  rerank "$DEV" fused ${DEV_DEPTH:+--depth "$DEV_DEPTH"}
  weights=(--dev_runs ranker="$OUT/runs/$DEV/ranker_over_fused/run.trec" fused="$OUT/runs/$DEV/fused/run.trec")
fi

for split in $SPLITS; do
  systems=(bm25 dense fused) first_stages=() scored=()
  for first in $RERANK; do
    rerank "$split" "$first"
    systems+=("ranker_over_$first") first_stages+=("ranker_over_$first=$first")
  done

  if [[ " $RERANK " == *" fused "* ]]; then
    printf '\n== interpolate: the scores of the ranker and of the list that it reranked, for the %s queries\n' "$split"
    run fuse fuse --within ranker "${weights[@]}" --output_dir "$OUT/runs/$split/interpolated" \
      --runs ranker="$OUT/runs/$split/ranker_over_fused/run.trec" fused="$OUT/runs/$split/fused/run.trec"
    systems+=(interpolated) first_stages+=(interpolated=fused)
  fi

  printf '\n== score: every system on the %s queries\n' "$split"
  settings=score_$split report=$OUT/report_$split
  [ -e "$recipe/$settings.yaml" ] || settings=score
  [ "$split" != test ] || report=$OUT/report
  runs=()
  for system in "${systems[@]}"; do
    runs+=("$system=$OUT/runs/$split/$system/run.trec")
  done
  run score "$settings" --split "$split" --runs "${runs[@]}" --first_stages "${first_stages[@]}" --output_dir "$report"
done
