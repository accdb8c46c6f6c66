// What attention without Hopper's instructions is made of: mma.sync for bf16
// (sm_80 and newer), three of them for float32 with PAIRS, else plain
// multiply-adds. A warp takes 16 rows.
#pragma once
#include "attention_shared.cuh"

#ifndef WARPS_OF_A_BLOCK
#define WARPS_OF_A_BLOCK (D == 256 && STORAGE == 32 ? 2 : 4)
#endif
const int WARPS = WARPS_OF_A_BLOCK;
const int ROWS = 16 * WARPS;  // of a block
#if STORAGE == 32 && !defined(PAIRS)
const int OTHERS = D >= 128 ? 32 : 64;  // rows of the other side's tiles
#else
const int OTHERS = D == 256 ? 32 : 64;
#endif
const int BLOCK = 32 * WARPS;

__device__ __forceinline__ void multiply(float *d, const uint32 *a, uint32 b0, uint32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#ifdef PAIRS
#include "attention_pairs.cuh"
#elif STORAGE == 16

typedef uint32 Tile;
template <int R> __host__ __device__ constexpr int tile_size() { return tile_bytes<R, D>(); }
const int STAGE_BYTES = 0;

// load_rows fills a tile with the rows of a matrix whose places Map gives, or
// with zeros where it gives a negative one.
template <int R, class Map> __device__ __forceinline__ void load_rows(Tile tile, const bf16 *from, int stride, const Map &place) {
  for (int at = threadIdx.x; at < R * (D / 8); at += BLOCK) {
    const int row = at / (D / 8), c = at % (D / 8);
    const int n = place(row);
    copy16(tile + piece_offset<R>(row, c), from + (n >= 0 ? (long long)n * stride + c * 8 : 0), n >= 0);
  }
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

template <int R, class Map> __device__ __forceinline__ void load_rows(Tile tile, const float *from, int stride, const Map &place) {
  for (int at = threadIdx.x; at < R * (D / 4); at += BLOCK) {
    const int row = at / (D / 4), c = at % (D / 4);
    const int n = place(row);
    copy16(shared_address(tile + row * LINE + c * 4), from + (n >= 0 ? (long long)n * stride + c * 4 : 0), n >= 0);
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

// load_tile fills a tile with rows that follow each other, zeros from limit on.
template <int R> __device__ __forceinline__ void load_tile(Tile tile, const element *from, int stride, int first, int limit) {
  load_rows<R>(tile, from, stride, [=](int row) { return first + row < limit ? first + row : -1; });
}

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

// A Softmax is the attention of a warp's 16 queries to the keys so far: sums of
// values weighted by powers relative to the greatest score, for each of a
// thread's two rows.
struct Softmax {
  float o[D / 2], top[2], sum[2];
  __device__ __forceinline__ Softmax() : top{-INFINITE, -INFINITE}, sum{0, 0} {
#pragma unroll
    for (int j = 0; j < D / 2; j++) o[j] = 0;
  }
  // add takes a tile of keys with their scores s, the first of which stands at
  // place first of the sequence, the thread's first query at row.
  __device__ __forceinline__ void add(float (&s)[OTHERS / 2], int first, int row, float c, Tile v_tile, char *stage, int lane) {
#pragma unroll
    for (int j = 0; j < OTHERS / 2; j++)
      if (first + j / 4 * 8 + (lane & 3) * 2 + (j & 1) > row + (j & 2) * 4) s[j] = -INFINITE;
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
  // total adds the sums of the four threads that share a row up.
  __device__ __forceinline__ void total() {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
    }
  }
};
