// Types and primitives that every kernel shares. NVRTC compiles the kernels on
// the user's machine without any toolkit header, so whatever is needed beyond
// the compiler's built-in types is declared here.
//
// STORAGE is the number of bits of an activation: 16 (bfloat16) or 32 (float).
#pragma once

#ifndef STORAGE
#define STORAGE 16
#endif

typedef unsigned char uint8;
typedef unsigned short uint16;
typedef unsigned int uint32;
typedef unsigned long long uint64;

// bf16 is the upper half of a float.
struct bf16 {
  uint16 bits;
};

#if STORAGE == 16
typedef bf16 element;
#elif STORAGE == 32
typedef float element;
#else
#error "STORAGE must be 16 or 32"
#endif

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((uint32)x.bits << 16); }

__device__ __forceinline__ bf16 to_bf16(float x) {
  bf16 r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(x));
  return r;
}

// pack_bf16 rounds two floats to a pair; lo is the element at the lower address.
__device__ __forceinline__ uint32 pack_bf16(float lo, float hi) {
  uint32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}

__device__ __forceinline__ float low_bf16(uint32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_bf16(uint32 pair) { return __uint_as_float(pair & 0xffff0000u); }

template <class T> struct Convert;
template <> struct Convert<float> {
  static __device__ __forceinline__ float from(float x) { return x; }
};
template <> struct Convert<bf16> {
  static __device__ __forceinline__ bf16 from(float x) { return to_bf16(x); }
};
__device__ __forceinline__ element to_element(float x) { return Convert<element>::from(x); }

// Eight elements at a time: 16 bytes of bf16, 32 bytes of float. Addresses are
// aligned to 16 bytes.
__device__ __forceinline__ void load8(const bf16 *p, float (&x)[8]) {
  uint4 v = *(const uint4 *)p;
  x[0] = low_bf16(v.x), x[1] = high_bf16(v.x), x[2] = low_bf16(v.y), x[3] = high_bf16(v.y);
  x[4] = low_bf16(v.z), x[5] = high_bf16(v.z), x[6] = low_bf16(v.w), x[7] = high_bf16(v.w);
}
__device__ __forceinline__ void load8(const float *p, float (&x)[8]) {
  float4 a = ((const float4 *)p)[0], b = ((const float4 *)p)[1];
  x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}
__device__ __forceinline__ void store8(bf16 *p, const float (&x)[8]) {
  *(uint4 *)p = make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
}
__device__ __forceinline__ void store8(float *p, const float (&x)[8]) {
  ((float4 *)p)[0] = make_float4(x[0], x[1], x[2], x[3]);
  ((float4 *)p)[1] = make_float4(x[4], x[5], x[6], x[7]);
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(~0u, x, d);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
  return x;
}

// exp2_fast is 2^x by the special-function unit, within 2 ulp.
__device__ __forceinline__ float exp2_fast(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

#define INFINITE __int_as_float(0x7f800000)

const float LOG2E = 1.4426950408889634f;
const float LN2 = 0.6931471805599453f;

__host__ __device__ constexpr int div_up(int a, int b) { return (a + b - 1) / b; }
