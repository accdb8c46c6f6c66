#!/usr/bin/env bash
# What absorption and distillation bring on a model of Pythia-160M's shape: trains
# a base from nothing on one pass over CORPUS, converts it by pooling and by
# absorption, uptrains every row on the same tokens, and prints the loss on
# held-out text after conversion and after uptraining.
#
#   tools/experiment-absorb-gpu.sh bin/mlkv CORPUS TOKENIZER WORK
#
# CORPUS holds train-*.jsonl.zst and val.jsonl.zst. The base and the first seven
# rows take about 8 minutes on an H100 with 16 cores, and 20 GB in WORK. Rows come
# in the order of their importance; one that would not end within LIMIT seconds of
# the start is left out. ONLY, a regular expression, chooses among them; SIZE,
# STEPS, ROWS, LENGTH and RATE change the sizes, to try the script out.
set -euo pipefail
mlkv=$(realpath "$1") corpus=$(realpath "$2") tokenizer=$(realpath "$3")
mkdir -p "$4"
work=$(realpath "$4")
limit=${LIMIT:-570} size=${SIZE:-pythia-160m} rows=${ROWS:-24} length=${LENGTH:-2048} steps=${STEPS:-163}

rate=${RATE:-2e-4}
# name, start, converted folder, peak rate, weight of the divergence
list=$(grep -E -- "${ONLY:-.}" <<LIST
MHA-144 -        base/model      6e-4    0
MLKV-48 pooling  mlkv-48         6e-4    0
MLKV-6  pooling  mlkv-6          6e-4    0
MLKV-6  absorb   mlkv-6-absorb   $rate   0.9
MLKV-6  absorb   mlkv-6-absorb   $rate   0
MLKV-2  pooling  mlkv-2          6e-4    0
MLKV-2  absorb   mlkv-2-absorb   $rate   0.9
MLKV-2  absorb   mlkv-2-absorb   $rate   0
MHA-144 -        base/model      $rate   0
MLKV-6  absorb   mlkv-6-absorb   4e-4    0.9
MLKV-6  absorb   mlkv-6-absorb   $rate   0.5
MHA-144 -        base/model      $rate   0.9
MLKV-6  weighted mlkv-6-weighted $rate   0.9
MLKV-6  absorb   mlkv-6-absorb   6e-4    0
MLKV-6  refit    mlkv-6-refit    $rate   0.9
MLKV-48 absorb   mlkv-48-absorb  $rate   0.9
LIST
)

say() { printf '[%3d s] %s\n' "$SECONDS" "$*" >&2; }

# json FILE KEY [OBJECT]: a number of a result.json, the first of that name after
# the object's.
json() {
	awk -v key="\"$2\":" -v object="${3:+\"$3\":}" '
		object == "" || index($0, object) { found = 1 }
		found && index($0, key) { gsub(/[^-+0-9.e]/, "", $2); print $2; exit }' "$1"
}

# uptrain FOLDER CHECKPOINT OPTIONS...
uptrain() {
	local out=$1
	shift
	"$mlkv" uptrain "$@" --out "$out" --train "$work/data" --heldout "$work/heldout" --rows "$rows" --micro-rows "$rows" \
		--checkpoint-every 0 --set uptrain.log_every=10 --set uptrain.tensorboard=false >"$out.log" 2>&1 </dev/null ||
		{ tail -5 "$out.log" >&2; return 1; }
	rm -rf "$out/checkpoints"
}

# convert NAME LAYERS HEADS OPTIONS... converts the base if a row of the list wants
# it. It leaves processors to the uptraining beside it.
convert() {
	local name=$1 layers=$2 heads=$3 begin=$EPOCHREALTIME
	shift 3
	[[ $list == *" $name "* ]] || return 0
	if nice -n 19 "$mlkv" convert "$work/base/model" --threads "$(($(nproc) / 2))" --kv-layers "$layers" --kv-heads "$heads" --set data.row_length="$length" \
		--out "$work/$name" "$@" >"$work/$name.log" 2>&1; then
		awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f\n", b - a }' >"$work/$name.seconds"
	else
		tail -3 "$work/$name.log" >&2
		touch "$work/$name.failed"
	fi
}

absorb=(--start absorb --calibration "$work/data" --calibration-rows "${CALIBRATION_ROWS:-16}")
conversions() {
	convert mlkv-48 4 12
	convert mlkv-6 6 1
	convert mlkv-2 2 1
	convert mlkv-6-absorb 6 1 "${absorb[@]}"
	convert mlkv-2-absorb 2 1 "${absorb[@]}"
	convert mlkv-6-weighted 6 1 "${absorb[@]}" --absorb-weighted
	convert mlkv-6-refit 6 1 "${absorb[@]}" --absorb-refit 2
	convert mlkv-48-absorb 4 12 "${absorb[@]}"
}

table=()
show() {
	printf '\n%-9s %-8s %8s %8s %10s %10s %10s %8s\n' row start rate distill converted uptrained to-control seconds
	local line control
	control=$(printf '%s\n' "${table[@]}" | awk '$1 == "MHA-144" { print $6; exit }')
	for line in "${table[@]}"; do
		set -- $line
		printf '%-9s %-8s %8s %8s %10.4f %10.4f %10s %8s\n' "$1" "$2" "$3" "$4" "$5" "$6" \
			"$(awk -v a="$6" -v b="${control:-}" 'BEGIN { if (b == "") print "-"; else printf "%+.4f", a - b }')" "$7"
	done
}
trap 'show' EXIT

say "text into rows of $length tokens"
"$mlkv" prepare --tokenizer "$tokenizer" --row-length "$length" --out "$work/heldout" "$corpus"/val.jsonl.zst >"$work/heldout.log" 2>&1 &
"$mlkv" init "$size" --tokenizer "$tokenizer" --seed 1 --out "$work/init" >"$work/init.log" 2>&1 &
"$mlkv" prepare --tokenizer "$tokenizer" --row-length "$length" --out "$work/data" "$corpus"/train-*.jsonl.zst >"$work/data.log" 2>&1
wait
tail -3 "$work/data.log" >&2

say "base: one pass"
uptrain "$work/base" "$work/init" --learning-rate "${BASE_RATE:-1e-3}" --warmup-ratio 0.05 \
	--set uptrain.weight_decay=0.1 --set uptrain.final_rate=5e-5 --set uptrain.epochs="${BASE_EPOCHS:-1}"
rm -rf "$work/init"
say "base: $(json "$work/base/result.json" tokens) tokens, $(json "$work/base/result.json" tokens_per_second) a second, held-out loss $(json "$work/base/result.json" loss heldout_after)"
conversions &

slowest=0
while read -r name start from peak distill; do
	[ -z "$name" ] && continue
	if ((SECONDS + slowest > limit)); then
		say "$name by $start, rate $peak, distillation $distill: no time left"
		continue
	fi
	checkpoint=$work/$from
	while [ ! -e "$checkpoint.seconds" ] && [ "$from" != base/model ]; do
		[ -e "$checkpoint.failed" ] && continue 2
		sleep 0.2
	done
	begin=$SECONDS out=$work/run
	if ! uptrain "$out" "$checkpoint" --learning-rate "$peak" --steps "$steps" --distill-weight "$distill" --distill-teacher "$work/base/model"; then
		rm -rf "$out"
		continue
	fi
	took=$((SECONDS - begin))
	slowest=$((took > slowest ? took : slowest))
	table+=("$name $start $peak $distill $(json "$out/result.json" loss heldout_before) $(json "$out/result.json" loss heldout_after) $took")
	say "${table[-1]}"
	rm -rf "$out"
done <<<"$list"
wait
for f in "$work"/*.seconds; do say "$(basename "$f" .seconds): converted in $(cat "$f") s"; done
