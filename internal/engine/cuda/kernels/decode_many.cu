// CPU twin: internal/op/linear.go.
//
// Products of many rows in a decoding step by Hopper's tensor cores, with what
// follows them before anything goes to memory: bias, rotary, cache and GELU, or the
// choice of the most likely token; and the product to the residual, whose inner
// dimension blocks share, with the norm that adds up their parts.
#include "decode.cuh"

#if STORAGE == 16 && defined(__CUDA_ARCH_FEAT_SM90_ALL)
#include "hopper.cuh"

// A TensorMap tells the copy engine of a matrix of bf16 that is copied in boxes of
// 64 columns (gpu.TensorMap).
struct alignas(64) TensorMap {
  uint64 words[16];
};

// copy_box starts the copy of a box from a column of a row on, with zeros where the
// matrix ends.
__device__ __forceinline__ void copy_box(uint32 to, const TensorMap &map, int column, int row, Barrier *b) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to), "l"(&map), "r"(column), "r"(row),
               "r"(shared_address(b))
               : "memory");
}
// barrier_expect arrives, and makes the phase wait for bytes that are copied.
__device__ __forceinline__ void barrier_expect(Barrier *b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}

const int GROUPS = 2;                     // warpgroups that multiply
const int THREADS = 128 * GROUPS + 128;   // and one that copies
const int STEP = 64;                      // columns of a stage

// Many multiplies in[rows, k] by weight[n, k]' in tiles of ROWS x COLUMNS: each
// warpgroup has TILES times 64 rows.
template <int TILES, int COLUMNS, int STAGES> struct Many {
  static const int ROWS = 64 * GROUPS * TILES, WIDTH = COLUMNS;
  static const int IN_BYTES = ROWS * STEP * 2, WEIGHT_BYTES = COLUMNS * STEP * 2, STAGE_BYTES = IN_BYTES + WEIGHT_BYTES;
  static const int SHARED = 1024 + STAGES * STAGE_BYTES;

  // A Tile is the result's rows and columns that a block computes at a time, over the
  // columns of in of the steps from begin to end.
  struct Tile {
    int row, column, part, begin, end;
    // The tiles of all rows follow each other, so that these share the weight.
    __device__ __forceinline__ Tile(int i, int high, int wide, int steps, int parts) {
      row = i % high * ROWS, column = i / high % wide * COLUMNS, part = i / high / wide;
      begin = steps * part / parts, end = steps * (part + 1) / parts;
    }
  };

  // run calls finish(sums, row, column, part) for every tile of this block, by the
  // warpgroups that multiply: sums[t] of the 64 rows from row + 64 t on, over one of
  // the parts of k.
  template <class Finish>
  static __device__ __forceinline__ void run(const TensorMap &in, const TensorMap &weight, int rows, int n, int k, int parts, const Finish &finish) {
    extern __shared__ __align__(16) char shared[];
    __shared__ Barrier full[STAGES], empty[STAGES];
    const uint32 stages = (shared_address(shared) + 1023) & ~1023;
    const int high = div_up(rows, ROWS), wide = div_up(n, COLUMNS), tiles = high * wide * parts, steps = div_up(k, STEP);
    if (threadIdx.x == 0) {
      for (int i = 0; i < STAGES; i++) barrier_init(full + i, 1), barrier_init(empty + i, GROUPS * 4 * WARP_ARRIVALS);
      barrier_init_done();
    }
    __syncthreads();
    Ring<STAGES> r;
    if (threadIdx.x >= 128 * GROUPS) {
      fewer_registers<24>();
      if (threadIdx.x == 128 * GROUPS) {
        bool first = true;
        for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
          const Tile tile(i, high, wide, steps, parts);
          int at = tile.begin;
          // The first stages' weights need not wait for the kernel ahead.
          if (first) {
            const int some = min(tile.end, at + STAGES);
            for (int j = at; j < some; j++) {
              barrier_expect(full + j - at, STAGE_BYTES);
              copy_box(stages + (j - at) * STAGE_BYTES + IN_BYTES, weight, j * STEP, tile.column, full + j - at);
            }
            wait_for_previous();
            for (; at < some; at++, r.next()) copy_box(stages + r.stage * STAGE_BYTES, in, at * STEP, tile.row, full + r.stage);
            first = false;
          }
          for (; at < tile.end; at++, r.next()) {
            barrier_wait(empty + r.stage, r.parity ^ 1);
            barrier_expect(full + r.stage, STAGE_BYTES);
            copy_box(stages + r.stage * STAGE_BYTES, in, at * STEP, tile.row, full + r.stage);
            copy_box(stages + r.stage * STAGE_BYTES + IN_BYTES, weight, at * STEP, tile.column, full + r.stage);
          }
        }
      }
    } else {
      more_registers<240>();
      wait_for_previous();
      begin_early();
      const int group = threadIdx.x / 128, lane = threadIdx.x % 32;
      for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        const Tile tile(i, high, wide, steps, parts);
        float sums[TILES][COLUMNS / 2];
        int last = 0;
        for (int at = tile.begin; at < tile.end; at++) {
          barrier_wait(full + r.stage, r.parity);
          const uint32 a = stages + r.stage * STAGE_BYTES, b = a + IN_BYTES;
          wgmma_begin();
#pragma unroll
          for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int s = 0; s < STEP / 16; s++)
              wgmma_ss<0>(sums[t], k_major<ROWS>(a + (group * TILES + t) * 64 * 128, s), k_major<COLUMNS>(b, s), at - tile.begin + s);
          wgmma_commit();
          if (at > tile.begin) {
            wgmma_wait<1>();
            barrier_arrive_warp(empty + last, lane);
          }
          last = r.stage;
          r.next();
        }
        wgmma_wait<0>();
#pragma unroll
        for (int t = 0; t < TILES; t++) hold(sums[t]);
        barrier_arrive_warp(empty + last, lane);
        finish(sums, tile.row + group * TILES * 64, tile.column, tile.part);
      }
    }
  }
};

// A thread has of 64 rows two, in_tile and 8 more, and of every eight columns the two
// from 2 (lane % 4) on.
__device__ __forceinline__ int in_tile() { return threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4; }

// hold_sums puts the sums of a block's tile into shared memory, in rows of
// COLUMNS + 8, so that lanes that write at once meet no bank twice.
template <int TILES, int N> __device__ __forceinline__ void hold_sums(float *held, const float (&sums)[TILES][N]) {
  named_barrier(1, 128 * GROUPS);  // every product has read its operands
#pragma unroll
  for (int t = 0; t < TILES; t++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float *line = held + (64 * (threadIdx.x / 128 * TILES + t) + in_tile() + 8 * half) * (2 * N + 8) + threadIdx.x % 4 * 2;
#pragma unroll
      for (int b = 0; b < N / 4; b++) *(float2 *)(line + 8 * b) = make_float2(sums[t][4 * b + 2 * half], sums[t][4 * b + 2 * half + 1]);
    }
}

// Split is what decode_split does to the projection of a layer's input, keys | values
// | queries | mlp.
struct Split {
  const float *bias;
  bf16 *y;
  int stride, rows, kv_columns, query_columns, mlp_columns, head_size;
  const float2 *table;
  int pairs;
  const int *positions;
  cached *keys, *values;
  int capacity, unrotated;

  // put finishes eight columns of a row.
  __device__ __forceinline__ void put(float (&v)[8], int row, int column) const {
    const int keep_columns = 2 * kv_columns;
    bf16 *to = y + (long long)row * stride + column;
    // Bytes need the greatest of a head: decode_split makes them.
    if (CACHE != 8 || column >= keep_columns) {
      float b[8];
      load8(bias + column, b);
#pragma unroll
      for (int j = 0; j < 8; j++) v[j] += b[j];
      if (column >= keep_columns + query_columns) {
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = gelu(v[j]);
      } else {
        const bool key = column < kv_columns, value = !key && column < keep_columns;
        const int at = key ? column : value ? column - kv_columns : column - keep_columns, head = at / head_size, within = at - head * head_size;
        const int position = positions[row];
        if (!value && !(key && unrotated)) turn_pairs(v, table, position, within / 2, pairs);
#if CACHE != 8
        if (column < keep_columns) to = (key ? keys : values) + (((long long)row * (kv_columns / head_size) + head) * capacity + position) * head_size + within;
#endif
      }
    }
    store8(to, v);
  }

  template <int TILES, int N> __device__ __forceinline__ void operator()(const float (&sums)[TILES][N], int first, int column, int) const {
    extern __shared__ __align__(16) char shared[];
    const int PIECES = N / 4, group = threadIdx.x / 128, n = 2 * kv_columns + query_columns + mlp_columns;
    hold_sums((float *)shared, sums);
    named_barrier(2 + group, 128);
    for (int i = threadIdx.x % 128; i < 64 * TILES * PIECES; i += 128) {
      const int row = i / PIECES, at = i % PIECES * 8;
      if (first + row >= rows || column + at >= n) continue;
      float v[8];
      load8((const float *)shared + (64 * TILES * group + row) * (2 * N + 8) + at, v);
      put(v, first + row, column + at);
    }
  }
};

// decode_many_split is the fused projection of a layer and decode_split: in [rows,
// hidden], weight [n, hidden], n = keys | values | queries | mlp. With CACHE 8 keys
// and values are left to decode_split. A block of THREADS for each tile, whose sums
// take the place of its operands.
typedef Many<1, 72, 6> SplitProduct;
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    decode_many_split(const __grid_constant__ TensorMap in, const __grid_constant__ TensorMap weight, const float *bias, bf16 *y, int stride, int rows, int hidden,
                      int kv_columns, int query_columns, int mlp_columns, int head_size, const float2 *table, int pairs, const int *positions, cached *keys,
                      cached *values, int capacity, int unrotated) {
  const Split split = {bias, y, stride, rows, kv_columns, query_columns, mlp_columns, head_size, table, pairs, positions, keys, values, capacity, unrotated};
  SplitProduct::run(in, weight, rows, 2 * kv_columns + query_columns + mlp_columns, hidden, 1, split);
}

// Sums keeps a part's sums of a product.
struct Sums {
  float *to;  // [parts, rows, n]
  int rows, n;

  template <int TILES, int N> __device__ __forceinline__ void operator()(const float (&sums)[TILES][N], int first, int column, int part) const {
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = first + 64 * t + in_tile() + 8 * half;
        if (row >= rows) continue;
        float *line = to + ((long long)part * rows + row) * n;
#pragma unroll
        for (int b = 0; b < N / 4; b++) {
          const int at = column + 8 * b + threadIdx.x % 4 * 2;
          if (column + 8 * b < n) *(float2 *)(line + at) = make_float2(sums[t][4 * b + 2 * half], sums[t][4 * b + 2 * half + 1]);
        }
      }
  }
};

// decode_many_out is the product to the residual, in [rows, k], weight [n, k], its
// inner dimension in parts: sums [parts, rows, n] for decode_add_norm. n is a multiple
// of 8. A block of THREADS for each tile of each part.
typedef Many<1, 64, 8> OutProduct;
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    decode_many_out(const __grid_constant__ TensorMap in, const __grid_constant__ TensorMap weight, float *sums, int rows, int n, int k, int parts) {
  const Sums keep = {sums, rows, n};
  OutProduct::run(in, weight, rows, n, k, parts, keep);
}

// block_sum adds the values of a block's threads, up to 32 warps; every thread has the
// result.
__device__ __forceinline__ float block_sum(float x, float *warps) {
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? warps[threadIdx.x % 32] : 0);
}

// decode_add_norm adds bias and a product's sums, [parts, rows, hidden], to the rows of x
// and normalises them as decode_norm does. hidden is at most 8192. Grid: a block a row,
// of a multiple of 32 threads, a quarter or more of hidden if that is 1024 at most.
extern "C" __global__ void __launch_bounds__(1024)
    decode_add_norm(float *x, const float *bias, const float *sums, int parts, const float *gain, const float *shift, bf16 *out, int hidden, float eps) {
  const int KEPT = 2;
  __shared__ float warps[2][32];
  begin_early();
  const int pieces = hidden / 4;
  const long long first = (long long)blockIdx.x * pieces;
  float4 kept[KEPT];
#pragma unroll
  for (int p = 0; p < KEPT; p++) {
    const int i = p * blockDim.x + threadIdx.x;
    kept[p] = i < pieces ? ((const float4 *)bias)[i] : make_float4(0, 0, 0, 0);
  }
  wait_for_previous();
  float mean = 0, var = 0;
#pragma unroll
  for (int p = 0; p < KEPT; p++) {
    const int i = p * blockDim.x + threadIdx.x;
    if (i >= pieces) break;
    float4 &v = kept[p];
    const float4 old = ((float4 *)x)[first + i];
    v.x += old.x, v.y += old.y, v.z += old.z, v.w += old.w;
#pragma unroll 4
    for (int j = 0; j < parts; j++) {
      const float4 s = ((const float4 *)sums)[(long long)j * gridDim.x * pieces + first + i];
      v.x += s.x, v.y += s.y, v.z += s.z, v.w += s.w;
    }
    ((float4 *)x)[first + i] = v;
    mean += v.x + v.y + v.z + v.w;
  }
  mean = block_sum(mean, warps[0]) / hidden;
#pragma unroll
  for (int p = 0; p < KEPT; p++) {
    if (p * blockDim.x + threadIdx.x >= pieces) break;
    float4 &v = kept[p];
    v.x -= mean, v.y -= mean, v.z -= mean, v.w -= mean;
    var += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  const float rstd = 1 / sqrtf(block_sum(var, warps[1]) / hidden + eps);
#pragma unroll
  for (int p = 0; p < KEPT; p++) {
    const int i = p * blockDim.x + threadIdx.x;
    if (i >= pieces) break;
    float4 v = kept[p];
    v.x *= rstd, v.y *= rstd, v.z *= rstd, v.w *= rstd;
    if (gain) {
      const float4 g = ((const float4 *)gain)[i], b = ((const float4 *)shift)[i];
      v.x = v.x * g.x + b.x, v.y = v.y * g.y + b.y, v.z = v.z * g.z + b.z, v.w = v.w * g.w + b.w;
    }
    ((uint2 *)out)[first + i] = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
  }
}

struct Best {
  Choice *choices;  // [rows, parts]
  int parts, rows, vocab;

  template <int TILES, int N> __device__ __forceinline__ void operator()(const float (&sums)[TILES][N], int first, int column, int) const {
    const int c = threadIdx.x % 4;
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        Choice best = {-INFINITE, vocab};
        bool bad = false;
#pragma unroll
        for (int b = 0; b < N / 4; b++) {
          const int at = column + 8 * b + 2 * c;
          if (column + 8 * b >= vocab) break;
#pragma unroll
          for (int i = 0; i < 2; i++) {
            const float x = sums[t][4 * b + 2 * half + i];
            bad |= x != x;
            if (x > best.logit || best.token == vocab) best.logit = x, best.token = at + i;
          }
        }
        if (bad) best = {INFINITE, -1};
        best.take_lane(1), best.take_lane(2);
        const int row = first + 64 * t + in_tile() + 8 * half;
        if (c == 0 && row < rows) choices[(long long)row * parts + column / (2 * N)] = best;
      }
  }
};

// decode_many_best finds the most likely token of every row in each tile of columns
// of the vocabulary, whose size is a multiple of 8: in [rows, hidden] is normalised,
// choices [rows, tiles]. Any number of blocks of THREADS.
typedef Many<2, 192, 4> HeadProduct;
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    decode_many_best(const __grid_constant__ TensorMap in, const __grid_constant__ TensorMap weight, Choice *choices, int rows, int vocab, int hidden) {
  const Best best = {choices, div_up(vocab, HeadProduct::WIDTH), rows, vocab};
  HeadProduct::run(in, weight, rows, vocab, hidden, 1, best);
}

// decode_choose chooses the most likely token of each of the rows from first on among
// the parts'; see decode_sample. A warp takes a row. Grid: ceil(rows / 4) blocks of
// 128.
extern "C" __global__ void __launch_bounds__(128) decode_choose(const Choice *choices, int parts, const int *step, int first, int rows, int all, int *tokens, int *ring, int slots) {
  begin_early();
  wait_for_previous();
  const int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  Choice best = {-INFINITE, 0x7fffffff};
  for (int i = lane; i < parts; i += 32) best.take(choices[(long long)row * parts + i]);
#pragma unroll
  for (int d = 16; d > 0; d /= 2) best.take_lane(d);
  if (lane == 0) {
    tokens[first + row] = max(best.token, 0);
    ring[(long long)(*step % slots) * all + first + row] = best.token;
  }
}

// Rows and columns of a tile and shared memory of a block, of the three products, and
// threads of a block.
extern "C" __device__ const int decode_many_launch[10] = {SplitProduct::ROWS, SplitProduct::WIDTH, SplitProduct::SHARED, OutProduct::ROWS,   OutProduct::WIDTH,
                                                          OutProduct::SHARED, HeadProduct::ROWS,   HeadProduct::WIDTH,  HeadProduct::SHARED, THREADS};

#endif
