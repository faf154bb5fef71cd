#!/usr/bin/env bash
# What /metrics says after a few requests, as Prometheus's own checker sees it: a server with the embedded model is started
# and asked, and `promtool check metrics` (Debian's package `prometheus`) reads the answer.
#
# Names that begin with `vllm:` are vLLM's, which routers and dashboards read; that they have a colon is the one thing
# about them that is not air's to mend.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v promtool >/dev/null || { echo "skipped: promtool is not installed (Debian: prometheus)"; exit 0; }

dir=$(mktemp -d)
server=
trap '[[ -z "$server" ]] || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT
cargo build --quiet
: >"$dir/out"
# cargo becomes the server.
cargo run --quiet -- serve -P 0 --log off >"$dir/out" 2>"$dir/err" &
server=$!
for _ in {1..600}; do
    port=$(sed -n 's|^ready: http://127.0.0.1:\([0-9]*\)/v1$|\1|p' "$dir/out")
    [[ -z "$port" ]] && kill -0 "$server" || break
    sleep 0.1
done
[[ -n "$port" ]] || { cat "$dir/err"; echo "the server is not ready"; exit 1; }

# METHOD PATH BODY: the body of the answer. Bash speaks TCP, so that nothing needs to be installed.
ask() {
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    printf '%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s' \
        "$1" "$2" "${#3}" "$3" >&3
    sed '1,/^\r$/d' <&3
    exec 3>&-
}
ask POST /v1/completions '{"prompt": "ROMEO:", "max_tokens": 8}' >/dev/null
ask POST /v1/completions '{"prompt": "ROMEO:", "max_tokens": 8, "stream": true}' >/dev/null
ask POST /v1/chat/completions '{"messages": [{"role": "user", "content": "What news?"}], "max_tokens": 8}' >/dev/null
ask POST /v1/completions '{"prompt": 7}' >/dev/null
ask GET /nowhere '' >/dev/null
ask GET /metrics '' >"$dir/metrics"

# All was counted, or there would be little to check.
for series in 'air_requests_total{path="/v1/completions",status="200"} 2' 'vllm:time_to_first_token_seconds_count{.*} 3'; do
    grep -q "^$series\$" "$dir/metrics" || { cat "$dir/metrics"; echo "/metrics lacks $series"; exit 1; }
done
found=0
promtool check metrics <"$dir/metrics" >"$dir/found" 2>&1 || found=$?
# 3 is promtool's word for what it would have otherwise; else the text is none that it can read.
if grep -vE "^vllm:[a-z0-9_]+ metric names should not contain ':'$" "$dir/found" || [[ $found != 0 && $found != 3 ]]; then
    echo "promtool does not like /metrics (exit code $found)"
    exit 1
fi
echo "promtool: $(grep -c '^# TYPE' "$dir/metrics") metrics are as they should be"
