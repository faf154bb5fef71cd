#!/usr/bin/env bash
# OpenAI's own clients on `air serve`, with the embedded model:
#
#   scripts/check_openai_clients.sh [AIR]   # the program, by default what `cargo test` has built
#
# - openai-python's tests of chat completions, completions and models, from its source archive. All must pass but those
#   that scripts/clients/refused.py names with the field or endpoint that air refuses, which must be refused just so;
# - the examples of the README files of openai-python and openai-node, which check what they get.
#
# `scripts/fetch_oracles.sh --clients` fetches the clients; what is not there is skipped with a reason.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${AIR_ORACLES:-$HOME/.cache/air-oracles}/clients
here=$PWD/scripts/clients
air=$(realpath -m "${1:-${CARGO_TARGET_DIR:-target}/debug/air}")
log=$(mktemp -d)
servers=()

finish() {
    ((${#servers[@]} == 0)) || kill "${servers[@]}" 2>/dev/null || true
    wait
    rm -rf "$log"
}
trap finish EXIT

# Starts a server under the names that the clients ask for; its address is then in $address.
serve() {
    local out
    out=$(mktemp -p "$log")
    "$air" serve -P 0 --alias gpt-6-astra --alias gpt-3.5-turbo-instruct "$@" >"$out" 2>"$out.err" &
    servers+=($!)
    for _ in {1..300}; do
        address=$(sed -n 's/^ready: //p' "$out")
        [[ -z "$address" ]] || return 0
        sleep 0.1
    done
    cat "$out.err"
    echo "air serve was not ready within 30 s"
    return 1
}

missing() {
    if [[ ! -x "$air" ]]; then
        echo "no $air; cargo build makes it"
    elif [[ ! -d "$cache" ]]; then
        echo "no OpenAI clients; scripts/fetch_oracles.sh --clients fetches them"
    fi
}

if why=$(missing) && [[ -n "$why" ]]; then
    echo "skipped: $why"
    exit 0
fi
export OPENAI_API_KEY=anything AIR_SMALL_KEY=sk-of-the-small-one PYTHONDONTWRITEBYTECODE=1
echo "$AIR_SMALL_KEY" >"$log/keys"
serve
export OPENAI_BASE_URL=$address TEST_API_BASE_URL=$address
serve --max-num-seqs 1 --max-queue 8 --api-key-file "$log/keys"
export AIR_SMALL=$address

failed=0
if [[ -x "$cache/python/bin/python" ]]; then
    files=(chat/test_completions.py chat/completions/test_messages.py test_completions.py test_models.py)
    # Its own options want a plugin for many processes.
    options=(-q -o addopts= --tb=short -p no:cacheprovider -p refused)
    (cd "$cache/openai-python" && PYTHONPATH=$here timeout 300 "$cache/python/bin/python" -m pytest "${options[@]}" \
        "${files[@]/#/tests/api_resources/}") || failed=1
    timeout 300 "$cache/python/bin/python" "$here/readme.py" || failed=1
else
    echo "skipped: no openai-python (fetching it needs Python 3.10 or newer)"
fi
if [[ -d "$cache/node/node_modules/openai" ]] && command -v node >/dev/null; then
    (cd "$cache/node" && timeout 300 node --input-type=module - <"$here/readme.mjs") || failed=1
else
    echo "skipped: no openai-node (fetching it needs npm)"
fi
exit $failed
