#!/bin/sh
# Trains, exports and evaluates all runs (or those named), two at a time on two cores. What is done is passed over, so it may be
# stopped and started again at will. Usage: train-all.sh WORK OUT [RUN ...]; JOBS, TOKENS and PYTHON may be set.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" "$2"
work=$(cd "$1" && pwd)
out=$(cd "$2" && pwd)
python=${PYTHON:-python3}
shift 2
if [ ! -f "$work/corpus.json" ]; then
  cp "$here/../model/tokenizer.json" "$work/tokenizer.json"      # the demo model's vocabulary
  (cd "$here/../train" && "$python" prepare-corpus.py "$work")
fi
cd "$here"
[ $# -gt 0 ] || set -- $("$python" -c "from variants import RUNS; print(*RUNS)")
printf '%s\n' "$@" | xargs -P "${JOBS:-2}" -I NAME "$python" train-kinds.py "$work" NAME --tokens "${TOKENS:-1500000}"
"$python" export-kinds.py "$work" "$out" "$@"
"$python" evaluate-kinds.py "$work" "$out" "$@"
