// CPU twin: internal/op/linear.go.
//
// Matrix products in float32 of few rows, which are a stream over the weights. The order
// of addition depends on nothing but the number of columns, so that a row gets the same
// bits beside any others.
#include "decode.cuh"

#if STORAGE == 32

// decode_product: out[rows, n] = x[rows, k] weight[n, k]' [+ add] [+ bias]; add may
// be out. A warp takes 4 columns of the result and 8 rows. Grid: (ceil(n / 32),
// ceil(rows / 8)) blocks of 256. k is a multiple of 4.
extern "C" __global__ void __launch_bounds__(256)
    decode_product(const float *x, int x_stride, const float *weight, const float *add, const float *bias, float *out, int out_stride, int rows, int n, int k) {
  const int ROWS = 8, COLUMNS = 4;
  const int lane = threadIdx.x % 32, column = (blockIdx.x * 8 + threadIdx.x / 32) * COLUMNS, row = blockIdx.y * ROWS;
  if (column >= n) return;
  float sum[ROWS][COLUMNS];
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) sum[r][c] = 0;
  for (int i = lane * 4; i < k; i += 128) {
    float4 w[COLUMNS];
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) w[c] = *(const float4 *)(weight + (long long)min(column + c, n - 1) * k + i);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const float4 v = *(const float4 *)(x + (long long)min(row + r, rows - 1) * x_stride + i);
#pragma unroll
      for (int c = 0; c < COLUMNS; c++) sum[r][c] += v.x * w[c].x + v.y * w[c].y + v.z * w[c].z + v.w * w[c].w;
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      float s = warp_sum(sum[r][c]);
      if (lane != r * COLUMNS + c || row + r >= rows || column + c >= n) continue;
      const long long at = (long long)(row + r) * out_stride + column + c;
      if (bias) s += bias[column + c];
      out[at] = add ? s + add[at] : s;
    }
}

#endif
