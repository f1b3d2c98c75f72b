#!/usr/bin/env bash
# The negatives of msmarco-devsmall-pos from three runs over its training queries: how fast they are mined, the audit,
# and the distances of Figure 2. The rows "Negatives" of RESULTS.md.
#
#     DATA=path/to/folders bash recipes/results/negatives_cpu.sh BM25/run.trec DENSE/run.trec SPLADE/run.trec
#
# DATA holds the BEIR folder msmarco-devsmall-pos; each run goes down to rank 200 at least. Results are in OUT
# (out/negatives_cpu): negatives/README.md is the card with the audit, negatives/suspicious.md is to be read.
set -euo pipefail
cd "$(dirname "$0")/../.."

OUT=${OUT:-out/negatives_cpu}
runs="bm25=${1:?a run of BM25} dense=${2:?one of a dense retriever} splade=${3:?one of SPLADE}"
export TOKENIZERS_PARALLELISM=false

# measured NAME COMMAND...: seconds and peak memory of one command
measured() {
  python - "$@" <<'PY'
import resource, subprocess, sys, time
name, *command = sys.argv[1:]
started = time.perf_counter()
code = subprocess.run(command).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(f"{name}: {time.perf_counter() - started:.1f} s, at most {peak:,.0f} MiB", flush=True)
sys.exit(code)
PY
}

# shellcheck disable=SC2086  # runs holds several words
OMP_NUM_THREADS=1 measured "mining alone" python recipes/mine.py --collection "$DATA/msmarco-devsmall-pos" --runs $runs \
  --depth 200 --audit_queries 0 --output_dir "$OUT/unaudited"
# shellcheck disable=SC2086
measured "mining and audit" python recipes/mine.py --collection "$DATA/msmarco-devsmall-pos" --runs $runs \
  --depth 200 --output_dir "$OUT/negatives"
measured "Figure 2" python recipes/analyse.py --negatives "$OUT/negatives" --reference bm25 --output_dir "$OUT/analysis"
du -b "$OUT/negatives/candidates/"*.parquet
