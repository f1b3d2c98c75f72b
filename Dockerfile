# docker build -t r2anker_hf .                              CPU
# docker build -t r2anker_hf --build-arg FAISS=gpu .        GPU; torch and faiss bring the CUDA libraries they need,
#                                                           the host its driver and the NVIDIA container toolkit
# docker run --rm -v "$PWD/out:/home/r2anker/r2anker_hf/out" [--gpus all] r2anker_hf
#
# pip takes PyTorch from wherever it is told to: to get the smaller CPU build, name PyTorch's own CPU index with
# --build-arg PIP_EXTRA_INDEX_URL=...
# Python 3.11 is what constraints.txt was tried with.
ARG BASE=python:3.11-slim
FROM ${BASE}

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --shell /bin/bash r2anker \
    && install --directory --owner=r2anker --group=r2anker /home/r2anker/r2anker_hf

USER r2anker
WORKDIR /home/r2anker/r2anker_hf

ARG FAISS=cpu
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The requirements in a layer of their own: a change of the code does not install them again.
COPY --chown=r2anker Makefile setup.py pyproject.toml constraints.txt LICENSE ./
COPY --chown=r2anker r2anker_hf/__init__.py r2anker_hf/
RUN mkdir out \
    && make install EXTRAS=${FAISS},demo,test

COPY --chown=r2anker . .
# make compares times, and the copy may carry younger ones than the layer above.
RUN touch .venv/.installed
ENV PATH=/home/r2anker/r2anker_hf/.venv/bin:${PATH}

CMD ["make", "demo"]
