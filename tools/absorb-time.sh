#!/usr/bin/env bash
# How long absorption takes and how much memory it holds, for the nine rows of
# Pythia-160M: converts MODEL to each with 16 calibration rows of 2,048 tokens
# and prints wall time, its parts and the greatest resident memory of the
# process. Time and memory do not depend on the values of weights, so a model of
# random weights serves (mlkv init pythia-160m).
#
#   tools/absorb-time.sh bin/mlkv MODEL CALIBRATION [convert options]
set -euo pipefail
mlkv=$1 model=$2 calibration=$3
shift 3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# seconds LABEL FILE: of a line of progress, such as "fit: 6 owners in 1.2s, ...".
seconds() {
	local line
	line=$(grep -E "^$1: .* in [0-9.]+m?s," "$2" | tail -1 | sed -E 's/.* in ([0-9.]+m?s),.*/\1/')
	case $line in
	*ms) awk -v ms="${line%ms}" 'BEGIN { printf "%.1f", ms / 1000 }' ;;
	*s) printf '%.1f' "${line%s}" ;;
	*) printf -- '-' ;;
	esac
}

printf '%-8s %8s %10s %8s %8s %10s\n' row wall,s calibrate fit write peak,GiB
while read -r name layers heads; do
	log=$dir/$name.log
	begin=$EPOCHREALTIME
	"$mlkv" convert "$model" --kv-layers "$layers" --kv-heads "$heads" --out "$dir/$name" \
		--start absorb --calibration "$calibration" --calibration-rows 16 "$@" >"$log" 2>&1 &
	pid=$! peak=0
	while read -r _ now _ < <(grep VmHWM "/proc/$pid/status" 2>/dev/null); do
		peak=$now
		sleep 0.05
	done
	wait "$pid" || { cat "$log" >&2; exit 1; }
	wall=$(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
	printf '%-8s %8s %10s %8s %8s %10s\n' "$name" "$wall" "$(seconds calibrate "$log")" "$(seconds fit "$log")" \
		"$(seconds convert "$log")" "$(awk -v k="$peak" 'BEGIN { printf "%.2f", k / 1048576 }')"
	rm -rf "${dir:?}/$name"
done <<-ROWS
	MHA-144 12 12
	GQA-48  12 4
	MLKV-48 4 12
	MQA-12  12 1
	MLKV-12 4 3
	MLKV-6  6 1
	MLKV-4  4 1
	MLKV-2  2 1
	MLKV-1  1 1
ROWS
