#!/usr/bin/env bash
# The rows of RESULTS.md on one ranker for four collections: trained on a mixture of their training queries, by labels and
# by fused first stages, then measured on each. From it, one special ranker per collection. Resumable.
#
#     DATA=path/to/folders bash recipes/results/general_cpu.sh
#
# DATA         holds the BEIR folders nfcorpus, scifact, msmarco-devsmall-pos and msmarco-dl19-pool
# OUT          folder for all results                       (default out/general_cpu)
# STEPS        of 16 queries with 8 passages each           (default 1200: an hour on one core)
# SEEDS        of the training                              (default 42)
# SPECIAL      further steps on one collection each         (default 0: no special rankers)
set -euo pipefail
cd "$(dirname "$0")/../.."

OUT=${OUT:-out/general_cpu}
STEPS=${STEPS:-1200}
SEEDS=${SEEDS:-42}
SPECIAL=${SPECIAL:-0}
NAMES="msmarco-devsmall-pos nfcorpus scifact apidocs"
. recipes/results/steps.sh

negatives=()
for name in $NAMES; do
  negatives_of "$name"
  negatives+=("$OUT/$name/negatives")
done

for seed in $SEEDS; do
  ranker=$OUT/ranker-$seed
  train "$ranker" "$seed" "$MODEL" "$STEPS" 3e-4 "${negatives[@]}"
  for name in nfcorpus scifact apidocs; do measure "$ranker" "ranker-$seed" "$name"; done
  measure_dl19 "$ranker" "ranker-$seed"

  if [ "$SPECIAL" -gt 0 ]; then
    for name in $NAMES; do
      special=$OUT/$name/special-$seed
      train "$special" "$seed" "$ranker" "$SPECIAL" 1e-4 "$OUT/$name/negatives"
      if [ "$name" = msmarco-devsmall-pos ]; then
        measure_dl19 "$special" "special-$seed"
      else
        measure "$special" "special-$seed" "$name"
      fi
    done
  fi
done

for name in nfcorpus scifact apidocs msmarco-dl19-pool; do over_seeds "$OUT/$name/report-ranker"; done
