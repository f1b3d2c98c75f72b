#!/usr/bin/env bash
# The study of studies/apidocs.yaml, and what each of its rankers adds to the fused list that it reranks: both scores,
# standardised, with equal weights, so that nothing is chosen. Resumable.
#
#     bash recipes/results/study_cpu.sh
#
# OUT          folder for all results                       (default out/study)
# STUDY        the study's file                             (default studies/apidocs.yaml)
# JOBS         stages at the same time                      (default 2)
# SEEDS        those of the study                           (default "42 43 44")
set -euo pipefail
cd "$(dirname "$0")/../.."

OUT=${OUT:-out/study}
STUDY=${STUDY:-studies/apidocs.yaml}
JOBS=${JOBS:-2}
SEEDS=${SEEDS:-42 43 44}
. recipes/results/steps.sh
collection apidocs

python recipes/study.py --study "$STUDY" --output_dir "$OUT" --jobs "$JOBS"
fused=$OUT/apidocs/runs/test/fused/run.trec
for seed in $SEEDS; do
  added=()
  for row in bm25 dense bm25+dense; do
    here=$OUT/apidocs/added/$row.$seed
    python recipes/fuse.py --within ranker --method standardise --output_dir "$here" \
      --runs ranker="$OUT/apidocs/reranked/test/fused/$row.$seed/run.trec" fused="$fused"
    added+=("fused+$row=$here/run.trec")
  done
  python recipes/score.py "${at[@]}" --split test --measures nDCG@10 MRR@10 --runs fused="$fused" "${added[@]}" \
    --first_stages fused+bm25=fused fused+dense=fused fused+bm25+dense=fused --output_dir "$OUT/apidocs/added/report-$seed"
done
over_seeds "$OUT/apidocs/added/report"
