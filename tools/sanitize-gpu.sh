#!/usr/bin/env bash
# Runs the CUDA engine's kernels under compute-sanitizer: memcheck (addresses)
# unless told otherwise, over training steps of small models that differ in head
# size and sharing, in both precisions, whose gradients are compared with the
# CPU's. Needs a GPU and compute-sanitizer of the CUDA toolkit. What it found, and
# why racecheck is not among the tools, is in docs/performance.md.
#
#   tools/sanitize-gpu.sh bin/cuda.test [memcheck|initcheck|synccheck ...]
#
# bin/cuda.test is the package's test binary (make bin/cuda.test). A first run
# without the sanitizer compiles kernels and chooses products, which would take
# long under it; cuBLASLt's own kernels are not looked into. The attention of
# Hopper runs without moving registers between warps (KEEP_REGISTERS), so that the
# sanitizer's own code cannot run short of them.
set -uo pipefail
binary=$(realpath "$1")
shift
tools=(${*:-memcheck})
tests=${TESTS:-'TestGradientsMatchTheCPU/^(plain|shared|head_size)|TestDistillMatchesTheCPU/^shared'}
theirs='nvjet|cutlass|xmma|gemm|splitK|cublas'
export MLKV_TEST_DEFINES=KEEP_REGISTERS
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

"$binary" -test.run "$tests" >"$out/warm" 2>&1 || { tail -20 "$out/warm"; exit 1; }
failed=0
for tool in "${tools[@]}"; do
	start=$SECONDS
	timeout "${LIMIT:-1h}" compute-sanitizer --tool "$tool" --error-exitcode 9 --kernel-name-exclude "regex=$theirs" \
		"$binary" -test.run "$tests" -test.v >"$out/$tool" 2>&1
	rc=$?
	printf '%s: %s, %d tests in %d s, exit code %d\n' "$tool" "$(grep 'SUMMARY' "$out/$tool" | tail -1 | sed 's/=* *//')" \
		"$(grep -c '^ *--- PASS.*/' "$out/$tool")" $((SECONDS - start)) $rc
	if [ $rc -ne 0 ]; then
		grep -E '^=====|--- (PASS|FAIL)' "$out/$tool" | head -60
		failed=1
	fi
done
exit $failed
