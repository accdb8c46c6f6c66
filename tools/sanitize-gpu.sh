#!/usr/bin/env bash
# Runs the CUDA engine's kernels under compute-sanitizer: memcheck (addresses)
# and racecheck (shared memory) unless told otherwise, over training steps of small
# models that differ in head size and sharing, over scoring and over decoding. Needs
# a GPU and compute-sanitizer of the CUDA toolkit. What it found is in
# docs/performance.md.
#
#   tools/sanitize-gpu.sh bin/cuda.test [memcheck|racecheck|initcheck|synccheck ...]
#
# bin/cuda.test is the package's test binary (make bin/cuda.test). TESTS are regular
# expressions of tests, which run beside each other, each for LIMIT at most. A first
# run without the sanitizer compiles kernels, which would take long under it.
# Products are made by a kernel of the tests, since cuBLASLt's for Hopper end
# racecheck with its own "failed to handle a hardware exception". For racecheck
# alone kernels are compiled with SANITIZED (kernels/hopper.cuh): under memcheck its
# spilled registers of attention at head size 128 come back as NaN, which neither
# runs without the tool nor racecheck show.
set -uo pipefail
binary=$(realpath "$1")
shift
tools=(${*:-memcheck racecheck})
tests=()
for model in plain shared head_size_32 head_size_80 head_size_128 head_size_256; do
	tests+=("TestGradientsMatchTheCPU/^$model\$/float32_false_recompute_\$")
done
tests+=('TestDistillMatchesTheCPU/^shared$/float32_false_recompute_$' 'TestScoresMatchTheCPU/^plain$/float32_false'
	TestDecodedRowStandsAlone TestExtendFollowsTheLogits 'TestManyRowsOfRealWidth/^(5|17)_rows_')
[ -n "${TESTS:-}" ] && read -ra tests <<<"$TESTS"
export MLKV_TEST_PRODUCTS=plain
out=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$out"' EXIT

# sanitize TOOL TEST FILE
sanitize() {
	timeout -s INT -k 5 "${LIMIT:-1h}" compute-sanitizer --tool "$1" --error-exitcode 9 "$binary" -test.run "$2" -test.v >"$3" 2>&1
	echo $? >"$3.rc"
}

failed=0
for tool in "${tools[@]}"; do
	MLKV_TEST_DEFINES=
	[ "$tool" = racecheck ] && MLKV_TEST_DEFINES=SANITIZED
	export MLKV_TEST_DEFINES
	"$binary" -test.run "$(IFS='|'; echo "${tests[*]}")" >"$out/warm" 2>&1 || { tail -20 "$out/warm"; exit 1; }
	for i in "${!tests[@]}"; do sanitize "$tool" "${tests[i]}" "$out/$tool.$i" & done
	wait
	for i in "${!tests[@]}"; do
		log=$out/$tool.$i rc=$(<"$out/$tool.$i.rc")
		passed=$(grep -c '^ *--- PASS' "$log")
		printf '%s: %s: %s, %d passed, exit code %d\n' "$tool" "${tests[i]}" "$(grep SUMMARY "$log" | tail -1 | sed 's/=* *//')" "$passed" "$rc"
		if [ "$rc" -ne 0 ] || [ "$passed" -eq 0 ]; then
			grep -E '^=====|--- FAIL|_test\.go' "$log" | head -20
			failed=1
		fi
	done
done
exit $failed
