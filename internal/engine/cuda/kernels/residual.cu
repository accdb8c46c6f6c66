// CPU twin: internal/op/residual.go.
#include "layernorm.cuh"

// add_row returns x + a + m + bias_a + bias_m of 8 columns, rounded as it is
// stored. All but x may be null.
__device__ __forceinline__ void add_row(float (&v)[8], const element *x, const element *a, const element *m, const float *bias_a, const float *bias_m, long long at, int c) {
  load8(x + at, v);
  float t[8];
  auto add = [&]() {
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] += t[j];
  };
  if (a) load8(a + at, t), add();
  if (m) load8(m + at, t), add();
  if (bias_a) load8(bias_a + c, t), add();
  if (bias_m) load8(bias_m + c, t), add();
#pragma unroll
  for (int j = 0; j < 8; j++) v[j] = to_float(to_element(v[j]));
}

// residual_forward: out = x + a + m + bias_a + bias_m; all but x may be null.
// Grid: ceil(rows * HIDDEN / 8 / 256) blocks of 256.
extern "C" __global__ void __launch_bounds__(256) residual_forward(const element *x, const element *a, const element *m, const float *bias_a, const float *bias_m, element *out,
                                                                    int rows) {
  const long long at = ((long long)blockIdx.x * 256 + threadIdx.x) * 8;
  if (at >= (long long)rows * HIDDEN) return;
  float v[8];
  add_row(v, x, a, m, bias_a, bias_m, at, (int)(at % HIDDEN));
  store8(out + at, v);
}

// residual_layernorm_forward: the same, and the next layer's norms of out as
// layernorm_forward computes them. Grid: ceil(rows / layernorm_launch[0]) blocks of 256.
extern "C" __global__ void __launch_bounds__(256) residual_layernorm_forward(const element *x, const element *a, const element *m, const float *bias_a, const float *bias_m,
                                                                              element *out, const float *gain1, const float *bias1, element *y1, const float *gain2,
                                                                              const float *bias2, element *y2, float *mean, float *rstd, int rows, float eps) {
  typedef Lines<FORWARD_ROW_WARPS> L;
  L lines;
  const long long row = (long long)blockIdx.x * L::GROUPS + lines.group;
  const bool exists = row < rows;
  float v[L::P][8];
#pragma unroll
  for (int p = 0; p < L::P; p++) {
    if (exists && lines.has(p)) {
      const int c = lines.column(p);
      add_row(v[p], x, a, m, bias_a, bias_m, row * HIDDEN + c, c);
      store8(out + row * HIDDEN + c, v[p]);
    } else {
#pragma unroll
      for (int j = 0; j < 8; j++) v[p][j] = 0;
    }
  }
  normalize_row<FORWARD_ROW_WARPS, L::P>(lines, v, row, exists, gain1, bias1, y1, gain2, bias2, y2, mean, rstd, eps);
}

extern "C" __constant__ const int layernorm_launch[3] = {Lines<FORWARD_ROW_WARPS>::GROUPS, Lines<FORWARD_ROW_WARPS>::THREADS, Lines<BACKWARD_ROW_WARPS>::THREADS};
