//go:build gpu && cgo && linux && (amd64 || arm64)

/*
 * Every function of the CUDA driver that the program calls, defined here as a
 * jump through a table that mlkv_driver_load fills from libcuda.so.1. So the
 * program links without the driver, starts where there is none, and does not
 * touch one before a GPU is asked for.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <cuda.h>
#include <cuda_symbols.h>
#include "driver.h"

static CUresult absent(void) { return CUDA_ERROR_NOT_INITIALIZED; }
static CUresult unsupported(void) { return CUDA_ERROR_NOT_SUPPORTED; }

#define SLOT(name) __attribute__((visibility("hidden"))) void *mlkv_##name = (void *)absent;
MLKV_CUDA_SYMBOLS(SLOT)

#if defined(__x86_64__)
#define JUMP(name) "endbr64\n\tjmp *mlkv_" #name "(%rip)\n"
#elif defined(__aarch64__)
#define JUMP(name) \
	"bti c\n\tadrp x16, mlkv_" #name "\n\tldr x16, [x16, :lo12:mlkv_" #name "]\n\tbr x16\n"
#endif
#define FORWARD(name) \
	__asm__(".text\n\t.p2align 4\n\t.globl " #name "\n\t.type " #name ", %function\n" #name ":\n\t" \
		JUMP(name) "\t.size " #name ", .-" #name "\n");
MLKV_CUDA_SYMBOLS(FORWARD)

static CUresult (*driver_init)(unsigned int);

/*
 * cu calls cuInit when the program starts and ends the program if it fails.
 * That call comes before the driver is loaded and has to succeed; Load calls
 * the driver's own cuInit.
 */
CUresult cuInit(unsigned int flags) {
	return driver_init ? driver_init(flags) : CUDA_SUCCESS;
}

const char *mlkv_driver_load(void) {
	static const char *const names[] = {
		"libcuda.so.1",
		"/usr/local/nvidia/lib64/libcuda.so.1",
		"/usr/lib/wsl/lib/libcuda.so.1",
	};
	void *lib = NULL;
	const char *first = NULL;
	for (size_t i = 0; i < sizeof names / sizeof *names && !lib; i++) {
		lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
		if (!lib && !first)
			first = strdup(dlerror());
	}
	if (!lib)
		return first;
	driver_init = (CUresult(*)(unsigned int))dlsym(lib, "cuInit");
	if (!driver_init)
		return "libcuda.so.1 has no cuInit";
#define RESOLVE(name) \
	mlkv_##name = dlsym(lib, #name); \
	if (!mlkv_##name) \
		mlkv_##name = (void *)unsupported;
	MLKV_CUDA_SYMBOLS(RESOLVE)
	return NULL;
}
