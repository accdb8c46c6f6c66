// CPU twins: internal/op/linear.go, internal/op/embed.go.
//
// Float32 numbers as pairs of bf16, for products in float32 by units that
// multiply bf16: high is the number rounded, low what it lacks, rounded; the sum
// is within 2^-17 of the number, and equal to it where that is a float16 (of a
// magnitude of 2^-14 or more) or a bf16. A row's high parts lie together and so
// do its low ones, so that the pairs take the numbers' room.
#include "common.cuh"

// split_pairs: pairs [rows, 2, columns] of x [rows, columns] (row stride in
// elements; columns a multiple of 8), the high parts first or the low ones.
// Grid: ceil(rows * columns / 8 / 256) blocks of 256.
extern "C" __global__ void __launch_bounds__(256) split_pairs(const float *x, bf16 *pairs, int rows, int columns, int stride, int high_first) {
  const int pieces = columns / 8;
  const long long at = (long long)blockIdx.x * 256 + threadIdx.x;
  if (at >= (long long)rows * pieces) return;
  const long long row = at / pieces;
  const int c = (int)(at - row * pieces) * 8;
  float v[8], high[8], low[8];
  load8(x + row * stride + c, v);
#pragma unroll
  for (int j = 0; j < 8; j++) high[j] = to_float(to_bf16(v[j])), low[j] = v[j] - high[j];
  bf16 *line = pairs + row * 2 * columns + c;
  store8(line + (high_first ? 0 : columns), high);
  store8(line + (high_first ? columns : 0), low);
}

// embed_pairs: out[i] = high + low of row tokens[i] of a table [, 2, hidden], high
// parts first; hidden is a multiple of 8. Grid: ceil(count * hidden / 8 / 256)
// blocks of 256.
extern "C" __global__ void __launch_bounds__(256) embed_pairs(const int *tokens, const bf16 *table, float *out, int count, int hidden) {
  const int pieces = hidden / 8;
  const long long at = (long long)blockIdx.x * 256 + threadIdx.x;
  if (at >= (long long)count * pieces) return;
  const int i = (int)(at / pieces), c = (int)(at - (long long)i * pieces) * 8;
  const bf16 *line = table + (long long)tokens[i] * 2 * hidden + c;
  float high[8], low[8];
  load8(line, high), load8(line + hidden, low);
#pragma unroll
  for (int j = 0; j < 8; j++) high[j] += low[j];
  store8(out + (long long)i * hidden + c, high);
}
