// Causal flash attention on Hopper: a producer warpgroup copies tiles into
// shared memory while consumer warpgroups of 64 rows each multiply (wgmma) and
// take the softmax in registers. Blocks are persistent and walk a fixed list of
// tiles, so results do not depend on scheduling. Sizes of tiles and what forward
// and backward pass share stand here.
#pragma once
#include "attention_shared.cuh"
#include "hopper.cuh"

const int PRODUCERS = 128;

// Forward: query rows = 64 * warpgroups.
#ifndef FORWARD_WARPGROUPS
#define FORWARD_WARPGROUPS (HEAD_SIZE <= 64 ? 3 : 2)
#endif
#ifndef FORWARD_KEYS
#define FORWARD_KEYS (HEAD_SIZE <= 128 ? 128 : 64)
#endif
#ifndef FORWARD_STAGES
#define FORWARD_STAGES (HEAD_SIZE <= 64 ? 3 : 2)
#endif
#ifndef FORWARD_TURNS
#define FORWARD_TURNS 1
#endif
// dq: query rows = 64 * warpgroups.
#ifndef QUERY_WARPGROUPS
#define QUERY_WARPGROUPS (HEAD_SIZE <= 64 ? 3 : 2)
#endif
#ifndef QUERY_KEYS
#define QUERY_KEYS (HEAD_SIZE <= 128 ? 64 : 32)
#endif
#ifndef QUERY_STAGES
#define QUERY_STAGES (HEAD_SIZE <= 64 ? 3 : 2)
#endif
#ifndef QUERY_TURNS
#define QUERY_TURNS (HEAD_SIZE <= 64)
#endif
// dk and dv: key rows = 64 * warpgroups. KEY_WAIT ends a tile's products before the
// next tile's start, where registers do not suffice for both.
#ifndef KEY_TURNS
#define KEY_TURNS 0
#endif
#ifndef KEY_WARPGROUPS
#define KEY_WARPGROUPS 2
#endif
#ifndef KEY_QUERIES
#define KEY_QUERIES (HEAD_SIZE <= 64 ? 128 : HEAD_SIZE <= 128 ? 64 : 32)
#endif
#ifndef KEY_STAGES
#define KEY_STAGES (HEAD_SIZE <= 64 ? 3 : 2)
#endif

#ifndef KEY_WAIT
#define KEY_WAIT (HEAD_SIZE != 80)
#endif

template <int WARPGROUPS> struct Registers;
template <> struct Registers<1> { static const int producer = 56, consumer = 256 - 16; };
template <> struct Registers<2> { static const int producer = 24, consumer = 240; };
template <> struct Registers<3> { static const int producer = 32, consumer = 160; };

// pack_operand rounds a 64 x N accumulator to the A operand of the next product.
template <int N> __device__ __forceinline__ void pack_operand(uint32 (&a)[N / 2], const float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N / 2; i++) a[i] = pack_bf16(d[2 * i], d[2 * i + 1]);
}

// product_ss: d (64 x N) = A rows [row0, row0+64) of tile a times B^T, both D wide.
template <int A_ROWS, int B_ROWS, int R> __device__ __forceinline__ void product_ss(float (&d)[R], uint32 a, uint32 b) {
#pragma unroll
  for (int k = 0; k < D / 16; k++) wgmma_ss<0>(d, k_major<A_ROWS>(a, k), k_major<B_ROWS>(b, k), k > 0);
}
// accumulate: d (64 x D) += A (64 x K, registers) times rows of tile b.
template <int K, int R> __device__ __forceinline__ void accumulate(float (&d)[R], const uint32 (&a)[K / 4], uint32 b) {
#pragma unroll
  for (int k = 0; k < K / 16; k++) wgmma_rs<1>(d, a + 4 * k, n_major<K>(b, k), 1);
}

// store_rows writes a warp's 16 rows x D of an accumulator, times a factor for
// each of the thread's two rows, through its own rows of a shared tile.
template <int ROWS> __device__ __forceinline__ void store_rows(bf16 *to, int stride, int first, int limit, const float (&d)[D / 2], float f0, float f1, char *tile, int row, int lane) {
#pragma unroll
  for (int j = 0; j < D / 8; j++) {
    *(uint32 *)(tile + piece_offset<ROWS>(row + lane / 4, j) + (lane & 3) * 4) = pack_bf16(d[4 * j] * f0, d[4 * j + 1] * f0);
    *(uint32 *)(tile + piece_offset<ROWS>(row + lane / 4 + 8, j) + (lane & 3) * 4) = pack_bf16(d[4 * j + 2] * f1, d[4 * j + 3] * f1);
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < div_up(16 * (D / 8), 32); i++) {
    int at = i * 32 + lane, r = at / (D / 8), c = at % (D / 8);
    if (first + r < limit) *(uint4 *)(to + (long long)(first + r) * stride + c * 8) = *(uint4 *)(tile + piece_offset<ROWS>(row + r, c));
  }
  __syncwarp();
}

// Turns order the warpgroups' products, so that one multiplies while the others
// work on their elements.
template <int WARPGROUPS, bool ON> struct Turns {
  static __device__ __forceinline__ void take(int w) {
    if (ON) asm volatile("bar.sync %0, 256;" ::"r"(4 + w) : "memory");
  }
  static __device__ __forceinline__ void pass(int w) {
    if (ON) asm volatile("bar.arrive %0, 256;" ::"r"(4 + (w + 1 == WARPGROUPS ? 0 : w + 1)) : "memory");
  }
  static __device__ __forceinline__ void start(int w) {
    if (w == WARPGROUPS - 1) pass(w);
  }
};

// Columns sums a part of the rows of a gradient at a time, PART_ROWS: those of a
// warpgroup, whose warps meet at a barrier between add and write. Two areas of
// shared memory take turns, so that a tile's sums are read before the tile after the
// next one's are written.
const int PART_ROWS = 64;

template <int MATRICES> struct Columns {
  static const int AREA = 4 * D;  // floats of a warpgroup's matrix
  static const int BYTES = TURNED ? 2 * MATRICES * AREA * 4 : 0;  // of a warpgroup
  float *shared;
  int step;  // to the other area
  __device__ __forceinline__ Columns(char *all, int warpgroup) : shared((float *)(all + warpgroup * BYTES)), step(MATRICES * AREA) {}
  __device__ __forceinline__ void add(int matrix, const float (&d)[D / 2], float f, int first, int limit, int warp, int lane) {
    sum_columns(shared + matrix * AREA + warp * D, d, f, first, limit, lane);
  }
  __device__ __forceinline__ void write(int matrix, float *to, int thread) {
    const float *s = shared + matrix * AREA;
    for (int c = thread; c < D; c += 128) to[c] = (s[c] + s[D + c]) + (s[2 * D + c] + s[3 * D + c]);
  }
  __device__ __forceinline__ void next() { shared += step, step = -step; }
};

// write_key_value writes dk and dv of a warpgroup's 64 keys from c0 on, or adds them
// to their sums: turned back, with the sums of the rows for the biases, and through
// its rows of tiles that none of its warps' products reads after the barrier here.
template <bool WANT_K, bool WANT_V, int ROWS, int K, int V>
__device__ __forceinline__ void write_key_value(const KeyArguments &a, Columns<2> &columns, float (&dk)[K], float (&dv)[V], int b, int g, int c0, char *k_tile, char *v_tile,
                                                int w, int warp, int lane) {
  const int length = a.length, head = g * D, tile_row = 64 * w + 16 * warp, at = c0 + 16 * warp;
  const long long row = (long long)b * length;
  const float f = a.mode == GRADIENT_FINISH ? 1 : a.scale;  // of dk
  bool write = false;
  if constexpr (WANT_V) {
    write = add_to_sum(a.mode, a.dv_sum + row * a.sum_stride + head, a.sum_stride, at, length, dv, 1, lane);
    if (write && a.dv_parts) columns.add(0, dv, 1, at, length, warp, lane);
  }
  if constexpr (WANT_K) {
    write = add_to_sum(a.mode, a.dk_sum + row * a.sum_stride + head, a.sum_stride, at, length, dk, a.scale, lane);
    if (write) turn_back(dk, a.table, at, length, lane);
    if (write && a.dk_parts) columns.add(1, dk, f, at, length, warp, lane);
  }
  named_barrier(1 + w, 128);
  const long long part = (long long)(b * div_up(length, PART_ROWS) + c0 / PART_ROWS) * a.parts_stride + head;
  if constexpr (WANT_V)
    if (write) {
      if (a.dv_parts) columns.write(0, a.dv_parts + part, threadIdx.x % 128);
      store_rows<ROWS>(a.dv + row * a.dv_stride + head, a.dv_stride, at, length, dv, 1, 1, v_tile, tile_row, lane);
    }
  if constexpr (WANT_K)
    if (write) {
      if (a.dk_parts) columns.write(1, a.dk_parts + part, threadIdx.x % 128);
      store_rows<ROWS>(a.dk + row * a.dk_stride + head, a.dk_stride, at, length, dk, f, f, k_tile, tile_row, lane);
    }
  columns.next();
}

// prepare_barriers makes the barriers of a block that keeps rows of queries and goes
// over keys and values, for all threads.
template <class F> __device__ __forceinline__ void prepare_barriers(Barrier *q_full, Barrier *q_empty, Barrier *k_full, Barrier *k_empty, Barrier *v_full, Barrier *v_empty) {
  if (threadIdx.x == 0) {
    for (int i = 0; i < F::Q_STAGES; i++) barrier_init(q_full + i, PRODUCERS), barrier_init(q_empty + i, WARP_ARRIVALS * 4 * F::WARPGROUPS);
    for (int i = 0; i < F::STAGES; i++) {
      barrier_init(k_full + i, PRODUCERS), barrier_init(k_empty + i, WARP_ARRIVALS * 4 * F::WARPGROUPS);
      barrier_init(v_full + i, PRODUCERS), barrier_init(v_empty + i, WARP_ARRIVALS * 4 * F::WARPGROUPS);
    }
    barrier_init_done();
  }
  __syncthreads();
}

// load_keys_values loads tiles of keys and values, the last one first.
template <class F> __device__ __forceinline__ void load_keys_values(Ring<F::STAGES> &r, int tiles, char *k_tiles, char *v_tiles, Barrier *k_full, Barrier *k_empty, Barrier *v_full,
                                                                   Barrier *v_empty, const bf16 *k, const bf16 *v, int k_stride, int v_stride, int length, int thread) {
  for (int n = tiles - 1; n >= 0; n--) {
    barrier_wait(k_empty + r.stage, r.parity ^ 1);
    load_tile<F::KEYS, D>(shared_address(k_tiles + r.stage * F::KV_BYTES), k, k_stride, n * F::KEYS, length, thread);
    barrier_arrive_copied(k_full + r.stage);
    barrier_wait(v_empty + r.stage, r.parity ^ 1);
    load_tile<F::KEYS, D>(shared_address(v_tiles + r.stage * F::KV_BYTES), v, v_stride, n * F::KEYS, length, thread);
    barrier_arrive_copied(v_full + r.stage);
    r.next();
  }
}

#include "attention_hopper_forward.cuh"
#if HEAD_SIZE == 64
#include "attention_hopper_ordered.cuh"
#else
#include "attention_hopper_backward.cuh"
#endif

// What a launcher needs: threads of a block, bytes of dynamic shared memory,
// rows of a tile and blocks in y, for forward, dq, dk and dv, all three; zeros
// where there is no such kernel.
extern "C" __constant__ const int attention_launch[4][4] = {
    {(Forward::WARPGROUPS + 1) * 128, Forward::SHARED, Forward::ROWS, 1},
#if HEAD_SIZE == 64
    {},
    {},
    {Ordered::THREADS, Ordered::SHARED, Ordered::ROWS, 1},
#else
    {(Query::WARPGROUPS + 1) * 128, Query::SHARED, Query::ROWS, 1},
    {(Key::WARPGROUPS + 1) * 128, Key::SHARED, Key::ROWS, Key::SPLIT ? 2 : 1},
#endif
};
// Rows that the backward kernels sum for a part of the gradient of the biases.
extern "C" __constant__ const int attention_part_rows[1] = {PART_ROWS};
