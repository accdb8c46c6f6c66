//go:build gpu && cgo && linux && (amd64 || arm64)

/* cuBLASLt, opened at run time. Numbers are those of cublasLt.h, CUDA 12 and 13. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include "blaslt.h"

enum {
	STATUS_ALLOC_FAILED = 3,
	STATUS_NOT_SUPPORTED = 15,
	TYPE_R_32F = 0,
	DESC_TRANSA = 3,
	DESC_TRANSB = 4,
	DESC_EPILOGUE = 7,
	DESC_BIAS_POINTER = 8,
	DESC_BIAS_DATA_TYPE = 26,
	EPILOGUE_DEFAULT = 1,
	PREF_MAX_WORKSPACE_BYTES = 1,
	PREF_REDUCTION_SCHEME_MASK = 3,
	PREF_MIN_ALIGNMENT_A_BYTES = 5,
	PREF_MIN_ALIGNMENT_D_BYTES = 8,
	/* No sum is split, or its parts are added in the compute type, in a fixed order. */
	REDUCTION_SCHEME_NONE = 0,
	REDUCTION_SCHEME_COMPUTE_TYPE = 2,
	ALIGNMENT = 16,
	MAX_SUGGESTIONS = 64,
};

/* cublasLtMatmulHeuristicResult_t */
typedef struct {
	mlkv_lt_algo algo;
	size_t workspace;
	int state;
	float waves;
	int reserved[4];
} result;

static struct {
	int (*create)(void **);
	int (*destroy)(void *);
	size_t (*version)(void);
	const char *(*status_name)(int);
	int (*desc_create)(void **, int, int);
	int (*desc_destroy)(void *);
	int (*desc_set)(void *, int, const void *, size_t);
	int (*layout_create)(void **, int, uint64_t, uint64_t, int64_t);
	int (*layout_destroy)(void *);
	int (*pref_create)(void **);
	int (*pref_destroy)(void *);
	int (*pref_set)(void *, int, const void *, size_t);
	int (*heuristic)(void *, void *, void *, void *, void *, void *, void *, int, result *, int *);
	int (*check)(void *, void *, void *, void *, void *, void *, const mlkv_lt_algo *, result *);
	int (*matmul)(void *, void *, const void *, const void *, void *, const void *, void *, const void *,
		const void *, void *, void *, void *, const mlkv_lt_algo *, void *, size_t, void *);
} lt;

const char *mlkv_lt_open(const char *path) {
	void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!lib)
		return dlerror();
	struct { const char *name; void **slot; } symbols[] = {
		{"cublasLtCreate", (void **)&lt.create},
		{"cublasLtDestroy", (void **)&lt.destroy},
		{"cublasLtGetVersion", (void **)&lt.version},
		{"cublasLtGetStatusName", (void **)&lt.status_name},
		{"cublasLtMatmulDescCreate", (void **)&lt.desc_create},
		{"cublasLtMatmulDescDestroy", (void **)&lt.desc_destroy},
		{"cublasLtMatmulDescSetAttribute", (void **)&lt.desc_set},
		{"cublasLtMatrixLayoutCreate", (void **)&lt.layout_create},
		{"cublasLtMatrixLayoutDestroy", (void **)&lt.layout_destroy},
		{"cublasLtMatmulPreferenceCreate", (void **)&lt.pref_create},
		{"cublasLtMatmulPreferenceDestroy", (void **)&lt.pref_destroy},
		{"cublasLtMatmulPreferenceSetAttribute", (void **)&lt.pref_set},
		{"cublasLtMatmulAlgoGetHeuristic", (void **)&lt.heuristic},
		{"cublasLtMatmulAlgoCheck", (void **)&lt.check},
		{"cublasLtMatmul", (void **)&lt.matmul},
	};
	for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
		*symbols[i].slot = dlsym(lib, symbols[i].name);
		if (!*symbols[i].slot)
			return dlerror();
	}
	return NULL;
}

size_t mlkv_lt_version(void) { return lt.version(); }
const char *mlkv_lt_error(int status) { return lt.status_name(status); }
int mlkv_lt_create(void **handle) { return lt.create(handle); }
int mlkv_lt_destroy(void *handle) { return lt.destroy(handle); }

struct mlkv_lt_plan {
	void *desc, *a, *b, *c, *d;
	float beta;
	int has_bias;
	uint32_t scheme;
};

int mlkv_lt_plan_create(const mlkv_lt_shape *s, mlkv_lt_plan **plan) {
	mlkv_lt_plan *p = calloc(1, sizeof *p);
	if (!p)
		return STATUS_ALLOC_FAILED;
	p->beta = s->beta;
	p->has_bias = s->epilogue != EPILOGUE_DEFAULT;
	p->scheme = s->whole ? REDUCTION_SCHEME_NONE : REDUCTION_SCHEME_COMPUTE_TYPE;
	int status;
#define TRY(call) if ((status = (call)) != 0) goto failed
	TRY(lt.desc_create(&p->desc, s->compute, TYPE_R_32F));
	TRY(lt.desc_set(p->desc, DESC_TRANSA, &s->transa, sizeof s->transa));
	TRY(lt.desc_set(p->desc, DESC_TRANSB, &s->transb, sizeof s->transb));
	TRY(lt.desc_set(p->desc, DESC_EPILOGUE, &s->epilogue, sizeof s->epilogue));
	if (p->has_bias)
		TRY(lt.desc_set(p->desc, DESC_BIAS_DATA_TYPE, &s->type_bias, sizeof s->type_bias));
	TRY(lt.layout_create(&p->a, s->type_in, s->transa ? s->k : s->m, s->transa ? s->m : s->k, s->lda));
	TRY(lt.layout_create(&p->b, s->type_in, s->transb ? s->n : s->k, s->transb ? s->k : s->n, s->ldb));
	TRY(lt.layout_create(&p->c, s->type_c, s->m, s->n, s->ldc));
	TRY(lt.layout_create(&p->d, s->type_out, s->m, s->n, s->ldd));
	*plan = p;
	return 0;
failed:
	mlkv_lt_plan_destroy(p);
	return status;
#undef TRY
}

void mlkv_lt_plan_destroy(mlkv_lt_plan *p) {
	if (p->desc)
		lt.desc_destroy(p->desc);
	void *layouts[] = {p->a, p->b, p->c, p->d};
	for (int i = 0; i < 4; i++)
		if (layouts[i])
			lt.layout_destroy(layouts[i]);
	free(p);
}

int mlkv_lt_suggest(void *handle, mlkv_lt_plan *p, size_t workspace, mlkv_lt_algo *algos, int max, int *found) {
	void *pref = NULL;
	int status = lt.pref_create(&pref);
	if (status)
		return status;
	uint64_t bytes = workspace;
	uint32_t align = ALIGNMENT;
	result results[MAX_SUGGESTIONS];
	int n = 0;
	*found = 0;
	if (max > MAX_SUGGESTIONS)
		max = MAX_SUGGESTIONS;
	status = lt.pref_set(pref, PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
	if (!status)
		status = lt.pref_set(pref, PREF_REDUCTION_SCHEME_MASK, &p->scheme, sizeof p->scheme);
	for (int attr = PREF_MIN_ALIGNMENT_A_BYTES; !status && attr <= PREF_MIN_ALIGNMENT_D_BYTES; attr++)
		status = lt.pref_set(pref, attr, &align, sizeof align);
	if (!status)
		status = lt.heuristic(handle, p->desc, p->a, p->b, p->c, p->d, pref, max, results, &n);
	lt.pref_destroy(pref);
	if (status)
		return status;
	for (int i = 0; i < n; i++)
		if (results[i].state == 0 && results[i].workspace <= workspace)
			algos[(*found)++] = results[i].algo;
	return *found ? 0 : STATUS_NOT_SUPPORTED;
}

int mlkv_lt_check(void *handle, mlkv_lt_plan *p, const mlkv_lt_algo *algo, size_t workspace) {
	result r;
	memset(&r, 0, sizeof r);
	int status = lt.check(handle, p->desc, p->a, p->b, p->c, p->d, algo, &r);
	if (status)
		return status;
	return r.workspace <= workspace ? 0 : STATUS_NOT_SUPPORTED;
}

int mlkv_lt_run(void *handle, mlkv_lt_plan *p, const mlkv_lt_algo *algo, uint64_t a, uint64_t b, uint64_t c,
	uint64_t d, uint64_t bias, uint64_t workspace, size_t workspace_size, void *stream) {
	float one = 1;
	if (p->has_bias) {
		int status = lt.desc_set(p->desc, DESC_BIAS_POINTER, &bias, sizeof bias);
		if (status)
			return status;
	}
	return lt.matmul(handle, p->desc, &one, (void *)a, p->a, (void *)b, p->b, &p->beta, (void *)c, p->c, (void *)d, p->d,
		algo, (void *)workspace, workspace_size, stream);
}
