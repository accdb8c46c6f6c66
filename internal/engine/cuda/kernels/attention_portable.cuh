// Causal flash attention without Hopper's instructions: mma.sync for bf16 (sm_80
// and newer), plain multiply-adds for float32. A warp takes 16 rows; blocks load
// a tile, synchronize and multiply. Interfaces and results are those of
// attention_hopper.cuh.
#pragma once
#include "attention_shared.cuh"

const int WARPS = D == 256 && STORAGE == 32 ? 2 : 4;
const int ROWS = 16 * WARPS;                                    // of a block
const int OTHERS = D == 256 ? 32 : D == 128 && STORAGE == 32 ? 32 : 64;  // rows of the other side's tiles
const int BLOCK = 32 * WARPS;

#if STORAGE == 16

typedef uint32 Tile;
template <int R> __host__ __device__ constexpr int tile_size() { return tile_bytes<R, D>(); }
const int STAGE_BYTES = 0;

template <int R> __device__ __forceinline__ void load_tile(Tile tile, const bf16 *from, int stride, int first, int limit) {
  for (int at = threadIdx.x; at < R * (D / 8); at += BLOCK) {
    const int row = at / (D / 8), c = at % (D / 8);
    const bool exists = first + row < limit;
    copy16(tile + piece_offset<R>(row, c), from + (exists ? (long long)(first + row) * stride + c * 8 : 0), exists);
  }
}

__device__ __forceinline__ void multiply(float *d, const uint32 *a, uint32 b0, uint32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// rows_product: s (16 x N) = rows [row, row+16) of tile a times the rows of b.
template <int A_ROWS, int N> __device__ __forceinline__ void rows_product(float (&s)[N / 2], Tile a, int row, Tile b, int lane) {
#pragma unroll
  for (int j = 0; j < N / 2; j++) s[j] = 0;
#pragma unroll
  for (int k = 0; k < D / 16; k++) {
    uint32 f[4], g[4];
    load_fragment<A_ROWS>(f, a, row, k, lane);
#pragma unroll
    for (int j = 0; j < N / 16; j++) {
      load_matrices<false>(g, b + piece_offset<N>(16 * j + (lane & 7) + (lane >> 4) * 8, 2 * k + (lane >> 3 & 1)));
      multiply(s + 8 * j, f, g[0], g[1]);
      multiply(s + 8 * j + 4, f, g[2], g[3]);
    }
  }
}

// An Operand is a 16 x K accumulator as the left side of the next product.
template <int K> struct Operand {
  uint32 a[K / 4];
  __device__ __forceinline__ Operand(const float (&s)[K / 2], char *, int) {
#pragma unroll
    for (int i = 0; i < K / 4; i++) a[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
  }
};

// add_product: d (16 x D) += p (16 x K) times tile b (K x D).
template <int K> __device__ __forceinline__ void add_product(float (&d)[D / 2], const Operand<K> &p, Tile b, int lane) {
#pragma unroll
  for (int k = 0; k < K / 16; k++)
#pragma unroll
    for (int j = 0; j < D / 16; j++) {
      uint32 g[4];
      load_matrices<true>(g, b + piece_offset<K>(16 * k + (lane & 15), 2 * j + (lane >> 4)));
      multiply(d + 8 * j, p.a + 4 * k, g[0], g[1]);
      multiply(d + 8 * j + 4, p.a + 4 * k, g[2], g[3]);
    }
}

__device__ __forceinline__ void store_pair(bf16 *to, float x, float y) { *(uint32 *)to = pack_bf16(x, y); }
__device__ __forceinline__ float power(float x) { return exp2_fast(x); }
__device__ __forceinline__ Tile tile_at(char *p) { return shared_address(p); }

#else

typedef float *Tile;
const int LINE = D + 4;  // floats of a row, so that rows start in different banks
template <int R> __host__ __device__ constexpr int tile_size() { return R * LINE * 4; }
const int STAGE_LINE = (ROWS > OTHERS ? ROWS : OTHERS) + 4;
const int STAGE_BYTES = ROWS * STAGE_LINE * 4;

template <int R> __device__ __forceinline__ void load_tile(Tile tile, const float *from, int stride, int first, int limit) {
  for (int at = threadIdx.x; at < R * (D / 4); at += BLOCK) {
    const int row = at / (D / 4), c = at % (D / 4);
    const bool exists = first + row < limit;
    copy16(shared_address(tile + row * LINE + c * 4), from + (exists ? (long long)(first + row) * stride + c * 4 : 0), exists);
  }
}

__device__ __forceinline__ float dot(float4 a, float4 b, float s) { return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, s)))); }

template <int A_ROWS, int N> __device__ __forceinline__ void rows_product(float (&s)[N / 2], Tile a, int row, Tile b, int lane) {
#pragma unroll
  for (int j = 0; j < N / 2; j++) s[j] = 0;
  const float *a0 = a + (row + lane / 4) * LINE, *a1 = a0 + 8 * LINE, *b0 = b + (lane & 3) * 2 * LINE;
  for (int k = 0; k < D; k += 4) {
    const float4 x = *(const float4 *)(a0 + k), y = *(const float4 *)(a1 + k);
#pragma unroll
    for (int j = 0; j < N / 8; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const float4 z = *(const float4 *)(b0 + (8 * j + e) * LINE + k);
        s[4 * j + e] = dot(x, z, s[4 * j + e]);
        s[4 * j + 2 + e] = dot(y, z, s[4 * j + 2 + e]);
      }
  }
}

// An Operand goes through shared memory, 16 rows for each warp.
template <int K> struct Operand {
  float *a;
  __device__ __forceinline__ Operand(const float (&s)[K / 2], char *stage, int lane) {
    a = (float *)stage + threadIdx.x / 32 * 16 * STAGE_LINE;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < K / 2; j++) a[(lane / 4 + (j & 2) * 4) * STAGE_LINE + j / 4 * 8 + (lane & 3) * 2 + (j & 1)] = s[j];
    __syncwarp();
  }
};

template <int K> __device__ __forceinline__ void add_product(float (&d)[D / 2], const Operand<K> &p, Tile b, int lane) {
  const float *p0 = p.a + lane / 4 * STAGE_LINE, *p1 = p0 + 8 * STAGE_LINE;
  for (int k = 0; k < K; k++) {
    const float x = p0[k], y = p1[k];
    const float *line = b + k * LINE + (lane & 3) * 2;
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
      const float2 z = *(const float2 *)(line + 8 * j);
      d[4 * j] = fmaf(x, z.x, d[4 * j]), d[4 * j + 1] = fmaf(x, z.y, d[4 * j + 1]);
      d[4 * j + 2] = fmaf(y, z.x, d[4 * j + 2]), d[4 * j + 3] = fmaf(y, z.y, d[4 * j + 3]);
    }
  }
}

__device__ __forceinline__ void store_pair(float *to, float x, float y) { *(float2 *)to = make_float2(x, y); }
__device__ __forceinline__ float power(float x) { return exp2f(x); }
__device__ __forceinline__ Tile tile_at(char *p) { return (float *)p; }

#endif

__device__ __forceinline__ void copies_done() {
  asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory");
  __syncthreads();
}

// put_rows writes a warp's 16 rows of an accumulator times a factor for each of
// the thread's two rows.
__device__ __forceinline__ void put_rows(element *to, int stride, int first, int limit, const float (&d)[D / 2], float f0, float f1, int lane) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int row = first + lane / 4 + 8 * r;
    if (row >= limit) continue;
    element *line = to + (long long)row * stride + (lane & 3) * 2;
#pragma unroll
    for (int j = 0; j < D / 8; j++) store_pair(line + 8 * j, d[4 * j + 2 * r] * (r ? f1 : f0), d[4 * j + 2 * r + 1] * (r ? f1 : f0));
  }
}

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
    float o[D / 2], s[OTHERS / 2], top[2] = {-INFINITE, -INFINITE}, sum[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < D / 2; j++) o[j] = 0;
    __syncthreads();
    load_tile<ROWS>(q_tile, q + start * q_stride + h * D, q_stride, first, length);
    for (int n = 0; n < div_up(min(first + ROWS, length), OTHERS); n++) {
      if (n > 0) __syncthreads();
      load_tile<OTHERS>(k_tile, kh, k_stride, n * OTHERS, length);
      load_tile<OTHERS>(v_tile, vh, v_stride, n * OTHERS, length);
      copies_done();
      rows_product<ROWS, OTHERS>(s, q_tile, 16 * warp, k_tile, lane);
#pragma unroll
      for (int j = 0; j < OTHERS / 2; j++)
        if (n * OTHERS + j / 4 * 8 + (lane & 3) * 2 + (j & 1) > row + (j & 2) * 4) s[j] = -INFINITE;
#pragma unroll
      for (int r = 0; r < 2; r++) {
        float t = top[r];
#pragma unroll
        for (int j = 0; j < OTHERS / 8; j++) t = fmaxf(t, fmaxf(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]));
        t = fmaxf(t, __shfl_xor_sync(~0u, t, 1));
        t = fmaxf(t, __shfl_xor_sync(~0u, t, 2));
        const float shrink = power((top[r] - t) * c);
        float a = 0;
#pragma unroll
        for (int j = 0; j < OTHERS / 8; j++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            float &x = s[4 * j + 2 * r + e];
            x = power((x - t) * c);
            a += x;
          }
        top[r] = t;
        sum[r] = sum[r] * shrink + a;
#pragma unroll
        for (int j = 0; j < D / 8; j++) o[4 * j + 2 * r] *= shrink, o[4 * j + 2 * r + 1] *= shrink;
      }
      const Operand<OTHERS> p(s, stage, lane);
      add_product<OTHERS>(o, p, v_tile, lane);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
      if ((lane & 3) == 0 && row + 8 * r < length) lse[(long long)pair * length + row + 8 * r] = top[r] * c + log2f(sum[r]);
    }
    put_rows(out + start * out_stride + h * D, out_stride, first + 16 * warp, length, o, 1 / sum[0], 1 / sum[1], lane);
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

extern "C" __constant__ const int attention_launch[3][4] = {
    {BLOCK, SHARED_FORWARD, ROWS, 1},
    {BLOCK, SHARED_BACKWARD, ROWS, 1},
    {BLOCK, SHARED_BACKWARD, ROWS, SPLIT ? 2 : 1},
};
// Rows that the backward kernels sum for a part of the gradient of the biases.
extern "C" __constant__ const int attention_part_rows[1] = {PART_ROWS};
