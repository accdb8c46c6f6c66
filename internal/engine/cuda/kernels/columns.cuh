// Sums over the rows of a matrix in a fixed order: every block sums a share of
// the rows into parts[blockIdx.y], then add_parts adds the parts to the result.
#pragma once
#include "common.cuh"

const int COLUMN_WARPS = 8;  // rows in flight in a block of (32, 8) threads, 256 columns wide

// put_part adds the sums of a block's warps, in order, and writes them. Each
// thread holds 8 columns from c on.
__device__ __forceinline__ void put_part(float (&sum)[8], float *parts, int columns, int c) {
  __shared__ float shared[COLUMN_WARPS][256];
  const int lane = threadIdx.x, warp = threadIdx.y;
#pragma unroll
  for (int j = 0; j < 8; j++) shared[warp][lane * 8 + j] = sum[j];
  __syncthreads();
  const int t = warp * 32 + lane, column = blockIdx.x * 256 + t;
  float s = 0;
#pragma unroll
  for (int w = 0; w < COLUMN_WARPS; w++) s += shared[w][t];
  if (column < columns) parts[(long long)blockIdx.y * columns + column] = s;
}

// add_parts: sum[c] += the parts of column c. Grid: ceil(columns / 32) blocks of (32, 32).
__device__ __forceinline__ void add_parts(const float *parts, float *sum, int count, int columns, int stride) {
  __shared__ float shared[32][33];
  const int c = blockIdx.x * 32 + threadIdx.x;
  float s = 0;
  if (c < columns)
#pragma unroll 4
    for (int i = threadIdx.y; i < count; i += 32) s += parts[(long long)i * stride + c];
  shared[threadIdx.y][threadIdx.x] = s;
  __syncthreads();
  s = warp_sum(shared[threadIdx.x][threadIdx.y]);
  const int column = blockIdx.x * 32 + threadIdx.y;
  if (threadIdx.x == 0 && column < columns) sum[column] += s;
}
