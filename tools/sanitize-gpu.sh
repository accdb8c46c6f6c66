#!/usr/bin/env bash
# Runs the CUDA engine's tests under compute-sanitizer: memcheck (addresses) over
# every operator, forward and backward, of models of all head sizes in both
# precisions, and racecheck (shared memory) over some of them. Needs a GPU and
# compute-sanitizer of the CUDA toolkit.
#
#   tools/sanitize-gpu.sh bin/cuda.test [memcheck|racecheck ...]
#
# bin/cuda.test is the package's test binary (make bin/cuda.test). A first run
# without the sanitizer compiles kernels and chooses products, which would take
# long under it.
set -uo pipefail
binary=$(realpath "$1")
shift
tools=(${*:-memcheck racecheck})
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

declare -A tests=(
	[memcheck]='TestGradientsMatchTheCPU|TestDistillMatchesTheCPU|TestCollectorMatchesTheCPU|TestTrainerIsDeterministic'
	[racecheck]='TestGradientsMatchTheCPU/(plain|shared|head_size)|TestDistillMatchesTheCPU/shared'
)
# Hazards inside cuBLASLt are not ours to find.
declare -A options=([memcheck]='' [racecheck]='--kernel-name-exclude regex=nvjet|cutlass|xmma|gemm|splitK|cublas')

for tool in "${tools[@]}"; do
	"$binary" -test.run "${tests[$tool]}" >"$out/warm" 2>&1 || { tail -20 "$out/warm"; exit 1; }
done
failed=0
for tool in "${tools[@]}"; do
	start=$SECONDS
	compute-sanitizer --tool "$tool" --error-exitcode 9 ${options[$tool]} \
		"$binary" -test.run "${tests[$tool]}" -test.v >"$out/$tool" 2>&1
	rc=$?
	printf '%s: %s, %d tests in %d s, exit code %d\n' "$tool" "$(grep -E 'SUMMARY' "$out/$tool" | tail -1 | sed 's/=* *//')" \
		"$(grep -c -- '--- PASS' "$out/$tool")" $((SECONDS - start)) $rc
	if [ $rc -ne 0 ]; then
		grep -E '^=====' "$out/$tool" | head -60
		failed=1
	fi
done
exit $failed
