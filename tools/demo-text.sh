# Sourced: the text of the demonstration, Go's own source tree without tests,
# generated tables and the toolchain.
demo_text=(
	"$(go env GOROOT)/src" --glob '**/*.go'
	--glob '!**/*_test.go' --glob '!**/testdata/**' --glob '!**/vendor/**'
	--glob '!cmd/**' --glob '!simd/**' --glob '!syscall/**' --glob '!**/tzdata/**'
	--glob '!**/*table*.go' --glob '!**/z*.go'
)
