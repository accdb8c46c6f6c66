// CPU twin: internal/op/norm.go.
#include "tensors.cuh"

// gradient_squares: parts[block] = sum of squares of the block's gradients.
// Grid: sum over tensors of ceil(size / 8192) blocks of 256.
extern "C" __global__ void __launch_bounds__(256) gradient_squares(const Tensor *tensors, int count, double *parts) {
  __shared__ double sums[8];
  const Tensor t = find_tensor(tensors, count, blockIdx.x);
  const long long first = (long long)(blockIdx.x - t.first_block) * TENSOR_BLOCK, limit = min(t.size - first, (long long)TENSOR_BLOCK);
  const float *g = t.gradient + first;
  float s = 0;
#pragma unroll
  for (int i = 0; i < TENSOR_BLOCK / 1024; i++) {
    const int at = (i * 256 + threadIdx.x) * 4;
    if (at + 4 <= limit) {
      const float4 v = *(const float4 *)(g + at);
      s += v.x * v.x + v.y * v.y + (v.z * v.z + v.w * v.w);
    } else {
      for (int j = at; j < limit; j++) s += g[j] * g[j];
    }
  }
  double d = s;
#pragma unroll
  for (int k = 16; k > 0; k >>= 1) d += __shfl_xor_sync(~0u, d, k);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = d;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < 8; w++) d += sums[w];
    parts[blockIdx.x] = d;
  }
}

// gradient_factor turns the parts into norm and factor, counts the step and
// computes AdamW's bias corrections. A gradient or loss that is not finite
// gives factor 0 and skipped 1, and the step is not counted. One block of 1024.
extern "C" __global__ void __launch_bounds__(1024) gradient_factor(const double *parts, int count, State *state) {
  __shared__ double sums[32];
  double d = 0;
#pragma unroll 8
  for (int i = threadIdx.x; i < count; i += 1024) d += parts[i];
#pragma unroll
  for (int k = 16; k > 0; k >>= 1) d += __shfl_xor_sync(~0u, d, k);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = d;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < 32; w++) d += sums[w];
  State s = *state;
  const double mean = s.counted > 0 ? 1.0 / s.counted : 1;
  const double norm = sqrt(d) * mean;
  s.norm = (float)norm;
  const double losses = s.loss + s.divergence;
  s.skipped = !(norm < 1e30 && losses - losses == 0);
  double factor = mean;
  if (s.clip > 0) factor *= min(1.0, s.clip / (norm + 1e-6));
  s.factor = s.skipped ? 0 : (float)factor;
  if (!s.skipped) {
    s.steps++;
    s.correction1 = (float)(1 - pow((double)s.beta1, (double)s.steps));
    s.correction2 = (float)(1 - pow((double)s.beta2, (double)s.steps));
  }
  *state = s;
}
