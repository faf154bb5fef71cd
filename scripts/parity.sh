#!/usr/bin/env bash
# Prints how air agrees with its oracles: families x shapes (transformers), formats (the gguf package), synthetic
# models and quantisers (llama.cpp), vocabularies (llama.cpp), chat templates (transformers), the fast path (--exact).
# What needs an oracle that is not fetched says "skipped"; see scripts/fetch_oracles.sh. Exits with 1 if any disagrees.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=0

show() {
    local out
    out=$(cargo test --quiet "$@" -- --show-output --format=pretty 2>/dev/null) || failed=1
    grep -vE '^$|^running|^successes:|^---- |^test result|^thread |^note: |^    ' <<<"$out"
}

for t in families synth fast tokens chat_templates quantize; do
    printf '\n== %s\n' "$t"
    show --test "$t"
done
printf '\n== formats\n'
show --lib quant::
exit $failed
