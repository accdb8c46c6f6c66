#include <stddef.h>

/*
 * Opens libnvrtc and resolves its functions; NULL, or why it failed. Builtins is
 * a file to load before, or NULL.
 */
const char *mlkv_nvrtc_open(const char *path, const char *builtins);
int mlkv_nvrtc_version(int *major, int *minor);
/* Writes at most max architectures, as 10*major + minor, and returns how many. */
int mlkv_nvrtc_archs(int *archs, int max);
const char *mlkv_nvrtc_error(int code);

/*
 * Compiles a program to CUBIN, or to PTX. Image and log are malloc'ed, or NULL.
 * Returns NVRTC's code, 0 for success.
 */
int mlkv_nvrtc_compile(const char *source, const char *name, int headers, const char **texts, const char **names,
	int options, const char **option, int ptx, char **image, size_t *size, char **log);
