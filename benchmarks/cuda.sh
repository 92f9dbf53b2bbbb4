#!/usr/bin/env bash
# All that is to be measured on a CUDA GPU, with one command, in ten minutes at most: tables of time
# and memory in float32 and bf16, the ways of a per-sample convolution, and where the time goes.
#
#     benchmarks/cuda.sh [FOLDER [OPTIONS of cost.py]]
#
# FOLDER (benchmarks/results/cuda) must not exist. VENV is where python is (.venv), BATCH the images
# a batch (32). DEVICE=cpu tries the script itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON="${VENV:-.venv}/bin/python"
DEVICE="${DEVICE:-cuda}"
BATCH="${BATCH:-32}"
OUT="${1:-benchmarks/results/cuda}"
shift $(($# > 0))

if [ ! -x "$PYTHON" ]; then
  echo "cuda.sh: error: there is no $PYTHON: run make first, or set VENV to where python is" >&2
  exit 2
fi
if [ "$DEVICE" = cuda ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "cuda.sh: error: torch finds no CUDA device: run it on a machine with a GPU" >&2
  exit 2
fi
if [ -e "$OUT" ]; then
  echo "cuda.sh: error: $OUT exists: give another folder, or remove it" >&2
  exit 2
fi
mkdir -p "$OUT"

# part SECONDS NAME COMMAND...: runs a command for so long at most; what it wrote until then stays.
part() {
  local limit="$1" name="$2" status=0
  shift 2
  echo "== $name"
  timeout "$limit" "$@" 2>&1 | tee "$OUT/$name.txt" || status=$?
  if [ "$status" -eq 124 ]; then
    echo "$name: stopped after $limit seconds; what was measured is in $OUT"
  elif [ "$status" -ne 0 ]; then
    echo "$name: ended with code $status, see $OUT/$name.txt" >&2
    failed=1
  fi
}

failed=0
for precision in 32-true bf16-mixed; do
  part 200 "cost-$precision" "$PYTHON" benchmarks/cost.py --device "$DEVICE" --precision "$precision" \
    --networks resnet18,resnet50,vit-small,unet --batch-sizes "8,$BATCH" --seconds 1 \
    --out "$OUT/$precision" "$@"
done
for dtype in float32 bfloat16; do
  part 45 "ways-$dtype" "$PYTHON" benchmarks/ways.py --device "$DEVICE" --batch "$BATCH" --dtype "$dtype"
done
for precision in 32-true bf16-mixed; do
  part 45 "profile-$precision" "$PYTHON" benchmarks/profile_step.py --device "$DEVICE" \
    --batch "$BATCH" --precision "$precision"
done
exit "$failed"
