#!/usr/bin/env bash
# The rows of RESULTS.md on nfcorpus with a retriever of its own: MiniLM learns from all labels of the training queries,
# BM25 and this retriever are the first stages, and the general ranker learns on from their negatives. Resumable.
#
#     DATA=path/to/folders bash recipes/results/general_cpu.sh
#     DATA=path/to/folders bash recipes/results/nfcorpus_cpu.sh
#
# DATA         holds the BEIR folder nfcorpus
# GENERAL      what general_cpu.sh wrote                    (default out/general_cpu)
# OUT          folder for all results                       (default out/nfcorpus_cpu)
# STEPS        of 16 queries with 8 passages each           (default 400: half an hour on one core)
# SEEDS        of the general rankers and their training    (default 42)
set -euo pipefail
cd "$(dirname "$0")/../.."

GENERAL=${GENERAL:-out/general_cpu}
OUT=${OUT:-out/nfcorpus_cpu}
STEPS=${STEPS:-400}
SEEDS=${SEEDS:-42}
. recipes/results/steps.sh

# a query has 43 labelled passages, and sees another one in each of 16 passes; the batch holds the negatives
python recipes/train_retriever.py --collection "$DATA/nfcorpus" --retriever dense --model "$MODEL" --rounds 1 \
  --num_negatives 0 --num_train_epochs 16 --learning_rate 5e-5 --per_device_train_batch_size 64 --max_length 128 \
  --output_dir "$OUT/retriever"
DENSE=$OUT/retriever/D1
negatives_of nfcorpus

for seed in $SEEDS; do
  ranker=$OUT/ranker-$seed
  train "$ranker" "$seed" "$GENERAL/ranker-$seed" "$STEPS" 1e-4 "$OUT/nfcorpus/negatives"
  measure "$ranker" "ranker-$seed" nfcorpus
  python recipes/score.py "${at[@]}" --split test --measures nDCG@10 MRR@10 R@100 --output_dir "$OUT/report-$seed" \
    --runs free="$GENERAL/nfcorpus/test/fused/run.trec" fused="$OUT/nfcorpus/test/fused/run.trec" \
    interpolated="$OUT/nfcorpus/test/interpolated-ranker-$seed/run.trec" --first_stages interpolated=fused
done

over_seeds "$OUT/nfcorpus/report-ranker" # ranker and first stages
over_seeds "$OUT/report"                 # and the fusion without any training
