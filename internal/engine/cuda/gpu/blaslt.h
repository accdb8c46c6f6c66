#include <stddef.h>
#include <stdint.h>

/* Opens libcublasLt and resolves its functions; NULL, or why it failed. */
const char *mlkv_lt_open(const char *path);
size_t mlkv_lt_version(void);
const char *mlkv_lt_error(int status);
int mlkv_lt_create(void **handle);
int mlkv_lt_destroy(void *handle);

/* cublasLtMatmulAlgo_t: valid for one version of the library. */
typedef struct { uint64_t data[8]; } mlkv_lt_algo;

/*
 * A product in cuBLAS's column-major terms: D (m x n) = op(A) op(B) + beta C.
 * Types are cudaDataType; an epilogue other than 1 has a vector of type_bias. With
 * whole, no sum is split into parts.
 */
typedef struct {
	int transa, transb;
	uint64_t m, n, k;
	int64_t lda, ldb, ldc, ldd;
	int type_in, type_c, type_out, type_bias;
	int compute;
	uint32_t epilogue;
	int whole;
	float beta;
} mlkv_lt_shape;

typedef struct mlkv_lt_plan mlkv_lt_plan;

int mlkv_lt_plan_create(const mlkv_lt_shape *shape, mlkv_lt_plan **plan);
void mlkv_lt_plan_destroy(mlkv_lt_plan *plan);
/* The library's suggestions, best first; *found of at most max. */
int mlkv_lt_suggest(void *handle, mlkv_lt_plan *plan, size_t workspace, mlkv_lt_algo *algos, int max, int *found);
/* Whether an algorithm still fits the plan, this library and the device. */
int mlkv_lt_check(void *handle, mlkv_lt_plan *plan, const mlkv_lt_algo *algo, size_t workspace);
int mlkv_lt_run(void *handle, mlkv_lt_plan *plan, const mlkv_lt_algo *algo, uint64_t a, uint64_t b, uint64_t c,
	uint64_t d, uint64_t bias, uint64_t workspace, size_t workspace_size, void *stream);
