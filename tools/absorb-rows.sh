#!/usr/bin/env bash
# Absorption beside mean pooling on the base that the repository carries: five
# rows from mild to extreme and the unshared control, uptrained on the same
# tokens. Prints the held-out loss after conversion and after uptraining, and
# how much of the gap that pooling leaves to the control absorption closes.
#
#   tools/absorb-rows.sh bin/mlkv runs/absorb-rows
#
# Takes about 6 minutes on two cores with OpenBLAS.
set -euo pipefail
mlkv=$1 work=$2
source "$(dirname "$0")/demo-text.sh"

rm -rf "$work"
mkdir -p "$work"
"$mlkv" prepare --config configs/demo.yaml --tokenizer demo/base --out "$work/data" --heldout 0.6% "${demo_text[@]}" >&2

# loss FOLDER before|after: of a run, from result.json.
loss() {
	awk -v key="\"heldout_$2\":" '$1 == key { found = 1 } found && $1 == "\"loss\":" { sub(",", "", $2); print $2; exit }' "$1/uptrain/result.json"
}

# row NAME CONFIG LAYERS HEADS: converts and uptrains it.
row() {
	local args=(--config "$2" --set "name=$1" --work "$work/$1")
	printf '%s\n' "$1" >&2
	"$mlkv" convert "${args[@]}" --kv-layers "$3" --kv-heads "$4" --calibration "$work/data" >"$work/$1.log" 2>&1
	"$mlkv" uptrain "${args[@]}" --train "$work/data" --heldout "$work/data/heldout" >>"$work/$1.log" 2>&1
}

for recipe in demo best; do
	config=configs/demo.yaml
	[ "$recipe" = best ] && config=configs/demo/best.yaml
	row "control-$recipe" "$config" 8 4
	printf 'control, %s recipe: %.4f, uptrained %.4f\n' "$recipe" "$(loss "$work/control-$recipe" before)" "$(loss "$work/control-$recipe" after)"
done

printf '%-8s %6s | %9s %9s | %9s %9s %7s | %9s\n' row cache pooled uptrained absorbed uptrained closed 'best recipe'
while read -r name layers heads cache; do
	row "$name-pooling" configs/demo.yaml "$layers" "$heads"
	row "$name-absorb" configs/demo/absorb.yaml "$layers" "$heads"
	row "$name-best" configs/demo/best.yaml "$layers" "$heads"
	pooled=$(loss "$work/$name-pooling" after) absorbed=$(loss "$work/$name-absorb" after)
	printf '%-8s %6s | %9.4f %9.4f | %9.4f %9.4f %6.1f%% | %9.4f\n' "$name" "$cache" \
		"$(loss "$work/$name-pooling" before)" "$pooled" "$(loss "$work/$name-absorb" before)" "$absorbed" \
		"$(awk -v p="$pooled" -v a="$absorbed" -v c="$(loss "$work/control-demo" after)" 'BEGIN { print 100 * (p - a) / (p - c) }')" \
		"$(loss "$work/$name-best" after)"
done <<-ROWS
	GQA-16  8 2 1/2
	MLKV-16 4 4 1/2
	MQA-8   8 1 1/4
	MLKV-2  2 1 1/16
	MLKV-1  1 1 1/32
ROWS
