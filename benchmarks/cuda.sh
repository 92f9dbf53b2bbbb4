#!/usr/bin/env bash
# All that is to be measured on a CUDA GPU, with one command: tables in float32 and bf16, the ways
# of a per-sample convolution, and where the time goes. Usage: benchmarks/cuda.sh [FOLDER]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
BIN="${VENV:-.venv}/bin"
OUT="${1:-benchmarks/results/cuda}"
COMMON=(--device cuda --networks resnet18,resnet50,unet --batch-sizes 8,32 --overwrite)

mkdir -p "$OUT"
"$BIN/crossd" bench "${COMMON[@]}" --out "$OUT/float32"
"$BIN/crossd" bench "${COMMON[@]}" --precision bf16-mixed --out "$OUT/bf16"
for dtype in float32 bfloat16; do
  "$BIN/python" benchmarks/ways.py --device cuda --batch 32 --dtype "$dtype" | tee "$OUT/ways-$dtype.txt"
done
for precision in 32-true bf16-mixed; do
  "$BIN/python" benchmarks/profile_step.py --device cuda --batch 32 --precision "$precision" \
    | tee "$OUT/profile-$precision.txt"
done
