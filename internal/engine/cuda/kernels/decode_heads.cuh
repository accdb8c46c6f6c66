// What a warp needs for attention over the cache by tensor cores: a tile of keys and
// values, and the state of the query heads that share them.
#pragma once
#include "decode.cuh"

#ifndef HEAD_SIZE
#error "HEAD_SIZE is the number of channels of a head"
#endif
const int D = HEAD_SIZE;

struct Cache {
  const cached *keys, *values;
  const bf16 *key_scales, *value_scales;  // [batch, kv_head, position], with CACHE 8
  int capacity;                           // positions of a row
};

#if STORAGE == 16 && (HEAD_SIZE == 64 || HEAD_SIZE == 128)

const int TILE = 16;  // positions that a warp takes at a time
const bool BYTES = CACHE == 8;
const int SPAN = BYTES ? 64 : 32;  // channels that four lanes load of a key at once
const int SPANS = D / SPAN;
const int VALUE_SPANS = D / 64;  // eight lanes load 64 channels of a value
const int SLOT = D + 4;          // floats of a head's partial result: output, maximum, sum

// Tile holds 16 keys and values as a lane loads them. Lane (r, c) = (lane / 4,
// lane % 4) has keys r and r + 8, SPAN / 4 channels of each span, and values 2c,
// 2c + 1, 2c + 8 and 2c + 9, eight channels from 8r of each 64: what the fragments
// of mma.m16n8k16 need if channels are counted in that order.
struct Tile {
  uint4 key[2][SPANS];
#if CACHE == 8
  uint2 value[4][VALUE_SPANS];
  uint32 key_scale[2], value_scale[2];  // of positions 2c and 2c + 1, 2c + 8 and 2c + 9
#else
  uint4 value[4][VALUE_SPANS];
#endif
  // load takes the positions from first on, of n in all, where the first lies at base;
  // get reads 16 bytes.
  template <class Get> __device__ __forceinline__ void load(const Cache &cache, long long base, int first, int n, int lane, Get get) {
    const int r = lane / 4, c = lane % 4;
#pragma unroll
    for (int t = 0; t < 2; t++) {
      const long long p = base + min(first + 8 * t + r, n - 1);
#pragma unroll
      for (int s = 0; s < SPANS; s++) key[t][s] = get(cache.keys + p * D + s * SPAN + c * (SPAN / 4));
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const long long p = base + min(first + 2 * c + (i & 1) + (i & 2) * 4, n - 1);
#pragma unroll
      for (int s = 0; s < VALUE_SPANS; s++)
#if CACHE == 8
        value[i][s] = stream_load8(cache.values + p * D + s * 64 + 8 * r);
#else
        value[i][s] = get(cache.values + p * D + s * 64 + 8 * r);
#endif
    }
#if CACHE == 8
    // The capacity is even, and first too: both scales of a pair are there.
#pragma unroll
    for (int t = 0; t < 2; t++) {
      const long long p = base + min(first + 2 * c + 8 * t, (n - 1) & ~1);
      key_scale[t] = *(const uint32 *)(cache.key_scales + p);
      value_scale[t] = *(const uint32 *)(cache.value_scales + p);
    }
#endif
  }
  __device__ __forceinline__ void load(const Cache &cache, long long base, int first, int n, int lane) {
    load(cache, base, first, n, lane, [](const cached *p) { return stream_load(p); });
  }
};

// Bytes become halves by being put into the mantissa of 1024.
__device__ __forceinline__ uint32 centred(uint32 halves) {
  uint32 r;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(halves), "r"(0x64806480u));
  return r;
}
__device__ __forceinline__ uint32 low_bytes(uint32 x) { return centred(permute_bytes(x, 0x64646464u, 0x4140)); }
__device__ __forceinline__ uint32 high_bytes(uint32 x) { return centred(permute_bytes(x, 0x64646464u, 0x4342)); }

// turned rotates a pair of channels.
__device__ __forceinline__ uint32 turned(uint32 pair, const float2 *table, int i, int pairs) {
  if (i >= pairs) return pair;
  const float2 w = table[i];
  float a, b;
  if (BYTES)
    unpack_half(pair, a, b);
  else
    a = low_bf16(pair), b = high_bf16(pair);
  const float x = a * w.x - b * w.y, y = b * w.x + a * w.y;
  return BYTES ? pack_half(x, y) : pack_bf16(x, y);
}

// Heads is the state of up to 16 query heads of one key/value head in a warp, WIDE
// where there are more than 8.
template <bool WIDE> struct Heads {
  uint32 q[D / 16][4];
  float o[VALUE_SPANS][8][4];  // channel 64 s + 8 n + j of head m is column n of tile j
  float top[2], sum[2];        // of heads r and r + 8; top is shared by a row's four lanes

  __device__ __forceinline__ void start(const element *queries, int group, int lane) {
    const int r = lane / 4, c = lane % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const bool there = r + 8 * half < group;
      const element *line = queries + (long long)(r + 8 * half) * D;
#pragma unroll
      for (int s = 0; s < SPANS; s++) {
#pragma unroll
        for (int i = 0; i < SPAN / 16; i++) {
          // Words 2i and 2i + 1 of this lane's part of the span.
          const uint2 w = there ? *(const uint2 *)(line + s * SPAN + c * (SPAN / 4) + 4 * i) : make_uint2(0, 0);
          uint32(&to)[4] = q[s * (SPAN / 16) + i];
          to[half] = BYTES ? pack_half(low_bf16(w.x), high_bf16(w.x)) : w.x;
          to[2 + half] = BYTES ? pack_half(low_bf16(w.y), high_bf16(w.y)) : w.y;
        }
      }
      top[half] = -INFINITE, sum[half] = 0;
    }
#pragma unroll
    for (int s = 0; s < VALUE_SPANS; s++)
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) o[s][j][i] = 0;
  }

  // take attends to a tile, whose positions from n on do not count. With TURN its
  // keys are rotated. c is the scale of scores in powers of two.
  template <bool TURN> __device__ __forceinline__ void take(const Tile &tile, int first, int n, const float2 *table, int pairs, float scale, int lane) {
    const int r = lane / 4, c = lane % 4;
    float s[2][4];
#pragma unroll
    for (int t = 0; t < 2; t++) {
      s[t][0] = s[t][1] = s[t][2] = s[t][3] = 0;
      const float2 *angles = TURN ? table + (long long)min(first + 8 * t + r, n - 1) * pairs : 0;
#pragma unroll
      for (int b = 0; b < SPANS; b++) {
        const uint32 words[4] = {tile.key[t][b].x, tile.key[t][b].y, tile.key[t][b].z, tile.key[t][b].w};
#pragma unroll
        for (int i = 0; i < SPAN / 16; i++) {
          uint32 lo, hi;
          if (BYTES)
            lo = low_bytes(words[i % 4]), hi = high_bytes(words[i % 4]);
          else
            lo = words[2 * i % 4], hi = words[(2 * i + 1) % 4];
          if (TURN) {
            const int pair = (b * SPAN + c * (SPAN / 4)) / 2 + 2 * i;
            lo = turned(lo, angles, pair, pairs), hi = turned(hi, angles, pair + 1, pairs);
          }
          multiply_tile<BYTES>(s[t], q[b * (SPAN / 16) + i], lo, hi);
        }
      }
#if CACHE == 8
      const float a = low_bf16(tile.key_scale[t]), b = high_bf16(tile.key_scale[t]);
      s[t][0] *= a, s[t][1] *= b, s[t][2] *= a, s[t][3] *= b;
#endif
      const int p = first + 8 * t + 2 * c;
      if (first + TILE > n) {
        if (p >= n) s[t][0] = s[t][2] = -INFINITE;
        if (p + 1 >= n) s[t][1] = s[t][3] = -INFINITE;
      }
    }
    raise(s, scale);
#pragma unroll
    for (int half = 0; half < (WIDE ? 2 : 1); half++) {
      const float shift = top[half] * scale;
#pragma unroll
      for (int t = 0; t < 2; t++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          s[t][2 * half + i] = exp2_fast(s[t][2 * half + i] * scale - shift);
          sum[half] += s[t][2 * half + i];
        }
    }
    if (!WIDE) s[0][2] = s[0][3] = s[1][2] = s[1][3] = 0;
    add_values(tile, s);
  }

  // raise keeps the maximum of every head near enough that no exponential of a
  // score above it overflows, and rescales what was summed where it rises.
  __device__ __forceinline__ void raise(const float (&s)[2][4], float scale) {
    const float slack = 6 / scale;
    float high[2];
    bool above = false;
#pragma unroll
    for (int half = 0; half < (WIDE ? 2 : 1); half++) {
      high[half] = fmaxf(fmaxf(s[0][2 * half], s[0][2 * half + 1]), fmaxf(s[1][2 * half], s[1][2 * half + 1]));
      above |= high[half] > top[half] + slack;
    }
    if (!__any_sync(~0u, above)) return;
#pragma unroll
    for (int half = 0; half < (WIDE ? 2 : 1); half++) {
      float t = fmaxf(high[half], top[half]);
      t = fmaxf(t, __shfl_xor_sync(~0u, t, 1));
      t = fmaxf(t, __shfl_xor_sync(~0u, t, 2));
      const float f = top[half] == -INFINITE ? 0 : exp2_fast((top[half] - t) * scale);
      top[half] = t;
      sum[half] *= f;
#pragma unroll
      for (int v = 0; v < VALUE_SPANS; v++)
#pragma unroll
        for (int j = 0; j < 8; j++) o[v][j][2 * half] *= f, o[v][j][2 * half + 1] *= f;
    }
  }

  __device__ __forceinline__ void add_values(const Tile &tile, const float (&s)[2][4]) {
    uint32 p[4];
#pragma unroll
    for (int t = 0; t < 2; t++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
#if CACHE == 8
        p[2 * t + half] = pack_half(s[t][2 * half] * low_bf16(tile.value_scale[t]), s[t][2 * half + 1] * high_bf16(tile.value_scale[t]));
#else
        p[2 * t + half] = pack_bf16(s[t][2 * half], s[t][2 * half + 1]);
#endif
      }
#pragma unroll
    for (int v = 0; v < VALUE_SPANS; v++) {
#if CACHE == 8
#pragma unroll
      for (int w = 0; w < 2; w++) {
        const uint32 a = w ? tile.value[0][v].y : tile.value[0][v].x, b = w ? tile.value[1][v].y : tile.value[1][v].x;
        const uint32 d = w ? tile.value[2][v].y : tile.value[2][v].x, e = w ? tile.value[3][v].y : tile.value[3][v].x;
        const uint32 ab0 = permute_bytes(a, b, 0x5140), ab1 = permute_bytes(a, b, 0x7362);
        const uint32 de0 = permute_bytes(d, e, 0x5140), de1 = permute_bytes(d, e, 0x7362);
        multiply_tile<true>(o[v][4 * w], p, low_bytes(ab0), low_bytes(de0));
        multiply_tile<true>(o[v][4 * w + 1], p, high_bytes(ab0), high_bytes(de0));
        multiply_tile<true>(o[v][4 * w + 2], p, low_bytes(ab1), low_bytes(de1));
        multiply_tile<true>(o[v][4 * w + 3], p, high_bytes(ab1), high_bytes(de1));
      }
#else
#pragma unroll
      for (int j = 0; j < 8; j++) {
        uint32 word[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const uint4 x = tile.value[i][v];
          word[i] = j / 2 == 0 ? x.x : j / 2 == 1 ? x.y : j / 2 == 2 ? x.z : x.w;
        }
        const uint32 selector = j % 2 ? 0x7632 : 0x5410;
        multiply_tile<false>(o[v][j], p, permute_bytes(word[0], word[1], selector), permute_bytes(word[2], word[3], selector));
      }
#endif
    }
  }

  // put stores the state of the warp's heads, SLOT floats a head.
  __device__ __forceinline__ void put(float *slots, int group, int lane) {
    const int r = lane / 4, c = lane % 4;
#pragma unroll
    for (int half = 0; half < (WIDE ? 2 : 1); half++) {
      float total = sum[half];
      total += __shfl_xor_sync(~0u, total, 1);
      total += __shfl_xor_sync(~0u, total, 2);
      if (r + 8 * half >= group) continue;
      float *slot = slots + (r + 8 * half) * SLOT;
#pragma unroll
      for (int v = 0; v < VALUE_SPANS; v++)
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
          for (int j = 0; j < 8; j += 4)
            *(float4 *)(slot + 64 * v + 16 * c + 8 * i + j) =
                make_float4(o[v][j][2 * half + i], o[v][j + 1][2 * half + i], o[v][j + 2][2 * half + i], o[v][j + 3][2 * half + i]);
      if (c == 0) slot[D] = top[half], slot[D + 1] = total;
    }
  }
};

#endif
