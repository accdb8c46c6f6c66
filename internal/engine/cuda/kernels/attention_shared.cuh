// What the attention kernels of all architectures share.
#pragma once
#include "tiles.cuh"

#ifndef HEAD_SIZE
#error "HEAD_SIZE must be 32, 64, 80, 128 or 256"
#endif

const int D = HEAD_SIZE;

// A Schedule deals the tiles of all heads to the blocks: groups of heads whose
// keys and values fit the L2 cache, longest tiles first, back and forth over
// the blocks so that each gets an equal share.
struct Schedule {
  int rows, pairs, group;
  __device__ __forceinline__ Schedule(int rows, int pairs, int length) : rows(rows), pairs(pairs) {
    long long bytes = (long long)length * D * 4;
    group = (int)((24 << 20) / bytes);
    group = group < 1 ? 1 : group > pairs ? pairs : group;
  }
  // get returns the i-th tile of this block: its rank by length and its pair
  // of batch row and head.
  __device__ __forceinline__ bool get(int i, int &rank, int &pair) const {
    int at = i * gridDim.x + ((i & 1) ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    if (i * (int)gridDim.x >= rows * pairs) return false;
    if (at >= rows * pairs) {
      rank = -1;
      return true;
    }
    int g = at / (group * rows), r = at - g * group * rows;
    int width = pairs - g * group < group ? pairs - g * group : group;
    rank = r / width;
    pair = g * group + r % width;
    return true;
  }
};

__device__ __forceinline__ char *aligned_shared() {
  extern __shared__ char raw_shared[];
  return raw_shared + (-shared_address(raw_shared) & 1023);
}

// row_delta is the sum over a head's channels of dout * out for one row, which the
// backward pass subtracts from the gradient of the probabilities. Four
// neighbouring lanes share the row.
__device__ __forceinline__ float row_delta(const element *out, const element *dout, int out_stride, int dout_stride, int row, bool exists, int lane) {
  float sum = 0;
  if (exists) {
#pragma unroll
    for (int p = 0; p < div_up(D, 32); p++) {
      const int c = (p * 4 + (lane & 3)) * 8;
      if (D % 32 != 0 && c >= D) break;
      float x[8], y[8];
      load8(out + (long long)row * out_stride + c, x);
      load8(dout + (long long)row * dout_stride + c, y);
#pragma unroll
      for (int j = 0; j < 8; j++) sum += x[j] * y[j];
    }
  }
  sum += __shfl_xor_sync(~0u, sum, 1);
  return sum + __shfl_xor_sync(~0u, sum, 2);
}

// What becomes of dk and dv, whose keys and values several layers may share: written
// (WRITE); or summed in float32 over the layers that borrow them: the first layer of
// the backward pass STARTs the sum, further ones ADD to it, and the last one adds its
// own and writes the result (FINISH).
enum { GRADIENT_WRITE = 0, GRADIENT_START = 1, GRADIENT_ADD = 2, GRADIENT_FINISH = 3 };

// add_to_sum does so for a warp's 16 rows of a gradient times f, and tells whether
// the gradient, complete in d, is to be written; after FINISH f is in it.
__device__ __forceinline__ bool add_to_sum(int mode, float *sum, int stride, int first, int limit, float (&d)[D / 2], float f, int lane) {
  if (mode == GRADIENT_WRITE) return true;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int row = first + lane / 4 + 8 * r;
    if (row >= limit) continue;
    float *line = sum + (long long)row * stride + (lane & 3) * 2;
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
      float2 x = make_float2(d[4 * j + 2 * r] * f, d[4 * j + 2 * r + 1] * f);
      if (mode != GRADIENT_START) {
        const float2 y = *(const float2 *)(line + 8 * j);
        x.x += y.x, x.y += y.y;
      }
      if (mode == GRADIENT_FINISH)
        d[4 * j + 2 * r] = x.x, d[4 * j + 2 * r + 1] = x.y;
      else
        *(float2 *)(line + 8 * j) = x;
    }
  }
  return mode == GRADIENT_FINISH;
}

// TURNED is the number of pairs of channels that the backward kernels turn back by
// themselves where the rotary embedding takes a quarter of a head; 0: the size is not
// one at which a thread holds both channels of a pair.
const int TURNED = D % 64 == 0 ? D / 8 : 0;

// turn_back turns a warp's 16 rows of a gradient by minus the angles of rotary_table
// (null: not).
__device__ __forceinline__ void turn_back(float (&d)[D / 2], const float2 *table, int first, int limit, int lane) {
  if (TURNED == 0 || !table) return;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int row = first + lane / 4 + 8 * r;
    if (row >= limit) continue;
    const float4 *line = (const float4 *)(table + (long long)row * TURNED) + (lane & 3);
#pragma unroll
    for (int j = 0; j < TURNED / 8; j++) {
      const float4 w = line[4 * j];  // cosine and sine of two pairs
      float &p0 = d[4 * j + 2 * r], &p1 = d[4 * j + 2 * r + 1], &q0 = d[4 * (j + TURNED / 8) + 2 * r], &q1 = d[4 * (j + TURNED / 8) + 2 * r + 1];
      const float x0 = p0, x1 = p1;
      p0 = x0 * w.x + q0 * w.y, q0 = q0 * w.x - x0 * w.y;
      p1 = x1 * w.z + q1 * w.w, q1 = q1 * w.z - x1 * w.w;
    }
  }
}

// halve leaves each of two lanes the sums of half of both lanes' values.
template <int N, int BIT> __device__ __forceinline__ void halve(float *v, int lane) {
  const bool upper = lane & BIT;
#pragma unroll
  for (int i = 0; i < N / 2; i++) {
    const float give = upper ? v[i] : v[i + N / 2], keep = upper ? v[i + N / 2] : v[i];
    v[i] = keep + __shfl_xor_sync(~0u, give, BIT);
  }
}

// sum_columns writes the sums over a warp's 16 rows of d, times f, to line [D].
__device__ __forceinline__ void sum_columns(float *line, const float (&d)[D / 2], float f, int first, int limit, int lane) {
  if constexpr (TURNED > 0) {
    const float f0 = first + lane / 4 < limit ? f : 0, f1 = first + lane / 4 + 8 < limit ? f : 0;
    float v[D / 4];
#pragma unroll
    for (int i = 0; i < D / 4; i++) v[i] = d[i / 2 * 4 + (i & 1)] * f0 + d[i / 2 * 4 + 2 + (i & 1)] * f1;
    halve<D / 4, 16>(v, lane), halve<D / 8, 8>(v, lane), halve<D / 16, 4>(v, lane);
    const int block = (lane >> 4) * (D / 16) + (lane >> 3 & 1) * (D / 32) + (lane >> 2 & 1) * (D / 64);  // of 8 columns
#pragma unroll
    for (int i = 0; i < D / 32; i += 2) *(float2 *)(line + (block + i / 2) * 8 + (lane & 3) * 2) = make_float2(v[i], v[i + 1]);
  }
}

struct KeyArguments {
  const element *q, *k, *v, *dout;
  const float *lse, *delta;
  element *dk, *dv;
  float *dk_sum, *dv_sum;
  const float2 *table;
  float *dk_parts, *dv_parts;
  int batch, length, heads, kv_heads, q_stride, k_stride, v_stride, dout_stride, dk_stride, dv_stride, sum_stride, parts_stride, mode;
  float scale;
};
