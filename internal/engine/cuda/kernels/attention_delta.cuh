// delta = the sum over a head's channels of dout * out, which the backward pass
// subtracts from the gradient of the probabilities.
#pragma once
#include "common.cuh"

// Grid: ceil(tokens / 8) blocks of 256 threads, a warp for each token.
extern "C" __global__ void __launch_bounds__(256) attention_delta(const element *out, const element *dout, float *delta, int batch, int length, int heads, int out_stride,
                                                                  int dout_stride) {
  const int PIECES = HEAD_SIZE / 8;
  const int LANES = PIECES <= 4 ? 4 : PIECES <= 8 ? 8 : PIECES <= 16 ? 16 : 32;
  const int lane = threadIdx.x % 32, piece = lane % LANES;
  const long long token = (long long)blockIdx.x * 8 + threadIdx.x / 32;
  if (token >= (long long)batch * length) return;
  const long long b = token / length, at = token - b * length;
  for (int h0 = 0; h0 < heads; h0 += 32 / LANES) {
    const int h = h0 + lane / LANES;
    float sum = 0;
    if (h < heads && piece < PIECES) {
      float x[8], y[8];
      load8(out + token * out_stride + h * HEAD_SIZE + piece * 8, x);
      load8(dout + token * dout_stride + h * HEAD_SIZE + piece * 8, y);
#pragma unroll
      for (int i = 0; i < 8; i++) sum += x[i] * y[i];
    }
#pragma unroll
    for (int d = LANES / 2; d > 0; d >>= 1) sum += __shfl_xor_sync(~0u, sum, d);
    if (piece == 0 && h < heads) delta[(b * heads + h) * length + at] = sum;
  }
}
