#!/usr/bin/env bash
# Everything that is to be shown on a GPU: tests of the kernels, and speed and memory against their bars. Minutes on one
# H200; never more than 25. No network is needed. OUT/rows.md is made for RESULTS.md, and is complete after every part.
#
#     bash recipes/benchmarks/gpu.sh
#     DEVICE=cpu SIZE=toy bash recipes/benchmarks/gpu.sh          # only to see that it runs
#
# OUT      folder for logs, figures and rows.md                   (default out/gpu)
# PARTS    of them, in this order                                 (default kernels training reranking memory)
# MODEL    folder of an encoder, or Hub id                        (default a fresh one of BERT base's size)
# WHEELS   folder of wheels for what is not installed here, such as `pip download --no-deps datasets dill multiprocess`;
#          they go to OUT/site, and the environment stays as it is
# DEVICE   cuda or cpu                                            (default cuda)
# SIZE     full or toy                                            (default full)
# PYTHON   the interpreter                                        (default python3)
# COMMIT   of this package, for the rows                          (default git's)
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-out/gpu}
PARTS=${PARTS:-kernels training reranking memory}
DEVICE=${DEVICE:-cuda}
SIZE=${SIZE:-full}
PYTHON=${PYTHON:-python3}
COMMIT=${COMMIT:-$(git describe --always --dirty --exclude '*' 2>/dev/null || echo unknown)}
export TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$OUT"
failed=0

if [ -n "${WHEELS:-}" ]; then
  "$PYTHON" -m pip install -q --no-index --no-deps --upgrade --target "$OUT/site" "$WHEELS"/*.whl
  export PYTHONPATH=$PYTHONPATH:$OUT/site
fi
if [ "$DEVICE" = cpu ]; then
  export CUDA_VISIBLE_DEVICES=
  name="CPU, $SIZE size"
elif ! name=$("$PYTHON" -c 'import torch; print(torch.cuda.get_device_name())' 2>"$OUT/device.log"); then
  echo "no CUDA device: $(tail -1 "$OUT/device.log"); DEVICE=cpu SIZE=toy runs the script without one" >&2
  exit 2
fi

collection=(--collection apidocs --collection_options passages=8000 test=200)
sizes=()
training=(--queries 12 --negatives 40 --batch_sizes 1 2 4 12 --steps 20 --repeats 5)
# 16,000 pairs, each passage in two of them, as in a top 1000 of MS MARCO's dev queries
reranking=(--queries 160 --depth 100 --batch_sizes 64 128 256 512 --repeats 7)
memory=(--queries 12 --sizes 41 401 --memory_budget 8)
if [ "$SIZE" = toy ]; then
  collection=(--collection apidocs --collection_options passages=150 test=20 dev=15)
  sizes=(--sizes vocab_size=1000 hidden_size=32 num_hidden_layers=2 num_attention_heads=2 intermediate_size=64)
  training=(--queries 2 --negatives 3 --batch_sizes 1 2 --steps 2 --repeats 1 --peak_tflops 0.1)
  reranking=(--queries 2 --depth 10 --batch_sizes 4 8 --repeats 1)
  memory=(--queries 1 --sizes 4 40 --memory_budget 0.001 --tokens 32)
fi

part() { # part NAME SECONDS ARGUMENTS...: python with these; its output goes to NAME.log, too; a failure ends nothing else
  local log=$OUT/$1.log code=0 started=$SECONDS
  case " model $PARTS " in *" $1 "*) ;; *) return 0 ;; esac
  rm -f "$OUT/$1.json" "$OUT/$1.xml"
  echo "$ $PYTHON ${*:3}" | tee "$log"
  timeout --kill-after=10 "$2" "$PYTHON" "${@:3}" 2>&1 | tee -a "$log" || code=$?
  [ "$code" = 0 ] || failed=1
  echo "exit code $code, $((SECONDS - started)) of at most $2 seconds, $name, commit $COMMIT" | tee -a "$log"
  "$PYTHON" recipes/benchmarks/bars.py --results "$OUT" >/dev/null
}

part kernels 240 -m pytest -q -p no:cacheprovider -m gpu tests/test_padding_free.py --junitxml "$OUT/kernels.xml"
if [ -z "${MODEL:-}" ] && [ "$PARTS" != kernels ]; then
  MODEL=$OUT/model
  part model 120 recipes/benchmarks/fresh_model.py "${collection[@]}" "${sizes[@]}" --output_dir "$MODEL"
fi
part training 480 recipes/benchmarks/training.py --model "$MODEL" "${collection[@]}" --precisions bf16 "${training[@]}" \
  --figures "$OUT/training.json"
part reranking 300 recipes/benchmarks/reranking.py --model "$MODEL" "${collection[@]}" --precisions bfloat16 \
  "${reranking[@]}" --figures "$OUT/reranking.json"
part memory 240 recipes/benchmarks/memory.py --model "$MODEL" "${memory[@]}" --figures "$OUT/memory.json"
cat "$OUT/rows.md"
exit "$failed"
