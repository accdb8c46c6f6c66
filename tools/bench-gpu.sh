#!/usr/bin/env bash
# Checks the CUDA engine against the goldens, then times whole training steps of
# it and of PyTorch programs of the same models, in turn, in one run, and prints
# the ratios. Needs a GPU; the peer needs python3 with PyTorch.
#
#   tools/bench-gpu.sh bin/cuda.test ../shared
#
# bin/cuda.test is the package's test binary (make bin/cuda.test), so that the
# machine with the GPU needs no Go.
set -uo pipefail
binary=$(realpath "$1") shared=$(realpath "$2")
cases=${CASES:-mha-144:32 mlkv-6:32 mha-144:12}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

MLKV_GOLDEN="$shared/golden" "$binary" -test.run 'Golden|Determ|NaN' -test.v 2>&1 | grep -E '^(---|ok|FAIL|PASS|panic)' | sort | uniq -c | sort -rn

for case in $cases; do
	model=${case%:*} rows=${case#*:}
	name="${model^^}_x$rows"
	"$binary" -test.run '^$' -test.bench "TrainStep/^$name\$" -test.benchtime "${STEPS:-20}x" >"$out/ours" 2>&1
	(cd "$shared/bench" && python3 bench_train.py --steps "${STEPS:-20}" --cases "$case:compile-bf16") >"$out/peer" 2>&1
	ours=$(grep -oE '[0-9.]+ tokens/s' "$out/ours" | head -1 | cut -d' ' -f1)
	mfu=$(grep -oE '[0-9.]+ %MFU' "$out/ours" | head -1 | cut -d' ' -f1)
	memory=$(grep -oE '[0-9.]+ GiB' "$out/ours" | head -1)
	peer=$(grep -oE '[0-9]+ tok/s' "$out/peer" | head -1 | cut -d' ' -f1)
	theirs=$(grep -oE '[0-9.]+ GiB' "$out/peer" | head -1)
	[ -n "$ours" ] || tail -5 "$out/ours" >&2
	[ -n "$peer" ] || tail -5 "$out/peer" >&2
	printf '%s %s %s %s %s %s\n' "$name" "${ours:--}" "${mfu:--}" "${memory// /}" "${peer:--}" "${theirs// /}" | tee -a "$out/table" >&2
done

awk 'BEGIN { printf "%-14s %10s %6s %10s %12s %10s %7s\n", "model x rows", "tokens/s", "MFU %", "memory", "PyTorch", "memory", "ratio" }
	{ printf "%-14s %10.0f %6.1f %10s %12s %10s %7.3f\n", $1, $2, $3, $4, $5, $6, ($5 > 0 ? $2 / $5 : 0) }' "$out/table"
