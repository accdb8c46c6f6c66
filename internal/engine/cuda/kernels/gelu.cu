// CPU twin: internal/op/gelu.go.
#include "columns.cuh"

// gelu_parts gives Phi(x), the normal distribution, and its density. The error
// function is Abramowitz and Stegun 7.1.26 (1.5e-7) for bf16, which shares the
// exponential with the density; float32 uses the exact one.
__device__ __forceinline__ void gelu_parts(float x, float &phi, float &density) {
#if STORAGE == 16
  const float z = fabsf(x) * 0.70710678118654752f, e = exp2_fast(x * x * (-0.5f * LOG2E));
  float t;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(t) : "f"(1 + 0.3275911f * z));
  const float tail = 0.5f * e * t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  phi = x < 0 ? tail : 1 - tail;
  density = 0.39894228040143268f * e;
#else
  phi = 0.5f * erfcf(-x * 0.70710678118654752f);
  density = 0.39894228040143268f * expf(-0.5f * x * x);
#endif
}

__device__ __forceinline__ void add_bias(float (&u)[8], const float *bias, int c) {
  if (!bias) return;
  float b[8];
  load8(bias + c, b);
#pragma unroll
  for (int j = 0; j < 8; j++) u[j] += b[j];
}

// gelu_forward: y = gelu(u + bias), bias may be null; u is kept for the backward
// pass. columns is a multiple of 8; stride is y's row stride in elements. Grid: ceil(rows * columns / 8 / 256) blocks
// of 256.
extern "C" __global__ void __launch_bounds__(256) gelu_forward(const element *u, const float *bias, element *y, int rows, int columns, int stride) {
  const int pieces = columns / 8;
  const long long at = (long long)blockIdx.x * 256 + threadIdx.x;
  if (at >= (long long)rows * pieces) return;
  float x[8];
  load8(u + at * 8, x);
  const long long row = at / pieces;
  const int c = (int)(at - row * pieces) * 8;
  add_bias(x, bias, c);
#pragma unroll
  for (int j = 0; j < 8; j++) {
    float phi, density;
    gelu_parts(x[j], phi, density);
    x[j] *= phi;
  }
  store8(y + row * stride + c, x);
}

// gelu_backward: du = dy * gelu'(u + bias), which may overwrite dy, and sums of
// du's columns to parts [gridDim.y, columns] (null: none) for bias_gradient_add. dy and
// du have row strides in elements.
// Grid: (ceil(columns / 256), parts) blocks of (32, 8).
extern "C" __global__ void __launch_bounds__(256) gelu_backward(const element *dy, const element *u, const float *bias, element *du, float *parts, int rows, int columns, int dy_stride,
                                                                   int du_stride) {
  const int c = blockIdx.x * 256 + threadIdx.x * 8;
  float sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  if (c < columns) {
    float b[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    add_bias(b, bias, c);
#pragma unroll 2
    for (int r = blockIdx.y * COLUMN_WARPS + threadIdx.y; r < rows; r += gridDim.y * COLUMN_WARPS) {
      float x[8], g[8];
      load8(u + (long long)r * columns + c, x);
      load8(dy + (long long)r * dy_stride + c, g);
#pragma unroll
      for (int j = 0; j < 8; j++) {
        float phi, density;
        x[j] += b[j];
        gelu_parts(x[j], phi, density);
        g[j] *= phi + x[j] * density;
        sum[j] += g[j];
      }
      store8(du + (long long)r * du_stride + c, g);
    }
  }
  if (parts) put_part(sum, parts, columns, c);
}
