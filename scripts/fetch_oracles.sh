#!/usr/bin/env bash
# Fetches what tests and scripts compare with, into $AIR_ORACLES (default ~/.cache/air-oracles):
#
#   scripts/fetch_oracles.sh           # llama.cpp's sources (vocabularies, token vectors, chat templates): 77 MB
#   scripts/fetch_oracles.sh --llama   # and llama-cpp-python built from them
#   scripts/fetch_oracles.sh --peers   # and that, and a venv with torch and transformers
#
# Nothing of it is committed. Needs Python 3.11 with pip; --llama and --peers need clang-16 (gcc 12 miscompiles the
# peer's AMX path) and take about ten minutes on two cores.
set -euo pipefail
cache=${AIR_ORACLES:-$HOME/.cache/air-oracles}
version=0.3.36
mkdir -p "$cache"
cd "$cache"

if [[ ! -d llama-src ]]; then
    echo "fetching the sources of llama-cpp-python $version"
    rm -rf download && mkdir download
    python3 -m pip download --quiet --no-deps --no-binary llama-cpp-python "llama-cpp-python==$version" -d download
    tar -xzf download/llama_cpp_python-$version.tar.gz -C download
    mv download/llama_cpp_python-$version llama-src
    rm -rf download
fi

if [[ "${1:-}" == --llama || "${1:-}" == --peers ]] && [[ ! -x llama/bin/python ]]; then
    echo "building llama-cpp-python with clang-16"
    python3 -m venv llama
    llama/bin/pip install --quiet scikit-build-core cmake ninja gguf numpy jinja2
    (cd llama-src && CC=clang-16 CXX=clang++-16 ../llama/bin/pip install --quiet --no-build-isolation .)
fi
if [[ "${1:-}" == --peers ]] && [[ ! -x torch/bin/python ]]; then
    echo "installing torch and transformers"
    python3 -m venv torch
    torch/bin/pip install --quiet torch transformers gguf numpy safetensors tokenizers sentencepiece protobuf jinja2
fi
echo "oracles are in $cache"
