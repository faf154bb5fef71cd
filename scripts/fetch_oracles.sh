#!/usr/bin/env bash
# Fetches what tests and scripts compare with, into $AIR_ORACLES (default ~/.cache/air-oracles):
#
#   scripts/fetch_oracles.sh           # llama.cpp's sources (vocabularies, token vectors, chat templates): 77 MB
#   scripts/fetch_oracles.sh --llama   # and llama-cpp-python built from them
#   scripts/fetch_oracles.sh --peers   # and that, and a venv with torch and transformers
#   scripts/fetch_oracles.sh --server  # and llama.cpp's server built from them
#   scripts/fetch_oracles.sh --clients # and OpenAI's clients for Python and Node, with the former's tests, and schemathesis: 250 MB
#
# Nothing of it is committed. Needs Python 3.11 with pip; --llama, --peers and --server need clang-16 and libomp-16-dev
# (gcc 12 miscompiles the peer's AMX path) and take five to ten minutes on two cores.
# What is under its name is whole: a venv bears another one until then.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
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
    rm -rf llama.part && python3 -m venv llama.part
    llama.part/bin/pip install --quiet scikit-build-core cmake ninja gguf numpy jinja2
    (cd llama-src && CC=clang-16 CXX=clang++-16 ../llama.part/bin/pip install --quiet --no-build-isolation .)
    mv llama.part llama
fi
if [[ "${1:-}" == --peers ]] && [[ ! -x torch/bin/python ]]; then
    echo "installing torch and transformers"
    rm -rf torch.part && python3 -m venv torch.part
    torch.part/bin/pip install --quiet torch transformers gguf numpy safetensors tokenizers sentencepiece protobuf jinja2
    mv torch.part torch
fi
if [[ "${1:-}" == --server ]] && [[ ! -x llama-server/build/bin/llama-server ]]; then
    echo "building llama.cpp's server with clang-16"
    mkdir -p llama-server
    python3 -m venv llama-server/tools
    llama-server/tools/bin/pip install --quiet cmake ninja
    export PATH=$PWD/llama-server/tools/bin:$PATH
    # Without its web pages, which are not in the archive, and what is not needed beside the server.
    nice -n 19 cmake -G Ninja -S llama-src/vendor/llama.cpp -B llama-server/build -DCMAKE_BUILD_TYPE=Release \
        -DCMAKE_C_COMPILER=clang-16 -DCMAKE_CXX_COMPILER=clang++-16 -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF \
        -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF >llama-server/build.log
    nice -n 19 cmake --build llama-server/build -j2 --target llama-server >>llama-server/build.log
fi
if [[ "${1:-}" == --clients ]]; then
    pins=$here/clients/requirements.txt
    if ! cmp -s "$pins" clients/requirements.txt; then
        echo "fetching openai-python"
        rm -rf clients/python clients/openai-python download && mkdir -p clients download
        openai=$(grep '^openai==' "$pins")
        python3 -m pip download --quiet --no-deps --no-binary openai "$openai" -d download
        tar -xzf download/openai-*.tar.gz -C download
        mv download/openai-*/ clients/openai-python
        rm -rf download
        python3 -m venv clients/python
        clients/python/bin/pip install --quiet -r "$pins"
        cp "$pins" clients/
    fi
    if command -v npm >/dev/null && ! cmp -s "$here/clients/package.json" clients/node/package.json; then
        echo "fetching openai-node"
        rm -rf clients/node download && mkdir download
        cp "$here/clients/package.json" download/
        npm install --prefix download --silent --no-fund --no-audit --no-package-lock
        mv download clients/node
    fi
    pins=$here/openapi/requirements.txt
    if ! cmp -s "$pins" schemathesis/requirements.txt; then
        echo "fetching schemathesis"
        rm -rf schemathesis
        python3 -m venv schemathesis
        schemathesis/bin/pip install --quiet -r "$pins"
        cp "$pins" schemathesis/
    fi
fi
echo "oracles are in $cache"
