// CPU twin: internal/op/linear.go.
//
// Products are cuBLASLt's; these are the parts around them.
#include "columns.cuh"

// bias_gradient_parts sums the rows of x [rows, columns] (row stride in
// elements; columns a multiple of 8). Grid: (ceil(columns / 256), parts) blocks
// of (32, 8); parts is [gridDim.y, columns].
extern "C" __global__ void __launch_bounds__(256) bias_gradient_parts(const element *x, float *parts, int rows, int columns, int stride) {
  const int c = blockIdx.x * 256 + threadIdx.x * 8;
  float sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  if (c < columns) {
#pragma unroll 4
    for (int r = blockIdx.y * COLUMN_WARPS + threadIdx.y; r < rows; r += gridDim.y * COLUMN_WARPS) {
      float v[8];
      load8(x + (long long)r * stride + c, v);
#pragma unroll
      for (int j = 0; j < 8; j++) sum[j] += v[j];
    }
  }
  put_part(sum, parts, columns, c);
}

// bias_gradient_add: gradient[c] += sum of parts [count, columns].
// Grid: ceil(columns / 32) blocks of (32, 32).
extern "C" __global__ void __launch_bounds__(1024) bias_gradient_add(const float *parts, float *gradient, int count, int columns) {
  add_parts(parts, gradient, count, columns, columns);
}

// bias_add: x[r, c] += bias[c], where the product's epilogue did not.
// Grid: ceil(rows * columns / 8 / 256) blocks of 256.
extern "C" __global__ void __launch_bounds__(256) bias_add(element *x, const float *bias, int rows, int columns, int stride) {
  const int pieces = columns / 8;
  const long long at = (long long)blockIdx.x * 256 + threadIdx.x;
  if (at >= (long long)rows * pieces) return;
  const long long r = at / pieces;
  const int c = (int)(at - r * pieces) * 8;
  float v[8], b[8];
  load8(x + r * stride + c, v);
  load8(bias + c, b);
#pragma unroll
  for (int j = 0; j < 8; j++) v[j] += b[j];
  store8(x + r * stride + c, v);
}
