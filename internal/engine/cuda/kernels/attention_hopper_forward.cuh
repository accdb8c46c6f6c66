// Forward pass of attention on Hopper (attention_hopper.cuh): outputs and lse.
#pragma once

struct Forward {
  static_assert(FORWARD_KEYS % 64 == 0, "one tile of keys crosses the diagonal of 64 rows");
  static const int WARPGROUPS = FORWARD_WARPGROUPS, KEYS = FORWARD_KEYS, STAGES = FORWARD_STAGES;
  static const int ROWS = 64 * WARPGROUPS;
  static const int Q_STAGES = HEAD_SIZE <= 128 ? 2 : 1;
  static const int Q_BYTES = tile_bytes<ROWS, D>(), KV_BYTES = tile_bytes<KEYS, D>();
  static const int SHARED = 1024 + Q_STAGES * Q_BYTES + 2 * STAGES * KV_BYTES + 256;
};

extern "C" __global__ void __launch_bounds__((Forward::WARPGROUPS + 1) * 128, 1)
    attention_forward(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse, int batch, int length, int heads, int kv_heads, int q_stride, int k_stride,
                      int v_stride, int out_stride, float scale) {
  typedef Forward F;
  typedef Turns<F::WARPGROUPS, FORWARD_TURNS> Turn;
  const int ROWS = F::ROWS, KEYS = F::KEYS, STAGES = F::STAGES, QS = F::Q_STAGES;
  char *shared = aligned_shared();
  char *q_tiles = shared, *k_tiles = q_tiles + QS * F::Q_BYTES, *v_tiles = k_tiles + STAGES * F::KV_BYTES;
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
      barrier_arrive_copied(q_full + qr.stage);
      qr.next();
      load_keys_values<F>(r, tiles, k_tiles, v_tiles, k_full, k_empty, v_full, v_empty, kh, vh, k_stride, v_stride, length, thread);
    }
  } else {
  more_registers<Registers<F::WARPGROUPS>::consumer>();
  const int w = warpgroup - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const float c = scale * LOG2E;
  Ring<STAGES> kr, vr;
  float s[KEYS / 2], o[D / 2];
  uint32 p[KEYS / 4];

  Turn::start(w);
  for (int i = 0; schedule.get(i, rank, pair); i++) {
    if (rank < 0) continue;
    const int first = (schedule.rows - 1 - rank) * ROWS, r0 = first + 64 * w;
    const int b = pair / heads, h = pair - b * heads;
    const int tiles = div_up(min(first + ROWS, length), KEYS);
    const int own = r0 < length ? min(tiles, div_up(r0 + 64, KEYS)) : 0;
    char *q_tile = q_tiles + qr.stage * F::Q_BYTES;
    const uint32 q_rows = shared_address(q_tile) + 64 * w * 128;
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
      float top[2] = {-INFINITE, -INFINITE}, sum[2] = {0, 0}, shrink[2];
#pragma unroll
      for (int j = 0; j < D / 2; j++) o[j] = 0;

      // softmax turns scores of key tile n into probabilities relative to the
      // greatest score so far; shrink is what earlier sums must be scaled by.
      // Only a warpgroup's last tile crosses the diagonal, since 64 divides KEYS.
      auto softmax = [&](int n, bool diagonal) {
        const int row = r0 + 16 * warp + lane / 4;
        if (diagonal) {
#pragma unroll
          for (int j = 0; j < KEYS / 2; j++) {
            int column = n * KEYS + j / 4 * 8 + (lane & 3) * 2 + (j & 1);
            if (column > row + (j & 2) * 4) s[j] = -INFINITE;
          }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
          float t = top[r];
#pragma unroll
          for (int j = 0; j < KEYS / 8; j++) t = fmaxf(t, fmaxf(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]));
          t = fmaxf(t, __shfl_xor_sync(~0u, t, 1));
          t = fmaxf(t, __shfl_xor_sync(~0u, t, 2));
          shrink[r] = exp2_fast((top[r] - t) * c);
          top[r] = t;
          const float tc = t * c;
          float a = 0, e = 0;
#pragma unroll
          for (int j = 0; j < KEYS / 8; j++) {
            float &x = s[4 * j + 2 * r], &y = s[4 * j + 2 * r + 1];
            x = exp2_fast(x * c - tc), y = exp2_fast(y * c - tc);
            a += x, e += y;
          }
          sum[r] = sum[r] * shrink[r] + (a + e);
        }
      };

      barrier_wait(k_full + kr.stage, kr.parity);
      fence_async_proxy();
      Turn::take(w);
      wgmma_begin();
      product_ss<ROWS, KEYS>(s, q_rows, shared_address(k_tiles + kr.stage * F::KV_BYTES));
      wgmma_commit();
      Turn::pass(w);
      wgmma_wait<0>();
      hold(s);
      barrier_arrive_warp(k_empty + kr.stage, lane);
      kr.next();
      softmax(own - 1, true);
      pack_operand(p, s);

      for (int n = own - 2; n >= 0; n--) {
        barrier_wait(v_full + vr.stage, vr.parity);
        barrier_wait(k_full + kr.stage, kr.parity);
        fence_async_proxy();
        Turn::take(w);
        hold(s);
        wgmma_begin();
        product_ss<ROWS, KEYS>(s, q_rows, shared_address(k_tiles + kr.stage * F::KV_BYTES));
        wgmma_commit();
        hold(o);
        wgmma_begin();
        accumulate<KEYS>(o, p, shared_address(v_tiles + vr.stage * F::KV_BYTES));
        wgmma_commit();
        Turn::pass(w);
        wgmma_wait<1>();
        hold(s);
        barrier_arrive_warp(k_empty + kr.stage, lane);
        kr.next();
        softmax(n, false);
        wgmma_wait<0>();
        hold(o);
        barrier_arrive_warp(v_empty + vr.stage, lane);
        vr.next();
#pragma unroll
        for (int j = 0; j < D / 2; j++) o[j] *= shrink[j >> 1 & 1];
        pack_operand(p, s);
      }
      barrier_wait(v_full + vr.stage, vr.parity);
      fence_async_proxy();
      hold(o);
      wgmma_begin();
      accumulate<KEYS>(o, p, shared_address(v_tiles + vr.stage * F::KV_BYTES));
      wgmma_commit();
      wgmma_wait<0>();
      hold(o);
      barrier_arrive_warp(v_empty + vr.stage, lane);
      vr.next();

#pragma unroll
      for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
        sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
        const int row = r0 + 16 * warp + lane / 4 + 8 * r;
        if ((lane & 3) == 0 && row < length) lse[(long long)pair * length + row] = top[r] * c + log2f(sum[r]);
      }
      named_barrier(1 + w, 128);  // every warp's products have read the query rows
      store_rows<ROWS>(out + (long long)b * length * out_stride + h * D, out_stride, r0 + 16 * warp, length, o, 1 / sum[0], 1 / sum[1], q_tile, 64 * w + 16 * warp, lane);
    }
    barrier_arrive_warp(q_empty + qr.stage, lane);
    qr.next();
  }
  }
}
