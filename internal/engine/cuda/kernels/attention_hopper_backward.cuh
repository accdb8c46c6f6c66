// Backward pass of attention on Hopper (attention_hopper.cuh): two kernels, one for
// dq and one for dk and dv. Each computes the scores anew, which costs two of seven
// products and saves the float32 atomics on dq (and with them either determinism or
// ordering).
#pragma once

// ---- backward: dq ----

struct Query {
  static const int WARPGROUPS = QUERY_WARPGROUPS, KEYS = QUERY_KEYS, STAGES = QUERY_STAGES;
  static const int ROWS = 64 * WARPGROUPS;
  static const int Q_STAGES = HEAD_SIZE <= 128 ? 2 : 1;
  static const int Q_BYTES = tile_bytes<ROWS, D>(), KV_BYTES = tile_bytes<KEYS, D>();
  static const int SHARED = 1024 + 2 * Q_STAGES * Q_BYTES + 2 * STAGES * KV_BYTES + 256 + WARPGROUPS * Columns<1>::BYTES;
};

extern "C" __global__ void __launch_bounds__((Query::WARPGROUPS + 1) * 128, 1)
    attention_backward_query(const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *out, const bf16 *dout, const float *lse, float *delta, bf16 *dq, const float2 *table,
                             float *parts, int batch, int length, int heads, int kv_heads, int q_stride, int k_stride, int v_stride, int out_stride, int dout_stride, int dq_stride,
                             int parts_stride, float scale) {
  typedef Query F;
  typedef Turns<F::WARPGROUPS, QUERY_TURNS> Turn;
  const int ROWS = F::ROWS, KEYS = F::KEYS, STAGES = F::STAGES, QS = F::Q_STAGES;
  char *shared = aligned_shared();
  char *q_tiles = shared, *g_tiles = q_tiles + QS * F::Q_BYTES;
  char *k_tiles = g_tiles + QS * F::Q_BYTES, *v_tiles = k_tiles + STAGES * F::KV_BYTES;
  Barrier *q_full = (Barrier *)(v_tiles + STAGES * F::KV_BYTES), *q_empty = q_full + QS;
  Barrier *k_full = q_empty + QS, *k_empty = k_full + STAGES, *v_full = k_empty + STAGES, *v_empty = v_full + STAGES;
  prepare_barriers<F>(q_full, q_empty, k_full, k_empty, v_full, v_empty);

  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);
  const Schedule schedule(div_up(length, ROWS), batch * heads, length);
  const int group = heads / kv_heads;
  Ring<QS> qr;
  int rank, pair;

  if (warpgroup == 0) {
    fewer_registers<Registers<F::WARPGROUPS>::producer>();
    const int thread = threadIdx.x;
    Ring<STAGES> r;
    for (int i = 0; schedule.get(i, rank, pair); i++) {
      if (rank < 0) continue;
      const int first = (schedule.rows - 1 - rank) * ROWS;
      const int b = pair / heads, h = pair - b * heads;
      const long long row = (long long)b * length;
      const int tiles = div_up(min(first + ROWS, length), KEYS);
      const bf16 *kh = k + row * k_stride + h / group * D, *vh = v + row * v_stride + h / group * D;
      barrier_wait(q_empty + qr.stage, qr.parity ^ 1);
      load_tile<ROWS, D>(shared_address(q_tiles + qr.stage * F::Q_BYTES), q + row * q_stride + h * D, q_stride, first, length, thread);
      load_tile<ROWS, D>(shared_address(g_tiles + qr.stage * F::Q_BYTES), dout + row * dout_stride + h * D, dout_stride, first, length, thread);
      barrier_arrive_copied(q_full + qr.stage);
      qr.next();
      load_keys_values<F>(r, tiles, k_tiles, v_tiles, k_full, k_empty, v_full, v_empty, kh, vh, k_stride, v_stride, length, thread);
    }
  } else {
  more_registers<Registers<F::WARPGROUPS>::consumer>();
  const int w = warpgroup - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const float c = scale * LOG2E;
  Ring<STAGES> kr, vr;
  float s[KEYS / 2], dp[KEYS / 2], acc[D / 2];
  uint32 ds[KEYS / 4];
  Columns<1> columns((char *)(v_empty + STAGES), w);

  Turn::start(w);
  for (int i = 0; schedule.get(i, rank, pair); i++) {
    if (rank < 0) continue;
    const int first = (schedule.rows - 1 - rank) * ROWS, r0 = first + 64 * w;
    const int b = pair / heads, h = pair - b * heads;
    const int tiles = div_up(min(first + ROWS, length), KEYS);
    const int own = r0 < length ? min(tiles, div_up(r0 + 64, KEYS)) : 0;
    char *q_tile = q_tiles + qr.stage * F::Q_BYTES;
    const uint32 q_rows = shared_address(q_tile) + 64 * w * 128;
    const uint32 g_rows = shared_address(g_tiles + qr.stage * F::Q_BYTES) + 64 * w * 128;
    const int row = r0 + 16 * warp + lane / 4;
    float l[2], dl[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const bool exists = row + 8 * r < length;
      const long long at = (long long)pair * length + row + 8 * r, start = (long long)b * length;
      l[r] = exists ? lse[at] : 0;
      dl[r] = row_delta(out + start * out_stride + h * D, dout + start * dout_stride + h * D, out_stride, dout_stride, row + 8 * r, exists, lane);
      if (exists && (lane & 3) == 0) delta[at] = dl[r];
    }
    barrier_wait(q_full + qr.stage, qr.parity);
    for (int n = tiles; n > own; n--) {
      barrier_wait(k_full + kr.stage, kr.parity);
      barrier_arrive_warp(k_empty + kr.stage, lane);
      barrier_wait(v_full + vr.stage, vr.parity);
      barrier_arrive_warp(v_empty + vr.stage, lane);
      kr.next(), vr.next();
      Turn::take(w);
      Turn::pass(w);
    }
    if (own > 0) {
#pragma unroll
      for (int j = 0; j < D / 2; j++) acc[j] = 0;
      int last = -1;  // stage of the key tile that the product under way reads
      for (int n = own - 1; n >= 0; n--) {
        const uint32 k_tile = shared_address(k_tiles + kr.stage * F::KV_BYTES);
        barrier_wait(k_full + kr.stage, kr.parity);
        barrier_wait(v_full + vr.stage, vr.parity);
        fence_async_proxy();
        Turn::take(w);
        hold(s);
        wgmma_begin();
        product_ss<ROWS, KEYS>(s, q_rows, k_tile);
        wgmma_commit();
        hold(dp);
        wgmma_begin();
        product_ss<ROWS, KEYS>(dp, g_rows, shared_address(v_tiles + vr.stage * F::KV_BYTES));
        wgmma_commit();
        Turn::pass(w);
        wgmma_wait<1>();
        hold(s), hold(acc);
        if (last >= 0) barrier_arrive_warp(k_empty + last, lane);
        last = kr.stage;
        if (n * KEYS + KEYS > r0 + 1) {
#pragma unroll
          for (int j = 0; j < KEYS / 2; j++) {
            int column = n * KEYS + j / 4 * 8 + (lane & 3) * 2 + (j & 1);
            s[j] = column > row + (j & 2) * 4 ? 0 : exp2_fast(s[j] * c - l[j >> 1 & 1]);
          }
        } else {
#pragma unroll
          for (int j = 0; j < KEYS / 2; j++) s[j] = exp2_fast(s[j] * c - l[j >> 1 & 1]);
        }
        wgmma_wait<0>();
        hold(dp);
        barrier_arrive_warp(v_empty + vr.stage, lane);
#pragma unroll
        for (int j = 0; j < KEYS / 2; j++) dp[j] = s[j] * (dp[j] - dl[j >> 1 & 1]);
        pack_operand(ds, dp);
        hold(acc);
        wgmma_begin();
        accumulate<KEYS>(acc, ds, k_tile);
        wgmma_commit();
        kr.next(), vr.next();
      }
      wgmma_wait<0>();
      hold(acc);
      barrier_arrive_warp(k_empty + last, lane);
      turn_back(acc, table, r0 + 16 * warp, length, lane);
      if (parts) columns.add(0, acc, scale, r0 + 16 * warp, length, warp, lane);
      named_barrier(1 + w, 128);
      if (parts) columns.write(0, parts + (long long)(b * div_up(length, PART_ROWS) + r0 / PART_ROWS) * parts_stride + h * D, threadIdx.x % 128);
      columns.next();
      store_rows<ROWS>(dq + (long long)b * length * dq_stride + h * D, dq_stride, r0 + 16 * warp, length, acc, scale, scale, q_tile, 64 * w + 16 * warp, lane);
    }
    barrier_arrive_warp(q_empty + qr.stage, lane);
    qr.next();
  }
  }
}

// ---- backward: dk and dv ----

struct Key {
  static const int WARPGROUPS = KEY_WARPGROUPS, QUERIES = KEY_QUERIES, STAGES = KEY_STAGES;
  static const int ROWS = 64 * WARPGROUPS;
  static const int KV_STAGES = HEAD_SIZE <= 64 ? 2 : 1;
  static const bool SPLIT = HEAD_SIZE > 128;      // dk and dv by different blocks
  static const int KV_BYTES = tile_bytes<ROWS, D>(), Q_BYTES = tile_bytes<QUERIES, D>();
  static const int SHARED = 1024 + 2 * KV_STAGES * KV_BYTES + STAGES * (2 * Q_BYTES + 8 * QUERIES) + 256 + WARPGROUPS * Columns<2>::BYTES;
};

template <bool WANT_K, bool WANT_V> __device__ __forceinline__ void key_consumer(const KeyArguments &a, const Schedule &schedule, char *k_tiles, char *v_tiles, char *q_tiles,
                                                                                char *g_tiles, float *rows, Barrier *kv_full, Barrier *kv_empty, Barrier *full, Barrier *empty,
                                                                                int w) {
  typedef Key F;
  typedef Turns<F::WARPGROUPS, KEY_TURNS> Turn;
  const int ROWS = F::ROWS, QUERIES = F::QUERIES, STAGES = F::STAGES;
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int length = a.length, group = a.heads / a.kv_heads;
  const float c = a.scale * LOG2E;
  Ring<F::KV_STAGES> kvr;
  Ring<STAGES> ring;
  int rank, pair;
  float s[QUERIES / 2], dp[WANT_K ? QUERIES / 2 : 1], dk[WANT_K ? D / 2 : 1], dv[WANT_V ? D / 2 : 1];
  uint32 p[QUERIES / 4], ds[WANT_K ? QUERIES / 4 : 1];
  Columns<2> columns((char *)(empty + STAGES), w);

  Turn::start(w);
  for (int i = 0; schedule.get(i, rank, pair); i++) {
    if (rank < 0) continue;
    const int first = rank * ROWS, c0 = first + 64 * w;
    const int b = pair / a.kv_heads, g = pair - b * a.kv_heads;
    const int begin = first / QUERIES, end = div_up(length, QUERIES);
    const int skip = c0 < length ? c0 / QUERIES : end;  // query tiles before it see none of these keys
    char *k_tile = k_tiles + kvr.stage * F::KV_BYTES, *v_tile = v_tiles + kvr.stage * F::KV_BYTES;
    const uint32 k_rows = shared_address(k_tile) + 64 * w * 128, v_rows = shared_address(v_tile) + 64 * w * 128;
    if constexpr (WANT_K) {
#pragma unroll
      for (int j = 0; j < D / 2; j++) dk[j] = 0;
    }
    if constexpr (WANT_V) {
#pragma unroll
      for (int j = 0; j < D / 2; j++) dv[j] = 0;
    }
    barrier_wait(kv_full + kvr.stage, kvr.parity);
    int last = -1;
    for (int h = 0; h < group; h++) {
      for (int n = begin; n < end; n++) {
        barrier_wait(full + ring.stage, ring.parity);
        if (n < skip) {
          if (last >= 0) {  // held back, its stage could be the one that the producer needs next
            wgmma_wait<0>();
            if constexpr (WANT_K) hold(dk);
            if constexpr (WANT_V) hold(dv);
            barrier_arrive_warp(empty + last, lane);
            last = -1;
          }
          barrier_arrive_warp(empty + ring.stage, lane);
          ring.next();
          Turn::take(w);
          Turn::pass(w);
          continue;
        }
        const uint32 q_tile = shared_address(q_tiles + ring.stage * F::Q_BYTES), g_tile = shared_address(g_tiles + ring.stage * F::Q_BYTES);
        const float *l = rows + ring.stage * 2 * QUERIES, *dl = l + QUERIES;
        fence_async_proxy();
        Turn::take(w);
        hold(s);
        wgmma_begin();
        product_ss<ROWS, QUERIES>(s, k_rows, q_tile);
        wgmma_commit();
        if constexpr (WANT_K) {
          hold(dp);
          product_ss<ROWS, QUERIES>(dp, v_rows, g_tile);
          wgmma_commit();
          Turn::pass(w);
          wgmma_wait<1>();
        } else {
          Turn::pass(w);
          wgmma_wait<0>();
        }
        hold(s);
        if constexpr (WANT_K) hold(dk);
        if constexpr (WANT_V) hold(dv);
        if (last >= 0) barrier_arrive_warp(empty + last, lane);
        last = ring.stage;

        const int row = c0 + 16 * warp + lane / 4;
#pragma unroll
        for (int j = 0; j < QUERIES / 8; j++) {
          float2 m = *(const float2 *)(l + 8 * j + (lane & 3) * 2);
          s[4 * j] = exp2_fast(s[4 * j] * c - m.x), s[4 * j + 1] = exp2_fast(s[4 * j + 1] * c - m.y);
          s[4 * j + 2] = exp2_fast(s[4 * j + 2] * c - m.x), s[4 * j + 3] = exp2_fast(s[4 * j + 3] * c - m.y);
        }
        if (n * QUERIES < c0 + 63) {
#pragma unroll
          for (int j = 0; j < QUERIES / 2; j++) {
            int column = n * QUERIES + j / 4 * 8 + (lane & 3) * 2 + (j & 1);
            if (column < row + (j & 2) * 4) s[j] = 0;
          }
        }
        pack_operand(p, s);
        if constexpr (WANT_V) {
          wgmma_begin();
          accumulate<QUERIES>(dv, p, g_tile);
          wgmma_commit();
        }
        if constexpr (WANT_K) {
          wgmma_wait<WANT_V ? 1 : 0>();
          hold(dp);
#pragma unroll
          for (int j = 0; j < QUERIES / 8; j++) {
            float2 m = *(const float2 *)(dl + 8 * j + (lane & 3) * 2);
            const uint32 p0 = p[2 * j], p1 = p[2 * j + 1];
            dp[4 * j] = low_bf16(p0) * (dp[4 * j] - m.x), dp[4 * j + 1] = high_bf16(p0) * (dp[4 * j + 1] - m.y);
            dp[4 * j + 2] = low_bf16(p1) * (dp[4 * j + 2] - m.x), dp[4 * j + 3] = high_bf16(p1) * (dp[4 * j + 3] - m.y);
          }
          pack_operand(ds, dp);
          wgmma_begin();
          accumulate<QUERIES>(dk, ds, q_tile);
          wgmma_commit();
        }
#if KEY_WAIT
        wgmma_wait<0>();
        if constexpr (WANT_K) hold(dk);
        if constexpr (WANT_V) hold(dv);
        barrier_arrive_warp(empty + last, lane);
        last = -1;
#endif
        ring.next();
      }
    }
    wgmma_wait<0>();
    if constexpr (WANT_K) hold(dk);
    if constexpr (WANT_V) hold(dv);
    if (last >= 0) barrier_arrive_warp(empty + last, lane);
    if (c0 < length) write_key_value<WANT_K, WANT_V, ROWS>(a, columns, dk, dv, b, g, c0, k_tile, v_tile, w, warp, lane);
    barrier_arrive_warp(kv_empty + kvr.stage, lane);
    kvr.next();
  }
}

extern "C" __global__ void __launch_bounds__((Key::WARPGROUPS + 1) * 128, 1)
    attention_backward_key_value(const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *dout, const float *lse, const float *delta, bf16 *dk, bf16 *dv, float *dk_sum,
                                 float *dv_sum, const float2 *table, float *dk_parts, float *dv_parts, int batch, int length, int heads, int kv_heads, int q_stride, int k_stride,
                                 int v_stride, int dout_stride, int dk_stride, int dv_stride, int sum_stride, int parts_stride, int mode, float scale) {
  typedef Key F;
  const int ROWS = F::ROWS, QUERIES = F::QUERIES, STAGES = F::STAGES, KS = F::KV_STAGES;
  char *shared = aligned_shared();
  char *k_tiles = shared, *v_tiles = k_tiles + KS * F::KV_BYTES;
  char *q_tiles = v_tiles + KS * F::KV_BYTES, *g_tiles = q_tiles + STAGES * F::Q_BYTES;
  float *rows = (float *)(g_tiles + STAGES * F::Q_BYTES);  // [stage][lse, delta][QUERIES]
  Barrier *kv_full = (Barrier *)(rows + STAGES * 2 * QUERIES), *kv_empty = kv_full + KS, *full = kv_empty + KS, *empty = full + STAGES;
  if (threadIdx.x == 0) {
    for (int i = 0; i < KS; i++) barrier_init(kv_full + i, PRODUCERS), barrier_init(kv_empty + i, WARP_ARRIVALS * 4 * F::WARPGROUPS);
    for (int i = 0; i < STAGES; i++) barrier_init(full + i, PRODUCERS), barrier_init(empty + i, WARP_ARRIVALS * 4 * F::WARPGROUPS);
    barrier_init_done();
  }
  __syncthreads();

  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);
  const Schedule schedule(div_up(length, ROWS), batch * kv_heads, length);

  if (warpgroup == 0) {
    fewer_registers<Registers<F::WARPGROUPS>::producer>();
    const int thread = threadIdx.x, group = heads / kv_heads;
    Ring<KS> kvr;
    Ring<STAGES> ring;
    int rank, pair;
    for (int i = 0; schedule.get(i, rank, pair); i++) {
      if (rank < 0) continue;
      const int first = rank * ROWS;
      const int b = pair / kv_heads, g = pair - b * kv_heads;
      const long long row = (long long)b * length;
      barrier_wait(kv_empty + kvr.stage, kvr.parity ^ 1);
      load_tile<ROWS, D>(shared_address(k_tiles + kvr.stage * F::KV_BYTES), k + row * k_stride + g * D, k_stride, first, length, thread);
      load_tile<ROWS, D>(shared_address(v_tiles + kvr.stage * F::KV_BYTES), v + row * v_stride + g * D, v_stride, first, length, thread);
      barrier_arrive_copied(kv_full + kvr.stage);
      kvr.next();
      for (int h = g * group; h < (g + 1) * group; h++) {
        const bf16 *qh = q + row * q_stride + h * D, *gh = dout + row * dout_stride + h * D;
        const long long line = ((long long)b * heads + h) * length;
        for (int n = first / QUERIES; n < div_up(length, QUERIES); n++) {
          barrier_wait(empty + ring.stage, ring.parity ^ 1);
          load_tile<QUERIES, D>(shared_address(q_tiles + ring.stage * F::Q_BYTES), qh, q_stride, n * QUERIES, length, thread);
          load_tile<QUERIES, D>(shared_address(g_tiles + ring.stage * F::Q_BYTES), gh, dout_stride, n * QUERIES, length, thread);
          if (thread < QUERIES) {
            const int at = n * QUERIES + thread;
            const bool exists = at < length;
            const uint32 to = shared_address(rows + ring.stage * 2 * QUERIES + thread);
            copy4(to, lse + line + at, exists);
            copy4(to + 4 * QUERIES, delta + line + at, exists);
          }
          barrier_arrive_copied(full + ring.stage);
          ring.next();
        }
      }
    }
  } else {
  more_registers<Registers<F::WARPGROUPS>::consumer>();
  const KeyArguments a = {q, k, v, dout, lse, delta, dk, dv, dk_sum, dv_sum, table, dk_parts, dv_parts, batch, length, heads, kv_heads, q_stride, k_stride, v_stride, dout_stride, dk_stride, dv_stride, sum_stride, parts_stride, mode, scale};
  if constexpr (!F::SPLIT)
    key_consumer<true, true>(a, schedule, k_tiles, v_tiles, q_tiles, g_tiles, rows, kv_full, kv_empty, full, empty, warpgroup - 1);
  else if (blockIdx.y == 0)
    key_consumer<true, false>(a, schedule, k_tiles, v_tiles, q_tiles, g_tiles, rows, kv_full, kv_empty, full, empty, warpgroup - 1);
  else
    key_consumer<false, true>(a, schedule, k_tiles, v_tiles, q_tiles, g_tiles, rows, kv_full, kv_empty, full, empty, warpgroup - 1);
  }
}
