#!/usr/bin/env bash
# Whether ffi/ is what bindgen makes of NVIDIA's headers: cuFile's and NCCL's, of the pinned wheels.
#
#   scripts/check_ffi.sh           # writes nothing, and fails on a difference
#   scripts/check_ffi.sh --write   # writes ffi/ anew
#
# Headers, libclang and bindgen come from scripts/setup_cuda.sh --ffi, each of one version, so that the output depends
# on nothing else that is installed but the C library's headers. What is bound is what air calls, and what a reader into
# a GPU's memory and groups of GPUs call.
set -euo pipefail
cd "$(dirname "$0")/.."
cuda=${AIR_CUDA:-${XDG_CACHE_HOME:-$HOME/.cache}/air-cuda}
tools=$cuda/ffi
[[ -f "$tools/installed" ]] || { echo "skipped: no bindgen for ffi/; scripts/setup_cuda.sh --ffi installs it"; exit 0; }
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
export LIBCLANG_PATH=$tools/clang

# bound LIBRARY STRUCT HEADER FUNCTIONS [MORE FLAGS]
bound() {
    local library=$1 struct=$2 header=$3 functions=$4
    shift 4
    {
        echo "//! $struct as its header declares it, for a library that is loaded while air runs."
        echo "//!"
        echo "//! Written by $("$tools/bin/bindgen" --version) through scripts/check_ffi.sh --write; not by hand."
        echo
        echo "#![allow(missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals)]"
        echo "#![allow(clippy::all, clippy::undocumented_unsafe_blocks)]"
        echo
        "$tools/bin/bindgen" "$header" --dynamic-loading "$struct" --dynamic-link-require-all --wrap-unsafe-ops \
            --no-layout-tests --no-doc-comments --disable-header-comment --formatter none --rust-target 1.85 \
            --rust-edition 2024 --default-enum-style consts --no-prepend-enum-name --allowlist-function "$functions" \
            "$@" -- -I"$cuda/nvidia/cu13/include" -I"$(cc -print-file-name=include)"
    } >"$made/$library.rs"
    rustfmt --edition 2024 --config-path rustfmt.toml "$made/$library.rs"
}

# Error codes of the driver are cudarc's business, file systems of one's own nobody's.
cufile='GetVersion|SetParameterString|Driver(Open|Close_v2|GetProperties)|Read'
cufile+='|Handle(Register|Deregister)|Buf(Register|Deregister)'
bound cufile CuFile "$cuda/nvidia/cu13/include/cufile.h" "cuFile($cufile)" \
    --allowlist-type 'CUfileDriver(Status|Control)Flags' \
    --blocklist-type 'cudaError_enum|CUresult|CUfileFSOps|cufileRDMAInfo.*|sockaddr.*|sa_family_t|(__)?loff_t|__off64_t' \
    --raw-line 'pub type CUresult = ::std::os::raw::c_uint;' \
    --raw-line 'pub type CUfileFSOps = ::std::os::raw::c_void;'
bound nccl Nccl "$tools/nccl.h" \
    'nccl(Get(Version|UniqueId|ErrorString)|Comm(InitRank|Destroy)|AllReduce|Broadcast|Group(Start|End))'

for library in cufile nccl; do
    if [[ "${1:-}" == --write ]]; then
        cp "$made/$library.rs" "ffi/$library.rs"
    elif ! diff -u "ffi/$library.rs" "$made/$library.rs"; then
        echo "ffi/$library.rs is not what bindgen makes of its header; scripts/check_ffi.sh --write writes it" >&2
        exit 1
    fi
done
echo "ffi/ is what $("$tools/bin/bindgen" --version) makes of the headers"
