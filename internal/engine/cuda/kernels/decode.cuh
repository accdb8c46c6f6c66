// What the kernels of incremental decoding share.
#pragma once
#include "common.cuh"

// CACHE is the number of bits of a cached key or value: that of an activation, or
// 8: an unsigned byte u stands for (u - 128) * scale, with one scale for each
// position and head.
#ifndef CACHE
#define CACHE STORAGE
#endif
#if CACHE == 8
typedef uint8 cached;
#else
typedef element cached;
#endif

// A kernel of a step may begin before the one ahead of it has ended. begin_early
// lets the next one do so; wait_for_previous returns once all that the kernels
// ahead wrote can be read. What comes before it may only read weights.
__device__ __forceinline__ void begin_early() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// stream_load reads 16 bytes that are used once and not written by this kernel or
// one that may still run.
__device__ __forceinline__ uint4 stream_load(const void *p) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}
__device__ __forceinline__ uint2 stream_load8(const void *p) {
  uint2 v;
  asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}

// fresh_load reads what another block of this kernel wrote.
__device__ __forceinline__ float fresh_load(const float *p) {
  float v;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(p) : "memory");
  return v;
}

__device__ __forceinline__ uint32 permute_bytes(uint32 a, uint32 b, uint32 selector) {
  uint32 r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(selector));
  return r;
}

// multiply_tile adds the product of a 16 x 16 and a 16 x 8 tile, in the register
// layout of mma.m16n8k16, in bf16 or, with HALF, in fp16.
template <bool HALF> __device__ __forceinline__ void multiply_tile(float (&c)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
  if (HALF)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32 pack_half(float lo, float hi) {
  uint32 r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
__device__ __forceinline__ void unpack_half(uint32 pair, float &lo, float &hi) {
  asm("{.reg .f16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}" : "=f"(lo), "=f"(hi) : "r"(pair));
}

// gelu is the exact one, x * Phi(x). In bf16 the error function is Abramowitz and
// Stegun 7.1.26, within 1.5e-7.
__device__ __forceinline__ float gelu(float x) {
#if STORAGE == 16
  const float z = fabsf(x) * 0.70710678118654752f, e = exp2_fast(x * x * (-0.5f * LOG2E));
  float t;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(t) : "f"(1 + 0.3275911f * z));
  const float tail = 0.5f * e * t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  return x * (x < 0 ? tail : 1 - tail);
#else
  return x * 0.5f * erfcf(-x * 0.70710678118654752f);
#endif
}

// turn_pairs rotates four neighbouring pairs of channels, the first of which is
// pair number first, at a position: the decoder keeps the channels that rotary
// pairs next to each other. table is [position, pairs] of cosine and sine.
__device__ __forceinline__ void turn_pairs(float (&x)[8], const float2 *table, long long position, int first, int pairs) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (first + i >= pairs) break;
    const float2 w = table[position * pairs + first + i];
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * w.x - b * w.y;
    x[2 * i + 1] = b * w.x + a * w.y;
  }
}

// Choice is the most likely token of a part of the vocabulary: the first of the
// greatest logits, or -1, with an infinite logit, where one is not a number.
struct Choice {
  float logit;
  int token;
  __device__ __forceinline__ void take(Choice o) {
    if (o.logit > logit || (o.logit == logit && o.token < token)) *this = o;
  }
  __device__ __forceinline__ void take_lane(int distance) { take({__shfl_xor_sync(~0u, logit, distance), __shfl_xor_sync(~0u, token, distance)}); }
};

// block_scan adds the values of the threads up to this one, and all of them, over a
// block of up to 1024.
template <class T> __device__ __forceinline__ T block_scan(T x, T *warps, T &all) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  T sum = x;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const T y = __shfl_up_sync(~0u, sum, d);
    if (lane >= d) sum += y;
  }
  __syncthreads();
  if (lane == 31) warps[warp] = sum;
  __syncthreads();
  T before = 0;
  all = 0;
  for (int w = 0; w < (int)blockDim.x / 32; w++) {
    if (w == warp) before = all;
    all += warps[w];
  }
  return before + sum;
}

// norm_row normalises a row of x to mean 0 and variance 1 by a warp; gain and bias,
// if not null, follow.
template <class T> __device__ __forceinline__ void norm_row(const T *x, const float *gain, const float *bias, element *out, int hidden, float eps) {
  const int KEPT = 4;  // pieces of 8 that a lane keeps between the passes
  const int lane = threadIdx.x % 32;
  float kept[KEPT][8], mean = 0, var = 0;
#pragma unroll
  for (int p = 0; p < KEPT; p++) {
    const int c = (p * 32 + lane) * 8;
    if (c >= hidden) break;
    load8(x + c, kept[p]);
#pragma unroll
    for (int j = 0; j < 8; j++) mean += kept[p][j];
  }
  for (int c = (KEPT * 32 + lane) * 8; c < hidden; c += 256)
    for (int j = 0; j < 8; j++) mean += to_float(x[c + j]);
  mean = warp_sum(mean) / hidden;
#pragma unroll
  for (int p = 0; p < KEPT; p++) {
    if ((p * 32 + lane) * 8 >= hidden) break;
#pragma unroll
    for (int j = 0; j < 8; j++) var += (kept[p][j] - mean) * (kept[p][j] - mean);
  }
  for (int c = (KEPT * 32 + lane) * 8; c < hidden; c += 256)
    for (int j = 0; j < 8; j++) var += (to_float(x[c + j]) - mean) * (to_float(x[c + j]) - mean);
  const float rstd = 1 / sqrtf(warp_sum(var) / hidden + eps);
  auto put = [&](int c, float(&v)[8]) {
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = (v[j] - mean) * rstd;
    if (gain) {
      float g[8], b[8];
      load8(gain + c, g), load8(bias + c, b);
#pragma unroll
      for (int j = 0; j < 8; j++) v[j] = v[j] * g[j] + b[j];
    }
    store8(out + c, v);
  };
#pragma unroll
  for (int p = 0; p < KEPT; p++) {
    const int c = (p * 32 + lane) * 8;
    if (c >= hidden) break;
    put(c, kept[p]);
  }
  for (int c = (KEPT * 32 + lane) * 8; c < hidden; c += 256) {
    float v[8];
    load8(x + c, v);
    put(c, v);
  }
}
