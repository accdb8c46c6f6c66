// Backward pass of attention on Hopper in one kernel of five products
// (attention_hopper.cuh): two warpgroups make dk and dv of 128 keys over the query
// tiles that see them, and hand the gradients of the scores to a third one, which
// multiplies them with the keys and adds the result to dq. The sums of dq lie in
// global memory, in float32, and are added up in an order that is fixed, so that
// results are the same bits every time. Of the fourth warpgroup two warps copy tiles
// into shared memory, and two round sums that are complete.
#pragma once

#ifndef ORDERED_STAGES
#define ORDERED_STAGES 2
#endif
#ifndef ORDERED_SCORES
#define ORDERED_SCORES 2
#endif

struct Ordered {
  static const int ROWS = 128;  // of a tile, keys as queries
  static const int STAGES = ORDERED_STAGES, SCORES = ORDERED_SCORES, KV_STAGES = 2;
  static const int BYTES = tile_bytes<ROWS, D>(), SCORE_BYTES = tile_bytes<ROWS, ROWS>();
  static const int THREADS = 4 * 128, LOADERS = 64;
  static const int PRODUCER_REGISTERS = 32, SCORE_REGISTERS = 208, SUM_REGISTERS = 64;
  static const int SHARED = 1024 + 2 * KV_STAGES * BYTES + STAGES * (2 * BYTES + 8 * ROWS) + SCORES * SCORE_BYTES + 256 + 2 * Columns<2>::BYTES;
};

// A Walk is a block's way over key tiles, two side by side: the j-th of one pair of
// batch row and key head, then the j-th last of the next pair, which together meet
// as many query tiles for every j; with several query heads a key head the same two
// for each of them. A leg is one key tile and query head. On the first tile's legs
// it goes over the query tiles from the diagonal on, and a query tile's sum takes key
// tiles from the diagonal down; on the second one's it goes from the end back to the
// diagonal, and the sum takes key tiles from the first one up. So the blocks of a
// pair, all at work at the same time, come to a query tile one after another in the
// order of its sum, and to a query head at about the same time. A sum never waits for
// a tile that is dealt later, hence every grid comes to an end.
struct Walk {
  int tiles, pairs, group;
  int turn, leg, pair, key;
  __device__ __forceinline__ Walk(int tiles, int pairs, int group) : tiles(tiles), pairs(pairs), group(group), turn(0), leg(-1) {}
  // next moves to the next leg.
  __device__ __forceinline__ bool next() {
    do {
      if (++leg == 2 * group) leg = 0, turn++;
      const int at = turn * gridDim.x + blockIdx.x;
      if (at >= tiles * div_up(pairs, 2)) return false;
      const int j = at % tiles;
      pair = at / tiles * 2 + stage();
      key = stage() ? j : tiles - 1 - j;
    } while (pair >= pairs);
    return true;
  }
  // stage and parity of the barriers of the leg's keys and values.
  __device__ __forceinline__ int stage() const { return leg & 1; }
  __device__ __forceinline__ int parity() const { return turn & 1; }
  __device__ __forceinline__ bool first() const { return leg < 2; }  // of the key tile
  __device__ __forceinline__ bool last() const { return leg >= 2 * (group - 1); }
  __device__ __forceinline__ int head() const { return pair * group + (leg >> 1); }
  __device__ __forceinline__ int queries() const { return tiles - key; }
  __device__ __forceinline__ int query(int i) const { return stage() ? tiles - 1 - i : key + i; }
  // place is the key tile's place in the sum of a query tile, which has query + 1 terms.
  __device__ __forceinline__ int place(int query) const { return stage() ? key : query - key; }
};

struct OrderedShared {
  char *k, *v, *q, *g, *scores;
  float *rows;  // [stage][lse, delta][ROWS]
  Barrier *kv_full, *kv_empty, *full, *empty, *scores_full, *scores_empty;
  char *columns;
  __device__ __forceinline__ OrderedShared(char *at) {
    typedef Ordered F;
    k = at, v = k + F::KV_STAGES * F::BYTES, q = v + F::KV_STAGES * F::BYTES, g = q + F::STAGES * F::BYTES;
    scores = g + F::STAGES * F::BYTES;
    rows = (float *)(scores + F::SCORES * F::SCORE_BYTES);
    kv_full = (Barrier *)(rows + F::STAGES * 2 * F::ROWS), kv_empty = kv_full + F::KV_STAGES;
    full = kv_empty + F::KV_STAGES, empty = full + F::STAGES, scores_full = empty + F::STAGES, scores_empty = scores_full + F::SCORES;
    columns = (char *)kv_full + 256;
  }
};

// store_transposed writes the gradients of the scores of a warpgroup's 64 keys and
// 128 queries, the keys along the columns, into their panel of a tile.
__device__ __forceinline__ void store_transposed(uint32 panel, const uint32 (&d)[32], int warp, int lane) {
  const uint32 at = panel + ((lane >> 4) * 8 + (lane & 7)) * 128 + (((2 * warp + (lane >> 3 & 1)) ^ (lane & 7)) << 4);
#pragma unroll
  for (int i = 0; i < 8; i++)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at + i * 2048), "r"(d[4 * i]), "r"(d[4 * i + 1]), "r"(d[4 * i + 2]), "r"(d[4 * i + 3])
                 : "memory");
}

__device__ __forceinline__ void add4(float *to, const float *x) {
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3]) : "memory");
}
__device__ __forceinline__ void store4(float *to, const float *x) {
  *(float4 *)to = make_float4(x[0], x[1], x[2], x[3]);
}
__device__ __forceinline__ float4 load4(const float *from) {
  float4 x;
  asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "l"(from) : "memory");
  return x;
}
__device__ __forceinline__ void release(int *flag, int value) {
  asm volatile("fence.acq_rel.gpu;\nst.relaxed.gpu.global.s32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
__device__ __forceinline__ bool acquired(const int *flag, int value) {
  int x;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(x) : "l"(flag) : "memory");
  return x == value;
}

// score_gradients makes the gradients of the scores of 64 queries from their
// probabilities and the gradients of these.
__device__ __forceinline__ void score_gradients(uint32 *ds, const uint32 *p, float (&dp)[32], const float *delta, int lane) {
  hold(dp);
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const float2 x = *(const float2 *)(delta + 8 * j + (lane & 3) * 2);
    ds[2 * j] = pack_bf16(low_bf16(p[2 * j]) * (dp[4 * j] - x.x), high_bf16(p[2 * j]) * (dp[4 * j + 1] - x.y));
    ds[2 * j + 1] = pack_bf16(low_bf16(p[2 * j + 1]) * (dp[4 * j + 2] - x.x), high_bf16(p[2 * j + 1]) * (dp[4 * j + 3] - x.y));
  }
}

// keep writes a thread's elements of dk and dv, and add_kept adds them again, between
// the legs of a key tile.
__device__ __forceinline__ void keep(float *at, const float (&dk)[D / 2], const float (&dv)[D / 2]) {
#pragma unroll
  for (int i = 0; i < D / 8; i++) store4(at + 2 * i * 1024, dk + 4 * i), store4(at + (2 * i + 1) * 1024, dv + 4 * i);
}
__device__ __forceinline__ void add_kept(const float *at, float (&dk)[D / 2], float (&dv)[D / 2]) {
#pragma unroll
  for (int i = 0; i < D / 8; i++) {
    const float4 x = *(const float4 *)(at + 2 * i * 1024), y = *(const float4 *)(at + (2 * i + 1) * 1024);
    dk[4 * i] += x.x, dk[4 * i + 1] += x.y, dk[4 * i + 2] += x.z, dk[4 * i + 3] += x.w;
    dv[4 * i] += y.x, dv[4 * i + 1] += y.y, dv[4 * i + 2] += y.z, dv[4 * i + 3] += y.w;
  }
}

// scores_consumer makes dk and dv of 64 keys.
__device__ __forceinline__ void scores_consumer(const KeyArguments &a, float *kept, Walk walk, const OrderedShared &m, int w) {
  typedef Ordered F;
  const int ROWS = F::ROWS;
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const float c = a.scale * LOG2E;
  Ring<F::STAGES> ring;
  Ring<F::SCORES> scores;
  float dk[D / 2], dv[D / 2];
  Columns<2> columns(m.columns, w);

  kept += blockIdx.x * (2 * 256 * D) + threadIdx.x % 256 * 4;
  while (walk.next()) {
    const int queries = walk.queries();
    const uint32 k_rows = shared_address(m.k + walk.stage() * F::BYTES) + 64 * w * 128, v_rows = shared_address(m.v + walk.stage() * F::BYTES) + 64 * w * 128;
#pragma unroll
    for (int j = 0; j < D / 2; j++) dk[j] = 0, dv[j] = 0;
    barrier_wait(m.kv_full + walk.stage(), walk.parity());
    int last = -1;
    for (int t = 0; t < queries; t++) {
      const uint32 q_tile = shared_address(m.q + ring.stage * F::BYTES), g_tile = shared_address(m.g + ring.stage * F::BYTES);
      const float *l = m.rows + ring.stage * 2 * ROWS, *dl = l + ROWS;
      barrier_wait(m.full + ring.stage, ring.parity);
      fence_async_proxy();
      float s[ROWS / 2], dp0[ROWS / 4], dp1[ROWS / 4];
      uint32 p[ROWS / 4], ds[ROWS / 4];
      wgmma_begin();
      product_ss<ROWS, ROWS>(s, k_rows, q_tile);
      wgmma_commit();
      wgmma_wait<1>();  // dk of the tile before
      hold(dk);
      if (last >= 0) barrier_arrive_warp(m.empty + last, lane);
      last = ring.stage;
      wgmma_begin();
      product_ss<ROWS, ROWS>(dp0, v_rows, g_tile);
      wgmma_commit();
      wgmma_wait<1>();
      hold(s);
#pragma unroll
      for (int j = 0; j < ROWS / 8; j++) {
        float2 x = *(const float2 *)(l + 8 * j + (lane & 3) * 2);
        s[4 * j] = exp2_fast(s[4 * j] * c - x.x), s[4 * j + 1] = exp2_fast(s[4 * j + 1] * c - x.y);
        s[4 * j + 2] = exp2_fast(s[4 * j + 2] * c - x.x), s[4 * j + 3] = exp2_fast(s[4 * j + 3] * c - x.y);
      }
      if (walk.query(t) == walk.key) {
        const int row = 64 * w + 16 * warp + lane / 4;
#pragma unroll
        for (int j = 0; j < ROWS / 2; j++) {
          int column = j / 4 * 8 + (lane & 3) * 2 + (j & 1);
          if (column < row + (j & 2) * 4) s[j] = 0;
        }
      }
      pack_operand(p, s);
      wgmma_begin();
      product_ss<ROWS, ROWS>(dp1, v_rows, g_tile + 64 * 128);
      wgmma_commit();
      hold(dv);
      accumulate<ROWS>(dv, p, g_tile);
      wgmma_commit();
      wgmma_wait<2>();
      score_gradients(ds, p, dp0, dl, lane);
      wgmma_wait<1>();
      score_gradients(ds + 16, p + 16, dp1, dl + 64, lane);
      barrier_wait(m.scores_empty + scores.stage, scores.parity ^ 1);
      store_transposed(shared_address(m.scores + scores.stage * F::SCORE_BYTES) + w * panel_bytes<ROWS>(), ds, warp, lane);
      fence_async_proxy();
      __syncwarp();
      barrier_arrive_warp(m.scores_full + scores.stage, lane);
      wgmma_wait<0>();
      hold(dv), hold(dk);
      wgmma_begin();
      accumulate<ROWS>(dk, ds, q_tile);
      wgmma_commit();
      ring.next(), scores.next();
    }
    wgmma_wait<0>();
    hold(dk);
    if (last >= 0) barrier_arrive_warp(m.empty + last, lane);
    if (!walk.first()) add_kept(kept + walk.stage() * (256 * D), dk, dv);
    const int first = walk.key * ROWS + 64 * w, b = walk.pair / a.kv_heads;
    char *tile = m.v + walk.stage() * F::BYTES;  // its rows of these keys no other warpgroup reads
    if (!walk.last())
      keep(kept + walk.stage() * (256 * D), dk, dv);
    else if (first < a.length)
      write_key_value<true, true, ROWS>(a, columns, dk, dv, b, walk.pair - b * a.kv_heads, first, tile, tile, w, warp, lane);
    if (walk.last()) barrier_arrive_warp(m.kv_empty + walk.stage(), lane);
  }
}

// query_consumer adds the gradients of scores times keys to the sums of dq.
__device__ __forceinline__ void query_consumer(float *sums, int *flags, Walk walk, const OrderedShared &m) {
  typedef Ordered F;
  const int ROWS = F::ROWS, BARRIER = 3;
  const int thread = threadIdx.x % 128, lane = thread % 32;
  Ring<F::SCORES> scores;

  while (walk.next()) {
    const uint32 k_tile = shared_address(m.k + walk.stage() * F::BYTES);
    int *flag = 0;  // of the tile before
    int place = 0;
    barrier_wait(m.kv_full + walk.stage(), walk.parity());
    fence_async_proxy();
    for (int t = 0; t < walk.queries(); t++) {
      const int n = walk.query(t), slot = walk.head() * walk.tiles + n;
      float *sum = sums + (long long)slot * (ROWS * D) + thread * 4;
      barrier_wait(m.scores_full + scores.stage, scores.parity);
#pragma unroll 1
      for (int half = 0; half < 2; half++) {
        const uint32 tile = shared_address(m.scores + scores.stage * F::SCORE_BYTES) + half * 64 * 128;
        float acc[D / 2];
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < ROWS / 16; k++) wgmma_ss<1>(acc, k_major<ROWS>(tile, k), n_major<ROWS>(k_tile, k), k > 0);
        wgmma_commit();
        if (half == 0) {
          named_barrier(BARRIER, 128);
          if (thread == 0 && flag) release(flag, place + 1);
          flag = flags + slot, place = walk.place(n);
          if (thread == 32)
            while (place > 0 && !acquired(flag, place)) {}
          named_barrier(BARRIER, 128);
        }
        wgmma_wait<0>();
        hold(acc);
        if (half == 1) barrier_arrive_warp(m.scores_empty + scores.stage, lane);
        if (place == 0) {
#pragma unroll
          for (int j = 0; j < D / 8; j++) store4(sum + j * 512, acc + 4 * j);
        } else {
#pragma unroll
          for (int j = 0; j < D / 8; j++) add4(sum + j * 512, acc + 4 * j);
        }
        sum += ROWS * D / 2;
      }
      scores.next();
    }
    named_barrier(BARRIER, 128);
    if (thread == 0) release(flag, place + 1);
    if (walk.last()) barrier_arrive_warp(m.kv_empty + walk.stage(), lane);
  }
}

__device__ __forceinline__ void load_tiles(const KeyArguments &a, Walk walk, const OrderedShared &m) {
  typedef Ordered F;
  const int ROWS = F::ROWS;
  const int thread = threadIdx.x, length = a.length;
  Ring<F::STAGES> ring;
  while (walk.next()) {
    const int b = walk.pair / a.kv_heads, h = walk.head() - b * a.heads;
    const long long row = (long long)b * length;
    if (walk.first()) {
      const int g = walk.pair - b * a.kv_heads;
      barrier_wait(m.kv_empty + walk.stage(), walk.parity() ^ 1);
      load_tile<ROWS, D, F::LOADERS>(shared_address(m.k + walk.stage() * F::BYTES), a.k + row * a.k_stride + g * D, a.k_stride, walk.key * ROWS, length, thread);
      load_tile<ROWS, D, F::LOADERS>(shared_address(m.v + walk.stage() * F::BYTES), a.v + row * a.v_stride + g * D, a.v_stride, walk.key * ROWS, length, thread);
      barrier_arrive_copied(m.kv_full + walk.stage());
    }
    const bf16 *qh = a.q + row * a.q_stride + h * D, *gh = a.dout + row * a.dout_stride + h * D;
    const long long line = (long long)walk.head() * length;
    for (int t = 0; t < walk.queries(); t++) {
      const int first = walk.query(t) * ROWS;
      barrier_wait(m.empty + ring.stage, ring.parity ^ 1);
      load_tile<ROWS, D, F::LOADERS>(shared_address(m.q + ring.stage * F::BYTES), qh, a.q_stride, first, length, thread);
      load_tile<ROWS, D, F::LOADERS>(shared_address(m.g + ring.stage * F::BYTES), gh, a.dout_stride, first, length, thread);
#pragma unroll
      for (int r = thread; r < ROWS; r += F::LOADERS) {
        const uint32 to = shared_address(m.rows + ring.stage * 2 * ROWS + r);
        copy4(to, a.lse + line + first + r, first + r < length);
        copy4(to + 4 * ROWS, a.delta + line + first + r, first + r < length);
      }
      barrier_arrive_copied(m.full + ring.stage);
      ring.next();
    }
  }
}

struct SumArguments {
  const float *sums;
  const int *flags;
  bf16 *dq;
  const float2 *table;
  float *parts;
  int length, heads, dq_stride, parts_stride;
  float scale;
};

// round_sums writes dq, of every leg the query tile on the diagonal: turned back and
// rounded, and the sums of its rows. A warp takes half of the tile.
__device__ __forceinline__ void round_sums(const SumArguments &a, Walk walk, int half, int lane) {
  static_assert(TURNED == 8, "the channels of a pair lie in pieces 0 and 1");
  const int ROWS = Ordered::ROWS;
  while (walk.next()) {
    const int tile = walk.head() * walk.tiles + walk.key, first = walk.key * ROWS + 64 * half, row = first + lane / 4;
    const int b = walk.head() / a.heads, column = (walk.head() - b * a.heads) * D + (lane & 3) * 2;
    if (lane == 0)
      while (!acquired(a.flags + tile, walk.key + 1)) __nanosleep(500);
    __syncwarp();
    if (first >= a.length) continue;
    const float *from = a.sums + (tile * 2 + half) * (64ll * D) + lane * 4;
    bf16 *to = a.dq + ((long long)b * a.length + row) * a.dq_stride + column;
    float *part = a.parts + (long long)(b * div_up(a.length, PART_ROWS) + first / PART_ROWS) * a.parts_stride + column;
#pragma unroll 1
    for (int j = 0; j < D / 8; j += 2) {
      float sum[4] = {0, 0, 0, 0};
#pragma unroll 2
      for (int i = 0; i < 4; i++) {
        const float4 x = load4(from + j * 512 + i * 128), y = load4(from + (j + 1) * 512 + i * 128);
        float d[2][4] = {{x.x, x.y, y.x, y.y}, {x.z, x.w, y.z, y.w}};
#pragma unroll
        for (int r = 0; r < 2; r++) {
          const int at = 16 * i + 8 * r;
          if (row + at >= a.length) continue;
          if (j == 0 && a.table) {
            const float4 w = *((const float4 *)(a.table + (row + at) * TURNED) + (lane & 3));
            const float d0 = d[r][0], d1 = d[r][1];
            d[r][0] = d0 * w.x + d[r][2] * w.y, d[r][2] = d[r][2] * w.x - d0 * w.y;
            d[r][1] = d1 * w.z + d[r][3] * w.w, d[r][3] = d[r][3] * w.z - d1 * w.w;
          }
#pragma unroll
          for (int e = 0; e < 4; e++) d[r][e] *= a.scale, sum[e] += d[r][e];
          uint32 *line = (uint32 *)(to + (long long)at * a.dq_stride + j * 8);
          line[0] = pack_bf16(d[r][0], d[r][1]), line[4] = pack_bf16(d[r][2], d[r][3]);
        }
      }
      if (!a.parts) continue;
#pragma unroll
      for (int e = 0; e < 4; e++) {
#pragma unroll
        for (int bit = 4; bit < 32; bit *= 2) sum[e] += __shfl_xor_sync(~0u, sum[e], bit);
      }
      if (lane < 4) *(float2 *)(part + j * 8) = make_float2(sum[0], sum[1]), *(float2 *)(part + j * 8 + 8) = make_float2(sum[2], sum[3]);
    }
  }
}

extern "C" __global__ void __launch_bounds__(Ordered::THREADS, 1)
    attention_backward_ordered(const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *dout, const float *lse, const float *delta, float *sums, int *flags, float *kept, bf16 *dq,
                               bf16 *dk, bf16 *dv, float *dk_sum, float *dv_sum, const float2 *query_table, const float2 *key_table, float *dq_parts, float *dk_parts,
                               float *dv_parts, int batch, int length, int heads, int kv_heads, int q_stride, int k_stride, int v_stride, int dout_stride, int dq_stride,
                               int dk_stride, int dv_stride, int sum_stride, int parts_stride, int mode, float scale) {
  typedef Ordered F;
  const OrderedShared m(aligned_shared());
  if (threadIdx.x == 0) {
    for (int i = 0; i < F::KV_STAGES; i++) barrier_init(m.kv_full + i, F::LOADERS), barrier_init(m.kv_empty + i, WARP_ARRIVALS * 12);
    for (int i = 0; i < F::STAGES; i++) barrier_init(m.full + i, F::LOADERS), barrier_init(m.empty + i, WARP_ARRIVALS * 8);
    for (int i = 0; i < F::SCORES; i++) barrier_init(m.scores_full + i, WARP_ARRIVALS * 8), barrier_init(m.scores_empty + i, WARP_ARRIVALS * 4);
    barrier_init_done();
  }
  __syncthreads();
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);
  const Walk walk(div_up(length, F::ROWS), batch * kv_heads, heads / kv_heads);
  const KeyArguments a = {q, k, v, dout, lse, delta, dk, dv, dk_sum, dv_sum, key_table, dk_parts, dv_parts, batch, length, heads, kv_heads, q_stride, k_stride, v_stride, dout_stride, dk_stride, dv_stride, sum_stride, parts_stride, mode, scale};
  if (warpgroup == 0) {
    fewer_registers<F::PRODUCER_REGISTERS>();
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
    if (warp < 2) {
      load_tiles(a, walk, m);
    } else {
      const SumArguments s = {sums, flags, dq, query_table, dq_parts, length, heads, dq_stride, parts_stride, scale};
      round_sums(s, walk, warp - 2, threadIdx.x % 32);
    }
  } else if (warpgroup == 3) {
    fewer_registers<F::SUM_REGISTERS>();
    query_consumer(sums, flags, walk, m);
  } else {
    more_registers<F::SCORE_REGISTERS>();
    scores_consumer(a, kept, walk, m, warpgroup - 1);
  }
}

// attention_backward_delta makes delta, and clears the flags, before
// attention_backward_ordered. Eight lanes share a row; 64 rows of a head a block.
extern "C" __global__ void __launch_bounds__(256)
    attention_backward_delta(const bf16 *out, const bf16 *dout, float *delta, int *flags, int flag_count, int length, int heads, int out_stride, int dout_stride) {
  const int blocks = div_up(length, 64), pair = blockIdx.x / blocks, b = pair / heads, h = pair - b * heads;
  const int first = (blockIdx.x - pair * blocks) * 64 + threadIdx.x / 8, c = threadIdx.x % 8 * 8;
  const int flag = blockIdx.x * 256 + threadIdx.x;
  if (flag < flag_count) flags[flag] = 0;
#pragma unroll
  for (int r = 0; r < 64; r += 32) {
    const int row = first + r;
    float sum = 0;
    if (row < length) {
      const long long at = (long long)b * length + row;
      float x[8], y[8];
      load8(out + at * out_stride + h * D + c, x);
      load8(dout + at * dout_stride + h * D + c, y);
#pragma unroll
      for (int j = 0; j < 8; j++) sum += x[j] * y[j];
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    sum += __shfl_xor_sync(~0u, sum, 4);
    if (row < length && threadIdx.x % 8 == 0) delta[(long long)pair * length + row] = sum;
  }
}
