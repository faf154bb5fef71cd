#!/usr/bin/env bash
# Installs the CUDA compiler that `cargo build --features cuda` needs, without root and beside whatever is there:
# NVIDIA's own wheels, pinned by version and hash, into $AIR_CUDA (default ~/.cache/air-cuda). 100 MB to fetch, 270 MB
# on the disk; with them comes cuFile, which air loads while it runs. Run again, it says that all is there.
#
#   scripts/setup_cuda.sh         # the compiler
#   scripts/setup_cuda.sh --ffi   # and what scripts/check_ffi.sh needs: 220 MB to fetch, of which NCCL's library is
#                                 # thrown away (only its header counts), and bindgen to build, a minute of two cores
#
# The version is a choice: CUDA 13.0 writes PTX 9.0, which drivers from r580 on take; the wheels of newer releases
# write PTX that those drivers refuse. The licence of the wheels forbids to commit them.
set -euo pipefail
cuda=${AIR_CUDA:-${XDG_CACHE_HOME:-$HOME/.cache}/air-cuda}
root=$cuda/nvidia/cu13
release=13.0.88

fail() { echo "error: $*" >&2; exit 1; }

# Each line: package, version, hash of the wheel for x86_64, hash of the wheel for aarch64.
wheels() {
    cat <<'END'
nvidia-cuda-nvcc 13.0.88 56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03 c7ff28f86a24effdc6c034fa15230c549a273e4771b10a7fec14996f8cf3307f
nvidia-nvvm 13.0.88 c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0 c4376a291d72d22a315d9d2f69bdae8f8cd83a627f75bad395cee49a0fe65dc1
nvidia-cuda-crt 13.0.88 2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4 ee2ea2a97073e02ee62bb27841f437332be2c248e3eac013df07997ada39c003
nvidia-cuda-runtime 13.0.96 7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548 ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55
nvidia-cuda-cccl 13.0.85 e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649 6f0203e29fed809ee2b7fe9b1344df66ecab990c37d6a2e0e189b26d6c97ed7c
nvidia-cufile 1.15.1.6 08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44 bdc0deedc61f548bddf7733bdc216456c2fdb101d020e1ab4b88d232d5e2f6d1
END
}

# What bindgen needs: NCCL for its header, and clang's library.
bindgen_wheels() {
    cat <<'END'
nvidia-nccl-cu13 2.27.7 b28a524abd8389b76a4a3f133c76a7aaa7005e47fcaa9d9603b90103927a3f93 5e3cc863e52bf9dd1e3ab1941bddb414098f489ae7342f6b3a274602303da123
libclang 18.1.1 c533091d8a3bbf7460a00cb6c1a71da93bffe148f172c7d03b1c31fbf8aa2a0b 54dda940a4a0491a9d1532bf071ea3ef26e6dbaf03b5000ed94dd7174e8f9592
END
}
bindgen=0.73.2

# Unpacks the wheels that the lines of the input name into a folder.
unpacked() {
    local package version x86 arm
    while read -r package version x86 arm; do
        echo "$package==$version --hash=sha256:$x86 --hash=sha256:$arm"
    done >"$parts/requirements.txt"
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-warn-script-location \
        --no-deps --only-binary=:all: --require-hashes --target "$1" -r "$parts/requirements.txt"
}

# Compiles one kernel: nvcc needs a C++ compiler for its preprocessor, and says so late.
tried() {
    local dir
    dir=$(mktemp -d)
    echo '#include <cuda_fp16.h>
extern "C" __global__ void probe(half *x) { x[0] = __float2half(1.0f); }' >"$dir/probe.cu"
    if ! "$root/bin/nvcc" -ptx -arch=compute_80 -o "$dir/probe.ptx" "$dir/probe.cu" >"$dir/log" 2>&1; then
        cat "$dir/log" >&2
        rm -rf "$dir"
        fail "$root/bin/nvcc does not compile (above); a C++ compiler is needed too (Debian: apt install g++)"
    fi
    rm -rf "$dir"
}

# The compiler and cuFile.
compiler() {
    unpacked "$parts/new" < <(wheels)
    rm -rf "$cuda/nvidia" "$cuda/installed"
    mv "$parts/new/nvidia" "$cuda/nvidia"
    tried
    wheels >"$cuda/installed"
}

# Header, libclang and bindgen for scripts/check_ffi.sh.
bindgen() {
    command -v cargo >/dev/null || fail "cargo is missing: install Rust 1.95 or newer"
    unpacked "$parts/ffi" < <(bindgen_wheels)
    rm -rf "$cuda/ffi"
    mkdir -p "$cuda/ffi/clang"
    mv "$parts/ffi/nvidia/nccl/include/nccl.h" "$cuda/ffi/nccl.h"
    mv "$parts/ffi/clang/native/libclang.so" "$cuda/ffi/clang/libclang.so"
    # Unoptimised, and without what only logs: the build takes longer than all runs.
    CARGO_TARGET_DIR=$parts/target cargo install --quiet bindgen-cli --version "$bindgen" --locked --debug \
        --no-default-features --features runtime --root "$cuda/ffi" --no-track
    { echo "$bindgen"; bindgen_wheels; } >"$cuda/ffi/installed"
}

# Whether the file tells of this very version.
has() { [[ -f "$1" && "$(cat "$1")" == "$2" ]]; }

case "$(uname -s) $(uname -m)" in
    "Linux x86_64" | "Linux aarch64") ;;
    *) fail "NVIDIA has no such wheels for $(uname -s) on $(uname -m); install CUDA 13.0 and set CUDA_HOME" ;;
esac
mkdir -p "$cuda"
parts=$(mktemp -d "$cuda/install.XXXXXX")
trap 'rm -rf "$parts"' EXIT

has "$cuda/installed" "$(wheels)" && compiler_there=1 || compiler_there=
[[ "${1:-}" != --ffi ]] || has "$cuda/ffi/installed" "$(echo "$bindgen"; bindgen_wheels)" && ffi_there=1 || ffi_there=
if [[ -z "$compiler_there" || -z "$ffi_there" ]]; then
    command -v python3 >/dev/null || fail "python3 is missing (Debian: apt install python3 python3-pip)"
    python3 -m pip --version >/dev/null 2>&1 || fail "pip is missing (Debian: apt install python3-pip)"
fi
if [[ -n "$compiler_there" ]]; then
    tried
    echo "CUDA $release is in $root already; cargo build --release --features cuda finds it there"
else
    echo "installing CUDA $release into $cuda"
    compiler
    echo "installed in $root; now: cargo build --release --features cuda"
fi
if [[ -z "$ffi_there" ]]; then
    echo "installing what scripts/check_ffi.sh needs into $cuda/ffi"
    bindgen
elif [[ "${1:-}" == --ffi ]]; then
    echo "what scripts/check_ffi.sh needs is in $cuda/ffi already"
fi
