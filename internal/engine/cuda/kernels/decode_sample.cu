// CPU twin: internal/infer/sample.go.
//
// The choice of the next token from logits [rows, vocab] in float32, a block of
// 1024 for each row. Probabilities are counted in whole multiples of 2^-40 of the
// greatest, so that sums do not depend on their order.
#include "decode.cuh"

// How tokens are chosen; infer.Sampling on the device.
struct Sampling {
  double temperature;  // 0: the most likely token
  double top_p;        // 1: all
  uint64 seed, first_row;
  int top_k;  // 0: all
  int step;   // of the draw, counted by decode_begin
};

const int THREADS = 1024;
const double ONE = 1099511627776.0;  // 2^40

// The order of keys is that of the floats.
__device__ __forceinline__ uint32 key_of(float x) {
  const uint32 b = __float_as_uint(x);
  return b ^ (b >> 31 ? 0xffffffffu : 0x80000000u);
}

struct Logits {
  const float *row;
  int vocab;
  float greatest;
  double temperature;
  // weight is the probability relative to the greatest one, in units of 2^-40.
  __device__ __forceinline__ uint64 weight(float x) const { return __double2ull_rn(exp(((double)x - greatest) / temperature) * ONE); }
};

// most_likely finds the first of the greatest logits; -1 where one is not a number.
__device__ __forceinline__ int most_likely(const float *row, int vocab, float &greatest) {
  __shared__ float values[32];
  __shared__ int tokens[32];
  float best = -INFINITE;
  int token = vocab, bad = 0;
  for (int c = threadIdx.x * 4; c < vocab; c += THREADS * 4) {
    const float4 v = *(const float4 *)(row + c);
    const float x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
      bad |= x[j] != x[j];
      if (x[j] > best || token == vocab) best = x[j], token = c + j;
    }
  }
  bad = __syncthreads_or(bad);
  auto better = [](float x, int i, float y, int j) { return x > y || (x == y && i < j); };
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    const float x = __shfl_xor_sync(~0u, best, d);
    const int i = __shfl_xor_sync(~0u, token, d);
    if (better(x, i, best, token)) best = x, token = i;
  }
  if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = best, tokens[threadIdx.x / 32] = token;
  __syncthreads();
  best = values[threadIdx.x % 32], token = tokens[threadIdx.x % 32];
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    const float x = __shfl_xor_sync(~0u, best, d);
    const int i = __shfl_xor_sync(~0u, token, d);
    if (better(x, i, best, token)) best = x, token = i;
  }
  greatest = best;
  return bad ? -1 : token;
}

// total adds f of every token.
template <class F> __device__ __forceinline__ uint64 total(const Logits &l, F f) {
  __shared__ uint64 warps[32];
  uint64 sum = 0, all;
  for (int c = threadIdx.x; c < l.vocab; c += THREADS) sum += f(l.row[c]);
  block_scan(sum, warps, all);
  return all;
}

// in_order finds the first token, by number, where the running sum of f exceeds
// target, which is less than the whole sum.
template <class F> __device__ __forceinline__ int in_order(const Logits &l, uint64 target, F f) {
  __shared__ uint64 warps[32];
  __shared__ int found;
  const int each = div_up(l.vocab, THREADS), from = min((int)threadIdx.x * each, l.vocab), to = min(from + each, l.vocab);
  uint64 sum = 0, all;
  for (int c = from; c < to; c++) sum += f(l.row[c]);
  uint64 before = block_scan(sum, warps, all) - sum;
  if (before <= target && target < before + sum)
    for (int c = from; c < to; c++) {
      before += f(l.row[c]);
      if (before > target) {
        found = c;
        break;
      }
    }
  __syncthreads();
  const int token = found;
  __syncthreads();
  return token;
}

// Spot is a place in the order of falling logits, equal ones by number: the key of
// its token, and how many with the same key come before.
struct Spot {
  uint32 key;
  uint64 rank;
};

// descending finds the place where the running sum of f, which depends on the logit
// alone, exceeds target.
template <class F> __device__ __forceinline__ Spot descending(const Logits &l, uint64 target, F f) {
  __shared__ unsigned long long bins[256];
  __shared__ uint32 chosen;
  __shared__ uint64 rest;
  uint32 prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += THREADS) bins[i] = 0;
    __syncthreads();
    for (int c = threadIdx.x; c < l.vocab; c += THREADS) {
      const uint32 key = key_of(l.row[c]);
      if (shift == 24 || key >> (shift + 8) == prefix >> (shift + 8)) atomicAdd(bins + (key >> shift & 255), f(l.row[c]));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int b = 255;
      for (; b > 0 && bins[b] <= target; b--) target -= bins[b];
      chosen = prefix | (uint32)b << shift, rest = target;
    }
    __syncthreads();
    prefix = chosen, target = rest;
    __syncthreads();
  }
  const float x = __uint_as_float(prefix ^ (prefix >> 31 ? 0x80000000u : 0xffffffffu));
  const uint64 each = f(x);
  return {prefix, each ? target / each : 0};
}

__device__ __forceinline__ uint64 uniform(uint64 seed, uint64 row, uint32 step) {
  uint32 c[4] = {step, (uint32)row, (uint32)(row >> 32), 0}, key[2] = {(uint32)seed, (uint32)(seed >> 32)};
#pragma unroll
  for (int i = 0; i < 10; i++) {
    const uint64 p = (uint64)0xd2511f53u * c[0], q = (uint64)0xcd9e8d57u * c[2];
    c[0] = (uint32)(q >> 32) ^ c[1] ^ key[0], c[1] = (uint32)q;
    c[2] = (uint32)(p >> 32) ^ c[3] ^ key[1], c[3] = (uint32)p;
    key[0] += 0x9e3779b9u, key[1] += 0xbb67ae85u;
  }
  return (uint64)(c[0] >> 5) << 26 | c[1] >> 6;  // 53 bits
}

// draw chooses as infer.Sampler.Pick does, with a number of 53 random bits.
__device__ __forceinline__ int draw(const Logits &l, const Sampling &s, uint64 u) {
  auto weight = [&](float x) { return l.weight(x); };
  auto share = [&](uint64 all) { return __umul64hi(u << 11, all); };
  const bool by_p = s.top_p > 0 && s.top_p < 1, by_k = s.top_k > 0 && s.top_k < l.vocab;
  if (!by_p && !by_k && s.top_k == 0) return in_order(l, share(total(l, weight)), weight);
  uint64 kept = 0;
  if (by_k) {
    const Spot last = descending(l, s.top_k - 1, [](float) { return 1ull; });
    kept = total(l, [&](float x) { return key_of(x) > last.key ? l.weight(x) : 0; });
    kept += (last.rank + 1) * l.weight(__uint_as_float(last.key ^ (last.key >> 31 ? 0x80000000u : 0xffffffffu)));
  } else {
    kept = total(l, weight);
  }
  if (by_p) {
    const uint64 limit = __double2ull_ru(s.top_p * (double)kept);
    const Spot last = descending(l, (limit > 0 ? limit : 1) - 1, weight);
    kept = total(l, [&](float x) { return key_of(x) > last.key ? l.weight(x) : 0; });
    kept += (last.rank + 1) * l.weight(__uint_as_float(last.key ^ (last.key >> 31 ? 0x80000000u : 0xffffffffu)));
  }
  const Spot at = descending(l, share(kept), weight);
  return in_order(l, at.rank, [&](float x) -> uint64 { return key_of(x) == at.key; });
}

// decode_sample chooses the token of each of the rows from first on; what it chose
// goes to tokens and to the slot of the step in ring [slots, all]: memory of the host.
extern "C" __global__ void __launch_bounds__(THREADS)
    decode_sample(const float *logits, int vocab, const Sampling *sampling, int first, int all, int *tokens, int *ring, int slots) {
  begin_early();
  wait_for_previous();
  const Sampling s = *sampling;
  const int row = first + blockIdx.x;
  Logits l = {logits + (long long)blockIdx.x * vocab, vocab, 0, s.temperature};
  int token = most_likely(l.row, vocab, l.greatest);
  if (s.temperature > 0 && token >= 0) token = draw(l, s, uniform(s.seed, s.first_row + row, s.step));
  if (threadIdx.x == 0) {
    tokens[row] = token < 0 ? 0 : token;
    ring[(long long)(s.step % slots) * all + row] = token;
  }
}
