#!/usr/bin/env bash
# Makes the base checkpoint of the demonstration (demo/base) from nothing: a
# tokenizer, packed text and a model trained from scratch on Go's source tree.
# Takes about half an hour on one core with OpenBLAS.
#
#   tools/demo-base.sh bin/mlkv runs/demo-base
set -euo pipefail
mlkv=$1 work=$2
source "$(dirname "$0")/demo-text.sh"

mkdir -p "$work"
"$mlkv" tokenize train --vocab 2048 --out "$work/tokenizer.json" "${demo_text[@]}"
"$mlkv" prepare --tokenizer "$work/tokenizer.json" --out "$work/data" --heldout 2% --row-length 256 "${demo_text[@]}"
"$mlkv" init configs/demo/base-model.yaml --out "$work/init" --tokenizer "$work/tokenizer.json" --seed 1
"$mlkv" uptrain "$work/init" --config configs/demo/base-training.yaml --work "$work" --out "$work/run" \
	--train "$work/data" --heldout "$work/data/heldout"
echo "To put it in the repository: $mlkv convert $work/run/model --dtype float16 --out demo/base"
