#!/usr/bin/env bash
# Mutation tests: every patch here breaks the code in one small way, and some test must notice.
#
#   tests/mutants/run.sh [NAME …]     # all, or those whose file name contains a NAME
#   tests/mutants/run.sh --in-turn    # a third of them: every commit has its third, by how many commits there are
#   tests/mutants/run.sh --check      # only whether every patch applies
#
# The first line of a patch names the tests that must turn red ("Red: --lib kv::"), as arguments of `cargo test`. The
# mutant must still compile; one that compiles and passes is a hole in the tests, one that no longer applies is stale.
# Mutants are built in a copy of the tree under target/mutants, never in place. Needs the tool `patch`.
set -uo pipefail
command -v patch >/dev/null || { echo "patch is missing, which makes the mutants: install it (apt-get install patch)"; exit 1; }
cd "$(dirname "$0")/../.."
root=$PWD
tree=$root/target/mutants/tree
export CARGO_TARGET_DIR=$root/target/mutants/build
rm -rf "$tree" && mkdir -p "$tree"
git ls-files -co --exclude-standard -z | xargs -0 cp --parents -t "$tree" 2>/dev/null
cd "$tree"

if [[ "${1:-}" == --check ]]; then
    stale=0
    for patch in "$root"/tests/mutants/*.patch; do
        patch --dry-run --silent --strip=1 <"$patch" >/dev/null || { echo "STALE    $(basename "$patch" .patch)"; stale=1; }
    done
    exit $stale
fi

# Whether `build.rs` finds a compiler for kernels.
has_nvcc() {
    local installed=${AIR_CUDA:-${XDG_CACHE_HOME:-$HOME/.cache}/air-cuda}/nvidia/cu13/bin/nvcc
    [[ -n "${NVCC:-}" || -x "${CUDA_HOME:-/none}/bin/nvcc" || -x "$installed" ]] || command -v nvcc >/dev/null
}

alive=0 killed=0 number=0 turns=1
if [[ "${1:-}" == --in-turn ]]; then
    turns=3
    shift
fi
turn=$(($(git -C "$root" rev-list --count HEAD 2>/dev/null || echo 0) % turns))
for patch in "$root"/tests/mutants/*.patch; do
    name=$(basename "$patch" .patch)
    number=$((number + 1))
    [[ $((number % turns)) -eq $turn ]] || continue
    if [[ $# -gt 0 ]]; then
        wanted=no
        for n in "$@"; do [[ $name == *$n* ]] && wanted=yes; done
        [[ $wanted == yes ]] || continue
    fi
    read -r -a red < <(sed -n '1s/^Red: //p' "$patch")
    if [[ "${red[*]}" == *"--features cuda"* ]] && ! has_nvcc; then
        echo "skipped: no nvcc for $name; scripts/setup_cuda.sh installs it"
        continue
    fi
    if ! patch --silent --strip=1 <"$patch" >/dev/null; then
        echo "STALE    $name: the patch no longer applies"
        alive=$((alive + 1))
        git -C "$root" ls-files -z -- src kernels | xargs -0 -I{} cp "$root/{}" "{}"
        continue
    fi
    if ! cargo test --quiet "${red[@]}" --no-run >log 2>&1; then
        echo "BROKEN   $name: the mutant does not compile"
        grep -m3 '^error' log
        alive=$((alive + 1))
    elif timeout 120 cargo test --quiet "${red[@]}" >log 2>&1; then
        echo "SURVIVED $name: ${red[*]} passed"
        alive=$((alive + 1))
    else
        echo "killed   $name: $(grep -m1 -oE '^test .*FAILED|panicked at [^:]*:[0-9]+|ERROR: AddressSanitizer: [a-z-]+|signal: [0-9]+' log)"
        killed=$((killed + 1))
    fi
    patch --silent --strip=1 --reverse <"$patch" >/dev/null
done
echo "$killed mutants killed, $alive alive$([[ $turns -eq 1 ]] || echo "; the others have their turn at other commits")"
[[ $alive -eq 0 && $killed -gt 0 ]]
