// Layer norms of rows of HIDDEN elements (a multiple of 8), one or two of the
// same input: Pythia's attention and MLP norms share mean and deviation.
//
// W warps take a row; every lane holds P pieces of 8 columns in registers.
#pragma once
#include "columns.cuh"

#ifndef HIDDEN
#error "HIDDEN is the number of columns"
#endif

const int FORWARD_ROW_WARPS = HIDDEN <= 1024 ? 1 : HIDDEN <= 2048 ? 2 : HIDDEN <= 4096 ? 4 : 8;
const int BACKWARD_ROW_WARPS = div_up(HIDDEN, 256);

template <int W> struct Lines {
  static const int GROUPS = W >= 8 ? 1 : 8 / W;  // rows of a block
  static const int THREADS = 32 * W * GROUPS;
  static const int P = div_up(HIDDEN / 8, 32 * W);
  static const bool FULL = HIDDEN / 8 % (32 * W) == 0;
  int group, lane;  // lane within the row
  int turn;
  __device__ __forceinline__ Lines() : group(threadIdx.x / (32 * W)), lane(threadIdx.x % (32 * W)), turn(0) {}
  __device__ __forceinline__ int column(int p) const { return (p * 32 * W + lane) * 8; }
  __device__ __forceinline__ bool has(int p) const { return FULL || column(p) < HIDDEN; }
  // sum adds two values over the row's threads, in a fixed order.
  __device__ __forceinline__ void sum(float &a, float &b) {
    a = warp_sum(a), b = warp_sum(b);
    if (W > 1) {
      __shared__ float2 values[2][W * GROUPS];
      if (threadIdx.x % 32 == 0) values[turn][threadIdx.x / 32] = make_float2(a, b);
      asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "r"(32 * W) : "memory");
      a = b = 0;
#pragma unroll
      for (int w = 0; w < W; w++) {
        const float2 v = values[turn][group * W + w];
        a += v.x, b += v.y;
      }
      turn ^= 1;
    }
  }
};

// normalize_row writes mean, deviation and one or two norms of a row in x.
template <int W, int P>
__device__ __forceinline__ void normalize_row(Lines<W> &lines, const float (&x)[P][8], long long row, bool exists, const float *gain1, const float *bias1, element *y1,
                                              const float *gain2, const float *bias2, element *y2, float *mean_out, float *rstd_out, float eps) {
  float mean = 0, var = 0, none = 0;
#pragma unroll
  for (int p = 0; p < P; p++)
    if (lines.has(p))
#pragma unroll
      for (int j = 0; j < 8; j++) mean += x[p][j];
  lines.sum(mean, none);
  mean /= HIDDEN;
#pragma unroll
  for (int p = 0; p < P; p++)
    if (lines.has(p))
#pragma unroll
      for (int j = 0; j < 8; j++) var += (x[p][j] - mean) * (x[p][j] - mean);
  lines.sum(var, none);
  const float rstd = 1 / sqrtf(var / HIDDEN + eps);
  if (!exists) return;
  if (lines.lane == 0) mean_out[row] = mean, rstd_out[row] = rstd;
#pragma unroll
  for (int p = 0; p < P; p++) {
    if (!lines.has(p)) continue;
    const int c = lines.column(p);
    float g[8], b[8], y[8];
    load8(gain1 + c, g), load8(bias1 + c, b);
#pragma unroll
    for (int j = 0; j < 8; j++) y[j] = (x[p][j] - mean) * rstd * g[j] + b[j];
    store8(y1 + row * HIDDEN + c, y);
    if (y2) {
      load8(gain2 + c, g), load8(bias2 + c, b);
#pragma unroll
      for (int j = 0; j < 8; j++) y[j] = (x[p][j] - mean) * rstd * g[j] + b[j];
      store8(y2 + row * HIDDEN + c, y);
    }
  }
}
