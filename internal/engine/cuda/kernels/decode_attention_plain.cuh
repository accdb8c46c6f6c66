// Attention over the cache for all head sizes and types, without tensor cores.
#pragma once
#include "decode.cuh"

__device__ __forceinline__ void load_cached(const cached *p, float scale, float (&x)[8]) {
#if CACHE == 8
  const uint2 v = *(const uint2 *)p;
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = ((int)(v.x >> 8 * i & 255) - 128) * scale, x[4 + i] = ((int)(v.y >> 8 * i & 255) - 128) * scale;
#else
  load8(p, x);
#endif
}

// decode_attention_plain does the same with a block of 256 for each row and
// key/value head, any number of query heads, and a fixed order of addition: the
// result of a row depends on nothing beside it. Grid: batch * kv_heads. Dynamic
// shared memory: group * (256 + 2 * HEAD_SIZE + 2) floats.
extern "C" __global__ void __launch_bounds__(256)
    decode_attention_plain(const element *q, int q_stride, const cached *keys, const cached *values, const bf16 *key_scales, const bf16 *value_scales, int capacity,
                           element *out, int out_stride, const int *seen, int heads, int kv_heads, const float2 *table, int pairs, float scale) {
  extern __shared__ float shared[];
  const int group = heads / kv_heads, item = blockIdx.x, row = item / kv_heads, head = item - row * kv_heads;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  float *query = shared, *sums = query + group * D, *scores = sums + group * D, *top = scores + group * 256, *total = top + group;
  begin_early();
  wait_for_previous();
  const element *line = q + (long long)row * q_stride + (long long)head * group * D;
  for (int i = thread; i < group * D; i += 256) query[i] = to_float(line[i]), sums[i] = 0;
  for (int g = thread; g < group; g += 256) top[g] = -INFINITE, total[g] = 0;
  const int n = seen[row];
  const long long base = (long long)item * capacity;
  __syncthreads();
  for (int first = 0; first < n; first += 256) {
    const int count = min(256, n - first);
    if (thread < count) {
      const long long p = base + first + thread;
#if CACHE == 8
      const float key_scale = to_float(key_scales[p]);
#else
      const float key_scale = 1;
#endif
      for (int g = 0; g < group; g++) scores[g * 256 + thread] = 0;
      for (int c = 0; c < D; c += 8) {
        float k[8];
        load_cached(keys + p * D + c, key_scale, k);
        if (pairs) turn_pairs(k, table, first + thread, c / 2, pairs);
        for (int g = 0; g < group; g++) {
          float s = 0;
#pragma unroll
          for (int j = 0; j < 8; j++) s += query[g * D + c + j] * k[j];
          scores[g * 256 + thread] += s;
        }
      }
    }
    __syncthreads();
    for (int g = warp; g < group; g += 8) {
      float *s = scores + g * 256, high = -INFINITE, sum = 0;
      for (int i = lane; i < count; i += 32) high = fmaxf(high, s[i] * scale);
      const float old = top[g], now = fmaxf(old, warp_max(high)), f = exp2f(old - now);
      for (int i = lane; i < count; i += 32) sum += s[i] = exp2f(s[i] * scale - now);
      sum = warp_sum(sum);
      for (int d = lane; d < D; d += 32) sums[g * D + d] *= f;
      __syncwarp();
      if (lane == 0) top[g] = now, total[g] = total[g] * f + sum;
    }
    __syncthreads();
    for (int i = thread; i < group * (D / 8); i += 256) {
      const int g = i / (D / 8), c = i % (D / 8) * 8;
      float o[8];
#pragma unroll
      for (int j = 0; j < 8; j++) o[j] = sums[g * D + c + j];
      for (int k = 0; k < count; k++) {
        const long long p = base + first + k;
#if CACHE == 8
        const float value_scale = to_float(value_scales[p]);
#else
        const float value_scale = 1;
#endif
        float v[8];
        load_cached(values + p * D + c, value_scale, v);
        const float s = scores[g * 256 + k];
#pragma unroll
        for (int j = 0; j < 8; j++) o[j] += s * v[j];
      }
#pragma unroll
      for (int j = 0; j < 8; j++) sums[g * D + c + j] = o[j];
    }
    __syncthreads();
  }
  element *to = out + (long long)row * out_stride + (long long)head * group * D;
  for (int i = thread; i < group * D; i += 256) to[i] = to_element(sums[i] / total[i / D]);
}
