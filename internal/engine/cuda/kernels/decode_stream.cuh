// Products of few rows, which are a stream over the weights, within a kernel that
// stays on the device for a whole step: the copy engine brings the next weights to shared
// memory while others are multiplied, or while the block waits for the others.
#pragma once
#include "decode.cuh"
#include "hopper.cuh"

const int WARPS = 12;
const int THREADS = WARPS * 32;
const int PORTER = WARPS - 1;  // the warp that orders copies

// bulk_copy brings bytes, a multiple of 16, to shared memory and counts them at b.
__device__ __forceinline__ void bulk_copy(void *to, const void *from, int bytes, Barrier *b) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(b))
               : "memory");
}
// barrier_expect arrives, and lets the phase end when so many bytes have come.
__device__ __forceinline__ void barrier_expect(Barrier *b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}

// fresh_load16 reads 16 bytes that another block may have written.
__device__ __forceinline__ uint4 fresh_load16(const void *p) {
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
  return v;
}

__device__ __forceinline__ void release_add(uint32 *p, uint32 n) { asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(n) : "memory"); }
__device__ __forceinline__ uint32 ordered_add(int *p, int n) {
  uint32 old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(p), "r"(n) : "memory");
  return old;
}
__device__ __forceinline__ uint32 relaxed_load(const uint32 *p) {
  uint32 v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ uint32 acquire_load(const uint32 *p) {
  uint32 v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}

// Meeting is where all blocks of the grid, which are there at the same time, wait for
// one another. What a block wrote before arrive can be read by all after wait.
struct Meeting {
  uint32 *arrived;
  uint32 all;  // arrivals until now, of every block at every meeting
  __device__ __forceinline__ void arrive() {
    __syncthreads();
    if (threadIdx.x == 0) release_add(arrived, 1);
    all += gridDim.x;
  }
  __device__ __forceinline__ void wait() {
    if (threadIdx.x == 32) {
      while ((int)(relaxed_load(arrived) - all) < 0) {}
      acquire_load(arrived);
    }
    __syncthreads();
  }
};

// Share is a block's part of a matrix: tiles of 8 columns.
struct Share {
  const bf16 *weight;  // of its first column
  const float *bias;   // of all columns, or null
  int column, tiles;
};

// share_of is this block's share of a matrix [columns, k].
__device__ __forceinline__ Share share_of(const bf16 *weight, const float *bias, int columns, int k) {
  const int all = columns / 8, from = all * blockIdx.x / gridDim.x, to = all * (blockIdx.x + 1) / gridDim.x;
  return {weight + 8ll * from * k, bias, 8 * from, to - from};
}

// Stream multiplies up to 8 rows, or with WIDE 16, by a share of a matrix [columns, K].
// In a turn every warp takes STEPS steps of 64 of the inner dimension, which the warps
// deal, and TILES tiles. A lane (r, c) has two times 16 bytes of weight row r of each step,
// and as much of rows r and r + 8 that are multiplied: what mma.m16n8k16 needs if the inner
// dimension is counted in that order. The weights of two turns are on their way or there.
template <int K, int TILES, int STEPS, bool WIDE> struct Stream {
  static const int SPAN = 64 * WARPS * STEPS;                      // of the inner dimension in a turn
  static const int BATCHES = div_up(K, SPAN);                      // turns of a group of tiles
  static const int COLUMNS = 8 * TILES;                            // of a group
  static const bool WHOLE = BATCHES == 1 && K % 64 == 0;           // a turn's weights lie in one piece
  static const int PITCH = 2 * (WHOLE ? K : SPAN);                 // bytes from column to column in shared memory
  static const int PLACE = COLUMNS * PITCH;                        // bytes of a turn
  static const int BYTES = 2 * PLACE + 128 * div_up(COLUMNS, 16);  // of shared memory
  static const int CHAINS = TILES == 1 ? 4 : 1;                    // sums that are kept apart, so that none waits for the one before
  static_assert(4 * TILES * (WIDE ? 16 : 8) <= THREADS, "a thread stores one pair of columns");

  struct Rows {
    uint4 low[2], high[2];
  };
  struct Turn {
    int group, batch;  // of tiles, of steps
    __device__ __forceinline__ void advance() {
      if (++batch == BATCHES) batch = 0, group++;
    }
  };

  char *weights;   // of two turns
  float *bias;     // of the first two groups
  Barrier *there;  // of two turns
  int warp, lane, parity;

  __device__ __forceinline__ Stream(char *shared, Barrier *there)
      : weights(shared), bias((float *)(shared + 2 * PLACE)), there(there), warp(threadIdx.x / 32), lane(threadIdx.x % 32), parity(0) {}

  // A thread stores a pair of columns of a row.
  __device__ __forceinline__ int row() const { return threadIdx.x / (4 * TILES); }
  __device__ __forceinline__ int pair() const { return threadIdx.x % (4 * TILES); }
  __device__ __forceinline__ bool stores(const Share &s, int group, int rows) const { return row() < rows && group * TILES + pair() / 4 < s.tiles; }
  __device__ __forceinline__ int column(const Share &s, int group) const { return s.column + group * COLUMNS + 2 * pair(); }

  static __device__ __forceinline__ int turns(const Share &s) { return div_up(s.tiles, TILES) * BATCHES; }
  // inner is where a half of a step of this lane's warp begins.
  __device__ __forceinline__ int inner(Turn turn, int step, int half) const { return ((turn.batch * STEPS + step) * WARPS + warp) * 64 + half * 32; }

  // bring orders a turn's weights, and with the first the bias, to a place that every
  // warp has left.
  __device__ __forceinline__ void bring(const Share &s, Turn turn, int place) {
    if (warp != PORTER) return;
    const int first = turn.batch * SPAN, bytes = 2 * min(SPAN, K - first), columns = min(COLUMNS, 8 * s.tiles - turn.group * COLUMNS);
    const int biases = s.bias && turn.group == 0 && turn.batch == 0 ? 4 * min(2 * COLUMNS, 8 * s.tiles) : 0;
    const bf16 *from = s.weight + (long long)turn.group * COLUMNS * K + first;
    char *to = weights + place * PLACE;
    Barrier *b = there + place;
    fence_async_proxy();
    if (lane == 0) {
      barrier_expect(b, columns * bytes + biases);
      if (biases) bulk_copy(bias, s.bias + s.column, biases, b);
      if (WHOLE)
        bulk_copy(to, from, columns * bytes, b);
      else
        for (int c = 0; c < columns; c++) bulk_copy(to + c * PITCH, from + (long long)c * K, bytes, b);
    }
  }

  // begin brings the first two turns of a share.
  __device__ __forceinline__ void begin(const Share &s) {
    Turn turn = {0, 0};
    for (int place = 0; place < 2 && place < turns(s); place++) {
      bring(s, turn, place);
      turn.advance();
    }
  }

  // multiply takes a share that has begun. input gets a row and a place in it and gives
  // eight elements; output a row, a column that is even, and the results there and beside
  // it. start gives what is added to them besides the bias. parts holds 2 * WARPS * rows *
  // COLUMNS floats. order is called once, when the first rows have come: copies that it
  // orders stand in no load's way then.
  template <class Input, class Start, class Output, class Order>
  __device__ __forceinline__ void multiply(const Share &s, int rows, float *parts, Input input, Start start, Output output, Order order) {
    const int all = turns(s);
    auto begun = [&](int group) { return stores(s, group, rows) ? start(row(), column(s, group)) : make_float2(0, 0); };
    float2 shift = begun(0);
    float sum[CHAINS][TILES][4];
    Rows x[2][STEPS];
    Turn turn = {0, 0}, ahead = {0, 0};
    auto fetch = [&](Rows(&x)[STEPS], Turn turn) {
#pragma unroll
      for (int i = 0; i < STEPS; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          // Without a branch, so that all are on their way at once.
          const int at = min(inner(turn, i, half) + lane % 4 * 8, K - 8);
          x[i].low[half] = input(min(lane / 4, rows - 1), at);
          if (WIDE) x[i].high[half] = input(min(lane / 4 + 8, rows - 1), at);
        }
    };
#pragma unroll
    for (int place = 0; place < 2; place++) {
      fetch(x[place], ahead);
      ahead.advance();
    }
    for (int i = 0; i < all; i += 2) {
#pragma unroll
      for (int place = 0; place < 2; place++) {
        if (i + place >= all) break;
        const bool ends = turn.batch == BATCHES - 1, more = i + place + 2 < all;
        float *const mine = parts + turn.group % 2 * WARPS * rows * COLUMNS;  // the group before may still be read
        barrier_wait(there + place, parity >> place & 1);
        parity ^= 1 << place;
        if (turn.batch == 0) {
          clear(sum);
          if (s.bias && stores(s, turn.group, rows)) shift = plus(shift, *(const float2 *)(turn.group < 2 ? bias + turn.group * COLUMNS + 2 * pair() : s.bias + column(s, turn.group)));
        }
        add(sum, x[place], turn, place);
        if (i + place == 0) order();
        if (ends) put(sum, rows, mine);
        if (ends || more) __syncthreads();
        if (more) {
          fetch(x[place], ahead);
          bring(s, ahead, place);
          ahead.advance();
        }
        if (ends) {
          if (stores(s, turn.group, rows)) output(row(), column(s, turn.group), total(shift, rows, mine));
          shift = begun(turn.group + 1);
        }
        turn.advance();
      }
    }
    if (all == 0) order();
  }

 private:
  static __device__ __forceinline__ float2 plus(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }

  __device__ __forceinline__ void clear(float (&sum)[CHAINS][TILES][4]) {
#pragma unroll
    for (int c = 0; c < CHAINS; c++)
#pragma unroll
      for (int t = 0; t < TILES; t++) sum[c][t][0] = sum[c][t][1] = sum[c][t][2] = sum[c][t][3] = 0;
  }

  // add multiplies by a turn's weights. Of two neighbours of eight lanes one reads the
  // halves of a step in the other order: columns are whole times 128 bytes apart.
  __device__ __forceinline__ void add(float (&sum)[CHAINS][TILES][4], const Rows (&x)[STEPS], Turn turn, int place) {
    const bool odd = lane / 4 % 2;
    const char *from = weights + place * PLACE + lane / 4 * PITCH + warp * 128 + lane % 4 * 16;
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
      if (inner(turn, i, 0) >= K) break;
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        const char *at = from + 8 * t * PITCH + i * WARPS * 128;
        const uint4 a = *(const uint4 *)(at + (odd ? 64 : 0)), b = *(const uint4 *)(at + (odd ? 0 : 64));
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const bool first = half == odd;
          uint4 w = make_uint4(first ? a.x : b.x, first ? a.y : b.y, first ? a.z : b.z, first ? a.w : b.w);
          if (K % 64 != 0 && inner(turn, i, half) + lane % 4 * 8 >= K) w = make_uint4(0, 0, 0, 0);
          const uint4 v = x[i].low[half], u = WIDE ? x[i].high[half] : make_uint4(0, 0, 0, 0);
          multiply_tile<false>(sum[2 * half % CHAINS][t], {v.x, u.x, v.y, u.y}, w.x, w.y);
          multiply_tile<false>(sum[(2 * half + 1) % CHAINS][t], {v.z, u.z, v.w, u.w}, w.z, w.w);
        }
      }
    }
  }

  // put leaves what this warp has of a group of tiles.
  __device__ __forceinline__ void put(const float (&sum)[CHAINS][TILES][4], int rows, float *parts) {
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
      for (int half = 0; half < (WIDE ? 2 : 1); half++) {
        const int row = lane / 4 + 8 * half;
        float2 v = make_float2(0, 0);
#pragma unroll
        for (int c = 0; c < CHAINS; c++) v.x += sum[c][t][2 * half], v.y += sum[c][t][2 * half + 1];
        if (row < rows) *(float2 *)(parts + (warp * rows + row) * COLUMNS + 8 * t + lane % 4 * 2) = v;
      }
  }

  // total adds what the warps have of this thread's pair.
  __device__ __forceinline__ float2 total(float2 v, int rows, const float *parts) {
#pragma unroll
    for (int w = 0; w < WARPS; w++) v = plus(v, *(const float2 *)(parts + (w * rows + row()) * COLUMNS + 2 * pair()));
    return v;
  }
};
