#!/usr/bin/env bash
# Assembles the kernels for each generation of GPUs that air runs on, as the driver does when they are loaded, and
# prints the registers of each kernel, and after a `!` the bytes that it spills. A hot kernel that spills is an error,
# and so is a file that does not assemble.
#
# Needs nvcc (scripts/setup_cuda.sh installs one); builds with --features cuda first.
set -euo pipefail
cd "$(dirname "$0")/.."
archs=(80 86 89 90 100 120)
# Kernels that decide how fast a model runs, by the beginning of their name.
hot='^(matvec|matmul|attend)'

out=$(cargo build --features cuda --message-format=json | grep '"build-script-executed"' | grep 'air-rs@' |
    sed 's/.*"out_dir":"\([^"]*\)".*/\1/')
nvcc=$(cat "$out/nvcc")
ptxas=$(dirname "$(command -v "$nvcc")")/ptxas
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What the table names: older texts may lie beside it.
while read -r ptx; do
    for arch in "${archs[@]}"; do echo "$ptx $arch"; done
done < <(grep -o 'include_str!("[^"]*")' "$out/ptx.rs" | cut -d'"' -f2) >"$work/todo"
echo "$(wc -l <"$work/todo") files of PTX, times generations, by $("$ptxas" --version | grep release)"
export ptxas work
# shellcheck disable=SC2016
xargs -r -P "$(nproc)" -n 2 bash -c '
    log="$work/$(basename "$0" .ptx).sm_$1.log"
    "$ptxas" -v -arch="sm_$1" -o "$log.cubin" "$0" >"$log" 2>&1 || { cat "$log"; exit 255; }' <"$work/todo"

shopt -s nullglob
awk -v archs="${archs[*]}" -v hot="$hot" '
    FNR == 1 { arch = FILENAME; sub(/.*sm_/, "", arch); sub(/.log$/, "", arch) }
    /Compiling entry function/ { split($0, part, "\047"); kernel = part[2]; seen[kernel] = 1 }
    /bytes spill stores/ {
        for (i = 2; i <= NF; i++) {
            if ($i == "bytes" && $(i + 1) == "spill") spill[kernel, arch] += $(i - 1)
        }
    }
    /Used [0-9]+ registers/ { match($0, /Used [0-9]+/); used[kernel, arch] = substr($0, RSTART + 5, RLENGTH - 5) }
    END {
        n = split(archs, list, " ")
        printf "%-40s", "kernel"
        for (i = 1; i <= n; i++) printf "%10s", "sm_" list[i]
        print ""
        for (kernel in seen) {
            row = sprintf("%-40s", kernel)
            for (i = 1; i <= n; i++) {
                cell = used[kernel, list[i]]
                if (spill[kernel, list[i]] > 0) {
                    cell = cell "!" spill[kernel, list[i]]
                    if (kernel ~ hot) bad = bad "\n  " kernel " on sm_" list[i]
                }
                row = row sprintf("%10s", cell)
            }
            print row | "sort"
            count++
        }
        close("sort")
        printf "%d kernels\n", count
        if (bad) { printf "hot kernels spill:%s\n", bad; exit 1 }
    }' "$work"/*.log </dev/null
