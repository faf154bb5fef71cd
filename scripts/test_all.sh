#!/usr/bin/env bash
# Everything that must hold on every commit: formatting, lints, all tests, documentation.
#
#   ./scripts/test_all.sh             # the tests
#   ./scripts/test_all.sh --mutants   # and the mutants: each broken copy of the code must turn a test red
#   ./scripts/test_all.sh --mutants-in-turn   # a third of them, another at each commit
#
# Needs Rust and a C compiler; the CUDA part also nvcc, which scripts/setup_cuda.sh installs, a C++ compiler, and no GPU;
# with --ffi that script installs bindgen too, which the bindings of ffi/ are compared with.
# The mutants' patches are tried where the tool `patch` is installed, what /metrics says is checked where `promtool` is.
# Tests that compare with other programs' data (tokenizer vectors, chat templates) use what scripts/fetch_oracles.sh has
# fetched; without it each says "skipped: reason", and the skips are counted at the end.
# With AIR_NO_SKIP=1 an unexpected skip is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
log=target/test_all.log
mkdir -p target
: >"$log"
start=$SECONDS

step() {
    local name=$1 from=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    "$@" || { printf '\nFAILED: %s\n' "$name"; exit 1; }
    printf -- '-- %s: %d s\n' "$name" $((SECONDS - from))
}

patches_apply() {
    if command -v patch >/dev/null; then
        tests/mutants/run.sh --check
    else
        echo "skipped: patch is not installed" | tee -a "$log"
    fi
}

run_tests() {
    set -o pipefail
    cargo test --lib --bins --tests -- --show-output 2>&1 | tee -a "$log" | grep -E '^(test |running|     Running|error|warning)|skipped:|panicked|FAILED|failures:'
}

run_doc_tests() { cargo test --doc 2>&1 | grep -E '^(test |error|test result)|FAILED'; }
run_docs() { RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet; }

run_deny() {
    if cargo deny --version >/dev/null 2>&1; then
        cargo deny --offline check licenses bans sources
    else
        echo "skipped: cargo-deny is not installed (cargo install cargo-deny)" | tee -a "$log"
    fi
}

run_metrics() { scripts/check_metrics.sh 2>&1 | tee -a "$log"; }
run_report() { AIR_GPU=target/gpu_report scripts/gpu_report.sh --rehearse >>"$log"; }
run_clients() { scripts/check_openai_clients.sh 2>&1 | tee -a "$log"; }
run_openapi() { scripts/check_openapi.py 2>&1 | tee -a "$log"; }
run_ffi() { scripts/check_ffi.sh 2>&1 | tee -a "$log"; }

has_nvcc() {
    local installed=${AIR_CUDA:-${XDG_CACHE_HOME:-$HOME/.cache}/air-cuda}/nvidia/cu13/bin/nvcc
    [[ -n "${NVCC:-}" || -x "${CUDA_HOME:-/none}/bin/nvcc" || -x "$installed" ]] || command -v nvcc >/dev/null
}

# Each of the three must pass: what stands left of `||` does not end at its first failure by itself.
cuda_tests() {
    set -o pipefail
    local shown='^(test |     Running|error|warning)|skipped:|panicked|FAILED|failures:'
    cargo test --features cuda --lib hal:: -- --show-output 2>&1 | tee -a "$log" | grep -E "$shown" &&
        cargo test --features cuda --test devices --test driver -- --show-output 2>&1 | tee -a "$log" | grep -E "$shown" &&
        cargo test --features cuda --test cuda 2>&1 | tee -a "$log" | grep -E "$shown"
}

step "formatting" cargo fmt --check
step "mutants apply" patches_apply
step "lints" cargo clippy --all-targets --quiet -- -D warnings
step "tests" run_tests
step "OpenAI's clients" run_clients
step "the server's document" run_openapi
step "metrics" run_metrics
step "documentation tests" run_doc_tests
step "documentation" run_docs
step "licences of dependencies" run_deny
if has_nvcc; then
    step "CUDA: kernels" scripts/check_kernels.sh
    step "CUDA: bindings" run_ffi
    step "CUDA: lints" cargo clippy --all-targets --features cuda --quiet -- -D warnings
    step "CUDA: tests" cuda_tests
    step "CUDA: rehearsal of the report" run_report
else
    printf '\n'
    echo "skipped: no nvcc; scripts/setup_cuda.sh installs it" | tee -a "$log"
fi
case "${1:-}" in
    --mutants) step "mutants" tests/mutants/run.sh ;;
    --mutants-in-turn) step "mutants" tests/mutants/run.sh --in-turn ;;
esac

# Skips that need a compiler-built peer or a training framework (scripts/fetch_oracles.sh --peers provides them), a tool,
# or another processor.
expected='no AVX-512|llama_cpp|recorded tokens|rendered chat|cargo-deny|promtool|patch is not installed|no openai-node'
skips=$(grep -c 'skipped:' "$log" || true)
unexpected=$(grep 'skipped:' "$log" | grep -cvE "$expected" || true)
printf '\n%d skipped, %d of them unexpectedly; all else passed in %d s\n' "$skips" "$unexpected" $((SECONDS - start))
if [[ -n "${AIR_NO_SKIP:-}" && $unexpected -gt 0 ]]; then
    grep 'skipped:' "$log" | grep -vE "$expected"
    exit 1
fi
