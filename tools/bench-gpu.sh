#!/usr/bin/env bash
# Checks the CUDA engine against the goldens, then times its kernels beside the
# ceilings of the same run and PyTorch's flash attention, and whole training steps
# beside PyTorch programs of the same models, in turn; prints one table.
# Needs a GPU; the peer and the kernels need python3 with PyTorch.
#
#   tools/bench-gpu.sh bin/cuda.test ../shared
#
# bin/cuda.test is the package's test binary (make bin/cuda.test), so that the
# machine with the GPU needs no Go; kernels come from the checkout. PARTS chooses
# among "checks kernels steps", CASES the models and rows of the steps, STEPS how
# many are timed, SKIP among the kernels ("attention", "operators").
set -uo pipefail
binary=$(realpath "$1") shared=$(realpath "$2")
kernels=$(realpath "$(dirname "$0")/../internal/engine/cuda/kernels/bench")
parts=${PARTS:-checks kernels steps}
cases=${CASES:-mha-144:32 mlkv-6:32 mha-144:12}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
has() { [[ " $parts " == *" $1 "* ]]; }

checks() {
	MLKV_GOLDEN="$shared/golden" "$binary" -test.run 'Golden|Determ|NaN|Gradients' -test.v 2>&1 | grep -E '^(---|ok|FAIL|PASS|panic)' | sort | uniq -c | sort -rn
}

kernels() {
	local skip=()
	for part in ${SKIP:-}; do skip+=(--skip "$part"); done
	MLKV_CUBINS=${MLKV_CUBINS:-$out/cubins} python3 "$kernels/table.py" "${skip[@]}" | tee "$out/kernels" >&2
}

# compile lets the peers compile side by side, which takes most of their time; that
# memory may not suffice for all of them at once does no harm.
compile() {
	local case
	export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$out/inductor}
	for case in $cases; do
		(cd "$shared/bench" && python3 bench_train.py --steps 1 --cases "$case:compile-bf16") &>/dev/null &
	done
	wait
}

# step times one model: ours, then the peer.
step() {
	local model=${1%:*} rows=${1#*:} name ours mfu memory peer theirs
	name="${model^^}_x$rows"
	"$binary" -test.run '^$' -test.bench "TrainStep/^$name\$" -test.benchtime "${STEPS:-20}x" >"$out/ours" 2>&1
	(cd "$shared/bench" && python3 bench_train.py --steps "${STEPS:-20}" --cases "$1:compile-bf16") >"$out/peer" 2>&1
	ours=$(grep -oE '[0-9.]+ tokens/s' "$out/ours" | head -1 | cut -d' ' -f1)
	mfu=$(grep -oE '[0-9.]+ %MFU' "$out/ours" | head -1 | cut -d' ' -f1)
	memory=$(grep -oE '[0-9.]+ GiB' "$out/ours" | head -1)
	peer=$(grep -oE '[0-9]+ tok/s' "$out/peer" | head -1 | cut -d' ' -f1)
	theirs=$(grep -oE '[0-9.]+ GiB' "$out/peer" | head -1)
	[ -n "$ours" ] || tail -5 "$out/ours" >&2
	[ -n "$peer" ] || tail -5 "$out/peer" >&2
	printf '%s %s %s %s %s %s\n' "$name" "${ours:--}" "${mfu:--}" "${memory// /}" "${peer:--}" "${theirs// /}" | tee -a "$out/steps" >&2
}

has checks && checks >"$out/checks"
has kernels && kernels
if has steps; then
	compile
	for case in $cases; do step "$case"; done
fi
echo
cat "$out"/checks "$out"/kernels 2>/dev/null
[ -f "$out/steps" ] && awk 'BEGIN { printf "%-14s %10s %6s %10s %12s %10s %7s\n", "model x rows", "tokens/s", "MFU %", "memory", "PyTorch", "memory", "ratio" }
	{ printf "%-14s %10.0f %6.1f %10s %12s %10s %7.3f\n", $1, $2, $3, $4, $5, $6, ($5 > 0 ? $2 / $5 : 0) }' "$out/steps"
