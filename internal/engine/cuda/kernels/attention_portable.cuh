// Causal flash attention without Hopper's instructions: blocks load a tile,
// synchronize and multiply. Interfaces and results are those of
// attention_hopper.cuh.
#pragma once
#include "attention_tiles.cuh"

const int SHARED_FORWARD = 1024 + tile_size<ROWS>() + 2 * tile_size<OTHERS>() + STAGE_BYTES;
const int SHARED_BACKWARD = 1024 + 2 * tile_size<ROWS>() + 2 * tile_size<OTHERS>() + STAGE_BYTES + 8 * OTHERS;
const bool SPLIT = D > 128;

// Every warp's rows are a part of the gradient of the biases.
const int PART_ROWS = 16;
__device__ __forceinline__ long long part_of(int b, int first, int length) { return b * div_up(length, PART_ROWS) + first / PART_ROWS; }

extern "C" __global__ void __launch_bounds__(BLOCK)
    attention_forward(const element *q, const element *k, const element *v, element *out, float *lse, int batch, int length, int heads, int kv_heads, int q_stride, int k_stride,
                      int v_stride, int out_stride, float scale) {
  char *shared = aligned_shared();
  const Tile q_tile = tile_at(shared), k_tile = tile_at(shared + tile_size<ROWS>()), v_tile = tile_at(shared + tile_size<ROWS>() + tile_size<OTHERS>());
  char *stage = shared + tile_size<ROWS>() + 2 * tile_size<OTHERS>();
  const Schedule schedule(div_up(length, ROWS), batch * heads, length);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = heads / kv_heads;
  const float c = scale * LOG2E;
  int rank, pair;
  for (int i = 0; schedule.get(i, rank, pair); i++) {
    if (rank < 0) continue;
    const int first = (schedule.rows - 1 - rank) * ROWS, row = first + 16 * warp + lane / 4;
    const int b = pair / heads, h = pair - b * heads;
    const long long start = (long long)b * length;
    const element *kh = k + start * k_stride + h / group * D, *vh = v + start * v_stride + h / group * D;
    Softmax softmax;
    float s[OTHERS / 2];
    __syncthreads();
    load_tile<ROWS>(q_tile, q + start * q_stride + h * D, q_stride, first, length);
    for (int n = 0; n < div_up(min(first + ROWS, length), OTHERS); n++) {
      if (n > 0) __syncthreads();
      load_tile<OTHERS>(k_tile, kh, k_stride, n * OTHERS, length);
      load_tile<OTHERS>(v_tile, vh, v_stride, n * OTHERS, length);
      copies_done();
      rows_product<ROWS, OTHERS>(s, q_tile, 16 * warp, k_tile, lane);
      softmax.add(s, n * OTHERS, row, c, v_tile, stage, lane);
    }
    softmax.total();
#pragma unroll
    for (int r = 0; r < 2; r++)
      if ((lane & 3) == 0 && row + 8 * r < length) lse[(long long)pair * length + row + 8 * r] = softmax.top[r] * c + log2f(softmax.sum[r]);
    put_rows(out + start * out_stride + h * D, out_stride, first + 16 * warp, length, softmax.o, 1 / softmax.sum[0], 1 / softmax.sum[1], lane);
  }
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    attention_backward_query(const element *q, const element *k, const element *v, const element *out, const element *dout, const float *lse, float *delta, element *dq,
                             const float2 *table, float *parts, int batch, int length, int heads, int kv_heads, int q_stride, int k_stride, int v_stride, int out_stride,
                             int dout_stride, int dq_stride, int parts_stride, float scale) {
  char *shared = aligned_shared();
  const Tile q_tile = tile_at(shared), g_tile = tile_at(shared + tile_size<ROWS>());
  const Tile k_tile = tile_at(shared + 2 * tile_size<ROWS>()), v_tile = tile_at(shared + 2 * tile_size<ROWS>() + tile_size<OTHERS>());
  char *stage = shared + 2 * tile_size<ROWS>() + 2 * tile_size<OTHERS>();
  const Schedule schedule(div_up(length, ROWS), batch * heads, length);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = heads / kv_heads;
  const float c = scale * LOG2E;
  int rank, pair;
  for (int i = 0; schedule.get(i, rank, pair); i++) {
    if (rank < 0) continue;
    const int first = (schedule.rows - 1 - rank) * ROWS, row = first + 16 * warp + lane / 4;
    const int b = pair / heads, h = pair - b * heads;
    const long long start = (long long)b * length;
    const element *kh = k + start * k_stride + h / group * D, *vh = v + start * v_stride + h / group * D;
    float d[D / 2], s[OTHERS / 2], dp[OTHERS / 2], l[2], dl[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const bool exists = row + 8 * r < length;
      const long long at = (long long)pair * length + row + 8 * r;
      l[r] = exists ? lse[at] : 0;
      dl[r] = row_delta(out + start * out_stride + h * D, dout + start * dout_stride + h * D, out_stride, dout_stride, row + 8 * r, exists, lane);
      if (exists && (lane & 3) == 0) delta[at] = dl[r];
    }
#pragma unroll
    for (int j = 0; j < D / 2; j++) d[j] = 0;
    __syncthreads();
    load_tile<ROWS>(q_tile, q + start * q_stride + h * D, q_stride, first, length);
    load_tile<ROWS>(g_tile, dout + start * dout_stride + h * D, dout_stride, first, length);
    for (int n = 0; n < div_up(min(first + ROWS, length), OTHERS); n++) {
      if (n > 0) __syncthreads();
      load_tile<OTHERS>(k_tile, kh, k_stride, n * OTHERS, length);
      load_tile<OTHERS>(v_tile, vh, v_stride, n * OTHERS, length);
      copies_done();
      rows_product<ROWS, OTHERS>(s, q_tile, 16 * warp, k_tile, lane);
      rows_product<ROWS, OTHERS>(dp, g_tile, 16 * warp, v_tile, lane);
#pragma unroll
      for (int j = 0; j < OTHERS / 2; j++) {
        const bool masked = n * OTHERS + j / 4 * 8 + (lane & 3) * 2 + (j & 1) > row + (j & 2) * 4;
        const int r = j >> 1 & 1;
        s[j] = masked ? 0 : power(s[j] * c - l[r]) * (dp[j] - dl[r]);
      }
      const Operand<OTHERS> ds(s, stage, lane);
      add_product<OTHERS>(d, ds, k_tile, lane);
    }
    const int at = first + 16 * warp;
    turn_back(d, table, at, length, lane);
    if (parts && at < length) sum_columns(parts + part_of(b, at, length) * parts_stride + h * D, d, scale, at, length, lane);
    put_rows(dq + start * dq_stride + h * D, dq_stride, at, length, d, scale, scale, lane);
  }
}

__device__ __forceinline__ void put_gradient(int mode, element *to, float *sum, float *parts, const float2 *table, int to_stride, int sum_stride, int first, int limit,
                                             float (&d)[D / 2], float f, int lane) {
  if (!add_to_sum(mode, sum, sum_stride, first, limit, d, f, lane)) return;
  if (mode == GRADIENT_FINISH) f = 1;
  turn_back(d, table, first, limit, lane);
  if (parts && first < limit) sum_columns(parts, d, f, first, limit, lane);
  put_rows(to, to_stride, first, limit, d, f, f, lane);
}

template <bool WANT_K, bool WANT_V> __device__ __forceinline__ void key_value(const KeyArguments &a) {
  char *shared = aligned_shared();
  const Tile k_tile = tile_at(shared), v_tile = tile_at(shared + tile_size<ROWS>());
  const Tile q_tile = tile_at(shared + 2 * tile_size<ROWS>()), g_tile = tile_at(shared + 2 * tile_size<ROWS>() + tile_size<OTHERS>());
  char *stage = shared + 2 * tile_size<ROWS>() + 2 * tile_size<OTHERS>();
  float *l = (float *)(stage + STAGE_BYTES), *dl = l + OTHERS;
  const int length = a.length, group = a.heads / a.kv_heads;
  const Schedule schedule(div_up(length, ROWS), a.batch * a.kv_heads, length);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const float c = a.scale * LOG2E;
  int rank, pair;
  for (int i = 0; schedule.get(i, rank, pair); i++) {
    if (rank < 0) continue;
    const int first = rank * ROWS, row = first + 16 * warp + lane / 4;
    const int b = pair / a.kv_heads, g = pair - b * a.kv_heads;
    const long long start = (long long)b * length;
    float dk[WANT_K ? D / 2 : 2], dv[WANT_V ? D / 2 : 2], s[OTHERS / 2], dp[OTHERS / 2];
#pragma unroll
    for (int j = 0; j < (WANT_K ? D / 2 : 2); j++) dk[j] = 0;
#pragma unroll
    for (int j = 0; j < (WANT_V ? D / 2 : 2); j++) dv[j] = 0;
    __syncthreads();
    load_tile<ROWS>(k_tile, a.k + start * a.k_stride + g * D, a.k_stride, first, length);
    load_tile<ROWS>(v_tile, a.v + start * a.v_stride + g * D, a.v_stride, first, length);
    for (int h = g * group; h < (g + 1) * group; h++)
      for (int n = first / OTHERS; n < div_up(length, OTHERS); n++) {
        __syncthreads();
        load_tile<OTHERS>(q_tile, a.q + start * a.q_stride + h * D, a.q_stride, n * OTHERS, length);
        load_tile<OTHERS>(g_tile, a.dout + start * a.dout_stride + h * D, a.dout_stride, n * OTHERS, length);
        for (int t = threadIdx.x; t < OTHERS; t += BLOCK) {
          const bool exists = n * OTHERS + t < length;
          const long long at = ((long long)b * a.heads + h) * length + n * OTHERS + t;
          l[t] = exists ? a.lse[at] : 0;
          dl[t] = exists ? a.delta[at] : 0;
        }
        copies_done();
        rows_product<ROWS, OTHERS>(s, k_tile, 16 * warp, q_tile, lane);
#pragma unroll
        for (int j = 0; j < OTHERS / 2; j++) {
          const int column = j / 4 * 8 + (lane & 3) * 2 + (j & 1);
          s[j] = n * OTHERS + column < row + (j & 2) * 4 ? 0 : power(s[j] * c - l[column]);
        }
        if constexpr (WANT_V) {
          const Operand<OTHERS> p(s, stage, lane);
          add_product<OTHERS>(dv, p, g_tile, lane);
        }
        if constexpr (WANT_K) {
          rows_product<ROWS, OTHERS>(dp, v_tile, 16 * warp, g_tile, lane);
#pragma unroll
          for (int j = 0; j < OTHERS / 2; j++) dp[j] = s[j] * (dp[j] - dl[j / 4 * 8 + (lane & 3) * 2 + (j & 1)]);
          const Operand<OTHERS> ds(dp, stage, lane);
          add_product<OTHERS>(dk, ds, q_tile, lane);
        }
      }
    const int at = first + 16 * warp;
    const long long part = part_of(b, at, length) * a.parts_stride + g * D;
    if constexpr (WANT_V)
      put_gradient(a.mode, a.dv + start * a.dv_stride + g * D, a.dv_sum + start * a.sum_stride + g * D, a.dv_parts ? a.dv_parts + part : 0, 0, a.dv_stride, a.sum_stride, at,
                   length, dv, 1, lane);
    if constexpr (WANT_K)
      put_gradient(a.mode, a.dk + start * a.dk_stride + g * D, a.dk_sum + start * a.sum_stride + g * D, a.dk_parts ? a.dk_parts + part : 0, a.table, a.dk_stride, a.sum_stride, at,
                   length, dk, a.scale, lane);
  }
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    attention_backward_key_value(const element *q, const element *k, const element *v, const element *dout, const float *lse, const float *delta, element *dk, element *dv,
                                 float *dk_sum, float *dv_sum, const float2 *table, float *dk_parts, float *dv_parts, int batch, int length, int heads, int kv_heads,
                                 int q_stride, int k_stride, int v_stride, int dout_stride, int dk_stride, int dv_stride, int sum_stride, int parts_stride, int mode, float scale) {
  const KeyArguments a = {q, k, v, dout, lse, delta, dk, dv, dk_sum, dv_sum, table, dk_parts, dv_parts, batch, length, heads, kv_heads, q_stride, k_stride, v_stride, dout_stride, dk_stride, dv_stride, sum_stride, parts_stride, mode, scale};
  if constexpr (!SPLIT)
    key_value<true, true>(a);
  else if (blockIdx.y == 0)
    key_value<true, false>(a);
  else
    key_value<false, true>(a);
}

extern "C" __constant__ const int attention_launch[4][4] = {
    {BLOCK, SHARED_FORWARD, ROWS, 1},
    {BLOCK, SHARED_BACKWARD, ROWS, 1},
    {BLOCK, SHARED_BACKWARD, ROWS, SPLIT ? 2 : 1},
};
// Rows that the backward kernels sum for a part of the gradient of the biases.
extern "C" __constant__ const int attention_part_rows[1] = {PART_ROWS};
