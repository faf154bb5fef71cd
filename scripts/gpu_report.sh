#!/usr/bin/env bash
# Everything that only a GPU can show, in one table: the tests on the device, compute-sanitizer, and air beside its
# limits and beside llama.cpp.
#
#   scripts/gpu_report.sh              # all steps, one after another; each takes at most nine minutes
#   scripts/gpu_report.sh STEP…        # these: machine tests sanitizer models peer decode prefill deep carried drive
#                                      # logits table
#   scripts/gpu_report.sh --pack DIR   # builds air and its tests for a machine with a GPU and without Rust
#   scripts/gpu_report.sh --rehearse   # all steps without a GPU, over the tests' driver and a stand-in for llama.cpp
#
# Each step leaves a file of JSON in $AIR_GPU (default ~/.cache/air-gpu), so they may run on different days; `table` puts
# together what is there, and says of each row that was not measured why. Programs are built here, or come from the
# folder $AIR_BUILT, which --pack filled. llama.cpp's sources are in $LLAMA_SRC (default: where scripts/fetch_oracles.sh
# puts them). Needs Python 3.9, NVIDIA's driver r580; for `peer` cmake, nvcc and a C++ compiler; 25 GB of disk.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python3 scripts/gpu/report.py "$@"
