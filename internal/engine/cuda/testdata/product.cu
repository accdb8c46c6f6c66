// A product of row-major matrices, an element a thread, where tools cannot look
// into cuBLASLt's: D = op(A) op(B) [+ C] [+ bias]. An element of op(A) lies at
// row * a_row + column * a_column, one of op(B) alike; c and bias may be null.
// Compiled for every IN, OUT and VECTOR (float or bf16).
// Grid: (ceil(n / 32), ceil(m / 8)) blocks of (32, 8).
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256) product(const IN *a, const IN *b, const OUT *c, OUT *d, const VECTOR *bias, int m, int n, int k,
                                                          int a_row, int a_column, int b_row, int b_column, int stride_c, int stride_d) {
  const int column = blockIdx.x * 32 + threadIdx.x;
  const long long row = blockIdx.y * 8 + threadIdx.y;
  if (row >= m || column >= n) return;
  float sum = 0;
  for (long long i = 0; i < k; i++) sum += to_float(a[row * a_row + i * a_column]) * to_float(b[i * b_row + (long long)column * b_column]);
  if (c) sum += to_float(c[row * stride_c + column]);
  if (bias) sum += to_float(bias[column]);
  d[row * stride_d + column] = Convert<OUT>::from(sum);
}
