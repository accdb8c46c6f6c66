//go:build gpu && cgo && linux && (amd64 || arm64)

/* NVRTC, the run-time compiler of CUDA C++, opened at run time. */
#include <dlfcn.h>
#include <stdlib.h>
#include "nvrtc.h"

typedef void *program;

static struct {
	int (*version)(int *, int *);
	int (*num_archs)(int *);
	int (*archs)(int *);
	const char *(*error)(int);
	int (*create)(program *, const char *, const char *, int, const char *const *, const char *const *);
	int (*destroy)(program *);
	int (*compile)(program, int, const char *const *);
	int (*cubin_size)(program, size_t *);
	int (*cubin)(program, char *);
	int (*ptx_size)(program, size_t *);
	int (*ptx)(program, char *);
	int (*log_size)(program, size_t *);
	int (*log)(program, char *);
} rtc;

const char *mlkv_nvrtc_open(const char *path, const char *builtins) {
	if (builtins && !dlopen(builtins, RTLD_NOW | RTLD_LOCAL))
		return dlerror();
	void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!lib)
		return dlerror();
	struct { const char *name; void **slot; } symbols[] = {
		{"nvrtcVersion", (void **)&rtc.version},
		{"nvrtcGetNumSupportedArchs", (void **)&rtc.num_archs},
		{"nvrtcGetSupportedArchs", (void **)&rtc.archs},
		{"nvrtcGetErrorString", (void **)&rtc.error},
		{"nvrtcCreateProgram", (void **)&rtc.create},
		{"nvrtcDestroyProgram", (void **)&rtc.destroy},
		{"nvrtcCompileProgram", (void **)&rtc.compile},
		{"nvrtcGetCUBINSize", (void **)&rtc.cubin_size},
		{"nvrtcGetCUBIN", (void **)&rtc.cubin},
		{"nvrtcGetPTXSize", (void **)&rtc.ptx_size},
		{"nvrtcGetPTX", (void **)&rtc.ptx},
		{"nvrtcGetProgramLogSize", (void **)&rtc.log_size},
		{"nvrtcGetProgramLog", (void **)&rtc.log},
	};
	for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
		*symbols[i].slot = dlsym(lib, symbols[i].name);
		if (!*symbols[i].slot)
			return dlerror();
	}
	return NULL;
}

int mlkv_nvrtc_version(int *major, int *minor) { return rtc.version(major, minor); }

int mlkv_nvrtc_archs(int *archs, int max) {
	int n = 0;
	if (rtc.num_archs(&n) || n <= 0 || n > max || rtc.archs(archs))
		return 0;
	return n;
}

const char *mlkv_nvrtc_error(int code) { return rtc.error(code); }

/* Reads one of a program's outputs into fresh memory. */
static int output(program p, int (*size_of)(program, size_t *), int (*get)(program, char *), char **out, size_t *size) {
	size_t n = 0;
	int code = size_of(p, &n);
	if (code)
		return code;
	char *buf = malloc(n + 1);
	if (!buf)
		return 1; /* NVRTC_ERROR_OUT_OF_MEMORY */
	code = get(p, buf);
	if (code) {
		free(buf);
		return code;
	}
	buf[n] = 0;
	*out = buf;
	if (size)
		*size = n;
	return 0;
}

int mlkv_nvrtc_compile(const char *source, const char *name, int headers, const char **texts, const char **names,
	int options, const char **option, int ptx, char **image, size_t *size, char **log) {
	program p = NULL;
	*image = NULL;
	*log = NULL;
	int code = rtc.create(&p, source, name, headers, texts, names);
	if (code)
		return code;
	code = rtc.compile(p, options, option);
	output(p, rtc.log_size, rtc.log, log, NULL);
	if (!code)
		code = ptx ? output(p, rtc.ptx_size, rtc.ptx, image, size) : output(p, rtc.cubin_size, rtc.cubin, image, size);
	rtc.destroy(&p);
	return code;
}
