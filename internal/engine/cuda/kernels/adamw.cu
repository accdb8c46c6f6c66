// CPU twin: internal/op/adamw.go.
#include "tensors.cuh"

__device__ __forceinline__ void put_copy(element *to, float x, float y, float z, float w) {
#if STORAGE == 16
  *(uint2 *)to = make_uint2(pack_bf16(x, y), pack_bf16(z, w));
#else
  *(float4 *)to = make_float4(x, y, z, w);
#endif
}

struct Update {
  float beta1, beta2, eps, factor, shrink, rate, root;
  __device__ __forceinline__ void apply(float &w, float &m, float &v, float g) const {
    g *= factor;
    w *= shrink;
    m = beta1 * m + (1 - beta1) * g;
    v = beta2 * v + (1 - beta2) * g * g;
    w -= rate * m / (sqrtf(v) * root + eps);
  }
};

// adamw updates every tensor, writes the copies that the products read and clears
// the gradients that are added to. A step that gradient_factor skipped only clears.
// Grid: sum over tensors of ceil(size / 8192) blocks of 256.
extern "C" __global__ void __launch_bounds__(256) adamw(const Tensor *tensors, int count, const State *state) {
  const Tensor t = find_tensor(tensors, count, blockIdx.x);
  const long long first = (long long)(blockIdx.x - t.first_block) * TENSOR_BLOCK, limit = min(t.size - first, (long long)TENSOR_BLOCK);
  const State s = *state;
  Update u;
  u.beta1 = s.beta1, u.beta2 = s.beta2, u.eps = s.eps, u.factor = s.factor;
  u.shrink = t.decays ? 1 - s.rate * s.decay : 1;
  u.rate = s.rate / s.correction1, u.root = rsqrtf(s.correction2);
#pragma unroll 2
  for (int i = 0; i < TENSOR_BLOCK / 1024; i++) {
    const int in_block = (i * 256 + threadIdx.x) * 4;
    const long long at = first + in_block;
    if (in_block + 4 <= limit) {
      if (!s.skipped) {
        float4 g = *(float4 *)(t.gradient + at), w = *(float4 *)(t.weight + at), m = *(float4 *)(t.first + at), v = *(float4 *)(t.second + at);
        u.apply(w.x, m.x, v.x, g.x), u.apply(w.y, m.y, v.y, g.y), u.apply(w.z, m.z, v.z, g.z), u.apply(w.w, m.w, v.w, g.w);
        *(float4 *)(t.weight + at) = w, *(float4 *)(t.first + at) = m, *(float4 *)(t.second + at) = v;
        if (t.copy) put_copy(t.copy + at, w.x, w.y, w.z, w.w);
      }
      if (!t.replaced) *(float4 *)(t.gradient + at) = make_float4(0, 0, 0, 0);
    } else {
      for (int j = in_block; j < limit; j++) {
        const long long k = first + j;
        if (!s.skipped) {
          u.apply(t.weight[k], t.first[k], t.second[k], t.gradient[k]);
          if (t.copy) t.copy[k] = to_element(t.weight[k]);
        }
        if (!t.replaced) t.gradient[k] = 0;
      }
    }
  }
}

// adamw_clear readies the state for the next step's micro-batches. One block of 1.
extern "C" __global__ void adamw_clear(State *state) {
  state->loss = 0;
  state->divergence = 0;
  state->counted = 0;
}

// copy_weights rounds every weight to the copy that the products read. Grid and
// block as adamw.
extern "C" __global__ void __launch_bounds__(256) copy_weights(const Tensor *tensors, int count) {
  const Tensor t = find_tensor(tensors, count, blockIdx.x);
  if (!t.copy) return;
  const long long first = (long long)(blockIdx.x - t.first_block) * TENSOR_BLOCK;
  const long long limit = min(t.size, first + TENSOR_BLOCK);
  for (long long at = first + threadIdx.x; at < limit; at += 256) t.copy[at] = to_element(t.weight[at]);
}
