#!/usr/bin/env bash
# The whole method on the small base that the repository carries: the base is
# converted to four rows by pooling and to one by absorption; these and the base
# itself are uptrained on Go's source tree, scored, measured and laid side by side.
#
#   tools/demo.sh bin/mlkv runs/demo
set -euo pipefail
mlkv=$1 work=$2
source "$(dirname "$0")/demo-text.sh"
config=configs/demo.yaml

step() { printf '\n== %s\n' "$*" >&2; }

rm -rf "$work"
mkdir -p "$work"
"$mlkv" version >&2

step "text: Go's source tree, packed into rows of 256 tokens"
"$mlkv" prepare --config "$config" --tokenizer demo/base --out "$work/data" --heldout 0.6% "${demo_text[@]}"

# name, layers that own keys and values, key/value heads in each, start
while read -r name layers heads start; do
	step "$name: $layers layers with $heads key/value heads each, by $start"
	row=(--config "$config" --set "name=$name" --work "$work/$name")
	"$mlkv" convert "${row[@]}" --kv-layers "$layers" --kv-heads "$heads" --start "$start" --calibration "$work/data"
	"$mlkv" uptrain "${row[@]}" --train "$work/data" --heldout "$work/data/heldout"
	"$mlkv" eval "${row[@]}" --heldout "$work/data/heldout"
done <<-ROWS
	MHA-32         8 4 pooling
	GQA-16         8 2 pooling
	MLKV-16        4 4 pooling
	MQA-8          8 1 pooling
	MLKV-2         2 1 pooling
	MLKV-2-absorb  2 1 absorb
ROWS

step "memory and speed: what fits into 64 MiB"
"$mlkv" measure "$work"/*/uptrain/model --out "$work/measure" --baseline MHA-32 \
	--lengths 256 --batches 1,16 --steps 8 --seconds 0.5 --memory 64MiB

step "all rows"
"$mlkv" report "$work" --page "$work/report"
