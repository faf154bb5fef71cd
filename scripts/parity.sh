#!/usr/bin/env bash
# Prints how air agrees with its oracles: families x shapes (transformers), formats (the gguf package), synthetic
# models and quantisers (llama.cpp), vocabularies (llama.cpp), chat templates (transformers), the fast path (--exact).
# What needs an oracle that is not fetched says "skipped"; see scripts/fetch_oracles.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
for t in families synth fast tokens chat_templates quantize; do
    printf '\n== %s\n' "$t"
    cargo test --quiet --test "$t" -- --show-output 2>/dev/null | grep -vE '^$|^running|^successes:|^---- |^test result|^\.+$|^    '
done
printf '\n== formats\n'
cargo test --quiet --lib quant:: -- --show-output 2>/dev/null | grep -vE '^$|^running|^successes:|^---- |^\.+ |^    '
