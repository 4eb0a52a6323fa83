#!/bin/sh
# Trains, exports and evaluates all variants (or those named), two at a time on two cores. What is done is passed over, so it may be
# stopped and started again at will. Usage: train-all.sh WORK OUT [NAME ...]; JOBS and TOKENS may be set.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$1
out=$2
shift 2
mkdir -p "$work" "$out"
if [ ! -f "$work/corpus.json" ]; then
  cp "$here/../model/tokenizer.json" "$work/tokenizer.json"      # the demo model's vocabulary
  (cd "$here/../train" && python3 prepare-corpus.py "$work")
fi
cd "$here"
[ $# -gt 0 ] || set -- $(python3 -c "from variants import VARIANTS; print(*VARIANTS)")
printf '%s\n' "$@" | xargs -P "${JOBS:-2}" -I NAME python3 train-kinds.py "$work" NAME --tokens "${TOKENS:-1500000}"
python3 export-kinds.py "$work" "$out" "$@"
python3 evaluate-kinds.py "$work" "$out" "$@"
