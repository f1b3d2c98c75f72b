#!/usr/bin/env bash
# Our rankers of studies/apidocs.yaml against sentence-transformers' own miner, trainer and losses: equal queries, pairs, steps
# and start, one pool reranked by each. Dev chooses the peer's loss and learning rate. Resumable.
#
#     python recipes/study.py --study studies/apidocs.yaml --output_dir out/study
#     bash recipes/results/peer_cpu.sh
#
# STUDY        what study.py wrote                          (default out/study)
# OUT          folder for all results                       (default out/peer)
# ROW          our row of the study                         (default bm25+dense)
# SEEDS        of the trainings                             (default "42 43 44")
# LOSSES       of the peer                                  (default "bce listnet lambda")
# STEPS        of the peer's trainings                      (default 200, as the study has)
# RATES        learning rates of the peer                   (default "1e-4", as the study has)
set -euo pipefail
cd "$(dirname "$0")/../.."

STUDY=${STUDY:-out/study}
OUT=${OUT:-out/peer}
ROW=${ROW:-bm25+dense}
SEEDS=${SEEDS:-42 43 44}
LOSSES=${LOSSES:-bce listnet lambda}
STEPS=${STEPS:-200}
RATES=${RATES:-1e-4}
. recipes/results/steps.sh
collection apidocs

over_fused() { # over_fused RANKER SPLIT OUTPUT: as the study reranks
  python recipes/rerank.py --ranker "$1" "${at[@]}" --split "$2" --depth 50 --dtype bfloat16 \
    --first_stage "$STUDY/apidocs/runs/$2/fused/run.trec" --output_dir "$3"
}

peer() { # peer LOSS RATE SEED OUTPUT: from the start of the study's rankers, with the study's dense retriever
  python recipes/benchmarks/peer_ranker.py "${at[@]}" --model "$STUDY/apidocs/start" --retriever "$DENSE" --loss "$1" \
    --learning_rate "$2" --seed "$3" --num_negatives 5 --queries_a_step 16 --max_steps "$STEPS" --max_length 128 --depth 100 \
    --bf16 true --embeddings "$OUT/embeddings" --output_dir "$4"
}

read -r first _ <<< "$SEEDS"
runs=()
for loss in $LOSSES; do
  for rate in $RATES; do
    peer "$loss" "$rate" "$first" "$OUT/$loss-$rate-$first"
    over_fused "$OUT/$loss-$rate-$first" dev "$OUT/dev/$loss-$rate"
    runs+=("$loss-$rate=$OUT/dev/$loss-$rate/run.trec")
  done
done
python recipes/score.py "${at[@]}" --split dev --measures nDCG@10 --runs "${runs[@]}" --output_dir "$OUT/choice"
best=$(python -c 'import json, sys
means = {system["name"]: system["scores"]["nDCG@10"]["mean"] for system in json.load(open(sys.argv[1]))["systems"]}
print(max(means, key=means.get))' "$OUT/choice/report.json")
loss=${best%%-*} rate=${best#*-}

reports=()
for seed in $SEEDS; do
  peer "$loss" "$rate" "$seed" "$OUT/$best-$seed"
  over_fused "$OUT/$best-$seed" test "$OUT/test/peer-$seed"
  python recipes/score.py "${at[@]}" --split test --measures nDCG@10 MRR@10 --output_dir "$OUT/report-$seed" \
    --runs fused="$STUDY/apidocs/runs/test/fused/run.trec" peer="$OUT/test/peer-$seed/run.trec" \
    ours="$STUDY/apidocs/reranked/test/fused/$ROW.$seed/run.trec" --first_stages peer=fused ours=fused
  reports+=("$OUT/report-$seed/report.json")
done
if [ "${#reports[@]}" -gt 1 ]; then python recipes/over_seeds.py --reports "${reports[@]}"; fi
