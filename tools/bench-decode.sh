#!/usr/bin/env bash
# Checks the CUDA engine's decoder, then times its steps and those of a PyTorch
# program of the same models (a CUDA graph, fp16), in turn, in one run: 2,000 tokens
# in the cache, 48 new ones a row. The floor is the time to read the weights once
# and, in every layer, its owner's keys and values, at 3.02 TB/s. Needs a GPU; the
# peer needs python3 with PyTorch.
#
#   tools/bench-decode.sh bin/cuda.test ../shared
#
# bin/cuda.test is the package's test binary (make bin/cuda.test), so that the
# machine with the GPU needs no Go. PARTS chooses among "checks steps", CASES the
# models, rows and bits of the steps, ROUNDS how often 48 tokens are timed.
set -uo pipefail
binary=$(realpath "$1") shared=$(realpath "$2")
cases=${CASES:-mlkv-6:1024 mlkv-6:256 mha-144:256 mha-144:1 mlkv-6:1024:8}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

has() { [[ " ${PARTS:-checks steps} " == *" $1 "* ]]; }

checks() {
	MLKV_GOLDEN="$shared/golden" "$binary" -test.run 'Decode|ManyRows|Extend|Sampling|Dealt' -test.v 2>&1 | grep -E '^(---|ok|FAIL|PASS|panic)' | sort | uniq -c | sort -rn
}

# figure UNIT: what stands before UNIT in our benchmark's line.
figure() { grep -oE "[0-9.]+ $1" "$out/ours" | head -1 | cut -d' ' -f1; }

# step MODEL:ROWS[:BITS] times steps: ours, then the peer's, which has 16 bits only.
step() {
	local model rows bits name ours peer
	IFS=: read -r model rows bits <<<"$1"
	bits=${bits:-16} name="${model^^}_x${rows}_${bits}bit"
	"$binary" -test.run '^$' -test.bench "Decode/^$name\$" -test.benchtime "${ROUNDS:-10}x" >"$out/ours" 2>&1
	: >"$out/peer"
	[ "$bits" = 16 ] && (cd "$shared/bench" && python3 bench_decode.py --graph --cases "$model:$rows") >"$out/peer" 2>&1
	ours=$(figure tokens/s)
	peer=$(grep -oE '[0-9]+ tok/s' "$out/peer" | head -1 | cut -d' ' -f1)
	[ -n "$ours" ] || tail -5 "$out/ours" >&2
	[ -n "$peer" ] || tail -5 "$out/peer" >&2
	echo "$name ${ours:-0} $(figure ms/step) $(figure %floor) $(figure %beyond) ${peer:-0}" | tee -a "$out/table" >&2
}

has checks && checks
has steps || exit 0
for case in $cases; do step "$case"; done
awk 'BEGIN { printf "%-20s %10s %9s %8s %9s %10s %6s\n", "model x rows", "tokens/s", "ms/step", "% floor", "% beyond", "PyTorch", "ratio" }
	{ printf "%-20s %10.0f %9.3f %8.1f %9.2f %10s %6s\n", $1, $2, $3, $4, $5, ($6 > 0 ? $6 : "-"), ($6 > 0 ? sprintf("%.2f", $2 / $6) : "-") }' "$out/table"
