// CPU twin: internal/op/linear.go.
//
// Matrix products of few rows, which are a stream over the weights. In float32,
// decode_product adds in an order that depends on nothing but the number of
// columns, so that a row gets the same bits beside any others. In bf16 the products
// of a whole layer take up to 16 rows, with what stands around them: norms before,
// bias, rotary, cache, GELU and residual after.
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

#else

// Few is a product of up to 8 rows, or with WIDE 16, whose columns a block of
// WARPS warps takes in tiles of 8 * TILES; the warps share the inner dimension in
// steps of 32. A lane (r, c) loads 16 bytes of weight row r at a time and of
// activation rows r and r + 8: what mma.m16n8k16 needs if the inner dimension is
// counted in that order.
template <int WARPS, int TILES, int BATCH, bool WIDE> struct Few {
  static const int COLUMNS = 8 * TILES;
  static const int PAIRS = COLUMNS / 2;
  typedef float Parts[2][WARPS][16][COLUMNS];

  const bf16 *weight;
  const float *bias;  // may be null
  int n, k, warp, lane;
  uint4 w[BATCH][TILES];
  float2 shift;  // bias of the two columns that this thread stores
  float sum[TILES][4];

  __device__ __forceinline__ Few(const bf16 *weight, const float *bias, int n, int k) : weight(weight), bias(bias), n(n), k(k), warp(threadIdx.x / 32), lane(threadIdx.x % 32) {}

  // stride is the distance of rows of activations in shared memory, such that eight
  // lanes reading 16 bytes each meet no bank twice.
  static __device__ __forceinline__ int stride(int k) { return k + 8 * ((12 - k / 8 % 8) % 8); }

  __device__ __forceinline__ void load(int tile, int first) {
    if (first == 0) shift = bias ? *(const float2 *)(bias + min(tile * COLUMNS + 2 * ((int)threadIdx.x % PAIRS), n - 2)) : make_float2(0, 0);
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
      const int at = (first + b * WARPS + warp) * 32 + lane % 4 * 8;
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        const long long row = min(tile * COLUMNS + 8 * t + lane / 4, n - 1);
        w[b][t] = at < k ? stream_load(weight + row * k + at) : make_uint4(0, 0, 0, 0);
      }
    }
  }

  __device__ __forceinline__ void add(const bf16 *x, int rows, int first) {
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
      const int at = (first + b * WARPS + warp) * 32 + lane % 4 * 8;
      if ((first + b * WARPS + warp) * 32 >= k) break;
      const int inside = min(at, k - 8), pitch = stride(k);
      const uint4 v = *(const uint4 *)(x + min(lane / 4, rows - 1) * pitch + inside);
      uint4 u = make_uint4(0, 0, 0, 0);
      if (WIDE) u = *(const uint4 *)(x + min(lane / 4 + 8, rows - 1) * pitch + inside);
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        multiply_tile<false>(sum[t], {v.x, u.x, v.y, u.y}, w[b][t].x, w[b][t].y);
        multiply_tile<false>(sum[t], {v.z, u.z, v.w, u.w}, w[b][t].z, w[b][t].w);
      }
    }
  }

  // run makes the tiles of this block. What is read of the first is in w and shift
  // already. store gets a row, a column that is even, and the results there and beside
  // it; a thread has at most one pair of a tile.
  template <class Store> __device__ __forceinline__ void run(const bf16 *x, int rows, Parts &parts, Store store) {
    const int tiles = div_up(n, COLUMNS), row = threadIdx.x / PAIRS, pair = threadIdx.x % PAIRS;
    int turn = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, turn ^= 1) {
      float2 s = shift;
#pragma unroll
      for (int t = 0; t < TILES; t++) sum[t][0] = sum[t][1] = sum[t][2] = sum[t][3] = 0;
      for (int first = 0; first * 32 < k; first += WARPS * BATCH) {
        if (first > 0) load(tile, first);
        add(x, rows, first);
      }
      if (tile + gridDim.x < tiles) load(tile + gridDim.x, 0);
#pragma unroll
      for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int half = 0; half < (WIDE ? 2 : 1); half++)
          *(float2 *)&parts[turn][warp][lane / 4 + 8 * half][8 * t + lane % 4 * 2] = make_float2(sum[t][2 * half], sum[t][2 * half + 1]);
      __syncthreads();
      const int column = tile * COLUMNS + 2 * pair;
      if (row < rows && column < n) {
#pragma unroll
        for (int g = 0; g < WARPS; g++) {
          const float2 p = *(const float2 *)&parts[turn][g][row][2 * pair];
          s.x += p.x, s.y += p.y;
        }
        store(row, column, s);
      }
    }
  }
};

// decode_few_split is decode_norm, the fused projection of a layer and decode_split:
// x [rows, hidden] in float32; weight [n, hidden], n = keys | values | queries |
// mlp; y gets queries and mlp. Grid: any number of blocks of 256; dynamic shared
// memory: rows rows of activations, and of pairs angles of 8 bytes.
template <bool WIDE>
__device__ __forceinline__ void few_split(const float *x, const bf16 *weight, const float *bias, bf16 *y, int stride, int rows, int hidden, float eps, int kv_columns,
                                          int query_columns, int mlp_columns, int head_size, const float2 *table, int pairs, const int *positions, bf16 *keys, bf16 *values,
                                          int capacity, int unrotated) {
  extern __shared__ __align__(16) char shared[];
  typedef Few<8, 2, 3, WIDE> Product;
  __shared__ typename Product::Parts parts;
  const int keep_columns = 2 * kv_columns, heads_columns = keep_columns + query_columns, kv_heads = kv_columns / head_size;
  Product product(weight, bias, heads_columns + mlp_columns, hidden);
  product.load(blockIdx.x, 0);
  begin_early();
  wait_for_previous();
  bf16 *in = (bf16 *)shared;
  const int pitch = Product::stride(hidden);
  // The angles of the rows, by the last threads, while the first normalise.
  float2 *angles = (float2 *)(in + rows * pitch);
  for (int i = 255 - threadIdx.x; i < rows * pairs; i += 256) angles[i] = table[(long long)positions[i / pairs] * pairs + i % pairs];
  for (int row = threadIdx.x / 32; row < rows; row += 8) norm_row(x + (long long)row * hidden, 0, 0, in + row * pitch, hidden, eps);
  __syncthreads();
  product.run(in, rows, parts, [&](int row, int c, float2 v) {
    if (c >= heads_columns) {
      *(uint32 *)(y + (long long)row * stride + c) = pack_bf16(gelu(v.x), gelu(v.y));
      return;
    }
    const bool key = c < kv_columns, value = !key && c < keep_columns;
    const int at = key ? c : value ? c - kv_columns : c - keep_columns, head = at / head_size, within = at - head * head_size;
    if (within / 2 < pairs && !value && !(key && unrotated)) {
      const float2 w = angles[row * pairs + within / 2];
      v = make_float2(v.x * w.x - v.y * w.y, v.y * w.x + v.x * w.y);
    }
    bf16 *to = y + (long long)row * stride + c;
    if (c < keep_columns) to = (key ? keys : values) + (((long long)row * kv_heads + head) * capacity + positions[row]) * head_size + within;
    *(uint32 *)to = pack_bf16(v.x, v.y);
  });
}

// decode_few_add: x [rows, n] in float32 += in [rows, k] weight [n, k]' + bias. Grid:
// n / 8 blocks of 512; dynamic shared memory: rows rows of activations.
template <bool WIDE> __device__ __forceinline__ void few_add(const bf16 *in, int in_stride, const bf16 *weight, const float *bias, float *x, int rows, int n, int k) {
  extern __shared__ __align__(16) char shared[];
  typedef Few<16, 1, 8, WIDE> Product;
  __shared__ typename Product::Parts parts;
  Product product(weight, bias, n, k);
  product.load(blockIdx.x, 0);
  begin_early();
  wait_for_previous();
  bf16 *held = (bf16 *)shared;
  const int pitch = Product::stride(k);
  float2 old = make_float2(0, 0);
  if (threadIdx.x < rows * 4) old = *(const float2 *)(x + (long long)(threadIdx.x / 4) * n + blockIdx.x * 8 + threadIdx.x % 4 * 2);
  for (int i = threadIdx.x * 8; i < rows * k; i += 512 * 8) *(uint4 *)(held + i / k * pitch + i % k) = *(const uint4 *)(in + (long long)(i / k) * in_stride + i % k);
  __syncthreads();
  product.run(held, rows, parts, [&](int row, int c, float2 v) {
    *(float2 *)(x + (long long)row * n + c) = make_float2(old.x + v.x, old.y + v.y);
  });
}

// decode_few_logits is decode_norm and the projection onto the vocabulary: logits
// [rows, n] in float32. Grid: any number of blocks of 256; dynamic shared memory:
// rows rows of activations.
template <bool WIDE>
__device__ __forceinline__ void few_logits(const float *x, const float *gain, const float *shift, const bf16 *weight, float *logits, int rows, int n, int hidden, float eps) {
  extern __shared__ __align__(16) char shared[];
  typedef Few<8, 2, 3, WIDE> Product;
  __shared__ typename Product::Parts parts;
  Product product(weight, 0, n, hidden);
  product.load(blockIdx.x, 0);
  begin_early();
  wait_for_previous();
  bf16 *in = (bf16 *)shared;
  const int pitch = Product::stride(hidden);
  for (int row = threadIdx.x / 32; row < rows; row += 8) norm_row(x + (long long)row * hidden, gain, shift, in + row * pitch, hidden, eps);
  __syncthreads();
  product.run(in, rows, parts, [&](int row, int c, float2 v) { *(float2 *)(logits + (long long)row * n + c) = v; });
}

#define DECODE_FEW(SUFFIX, WIDE)                                                                                                                                         \
  extern "C" __global__ void __launch_bounds__(256, 3)                                                                                                                   \
      decode_few_split##SUFFIX(const float *x, const bf16 *weight, const float *bias, bf16 *y, int stride, int rows, int hidden, float eps, int kv_columns,              \
                               int query_columns, int mlp_columns, int head_size, const float2 *table, int pairs, const int *positions, bf16 *keys, bf16 *values,        \
                               int capacity, int unrotated) {                                                                                                            \
    few_split<WIDE>(x, weight, bias, y, stride, rows, hidden, eps, kv_columns, query_columns, mlp_columns, head_size, table, pairs, positions, keys, values, capacity,   \
                    unrotated);                                                                                                                                          \
  }                                                                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(512)                                                                                                                      \
      decode_few_add##SUFFIX(const bf16 *in, int in_stride, const bf16 *weight, const float *bias, float *x, int rows, int n, int k) {                                   \
    few_add<WIDE>(in, in_stride, weight, bias, x, rows, n, k);                                                                                                           \
  }                                                                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(256)                                                                                                                      \
      decode_few_logits##SUFFIX(const float *x, const float *gain, const float *shift, const bf16 *weight, float *logits, int rows, int n, int hidden, float eps) {      \
    few_logits<WIDE>(x, gain, shift, weight, logits, rows, n, hidden, eps);                                                                                              \
  }
DECODE_FEW(, false)
DECODE_FEW(_wide, true)

#endif
