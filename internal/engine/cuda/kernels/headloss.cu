// CPU twins: internal/op/headloss.go, internal/op/distill.go.
//
// Compiled for one VOCAB, a multiple of 8. A block of 1024 threads takes one row
// of logits; in bf16 the row stays in registers between the passes.
#include "common.cuh"

#ifndef VOCAB
#error "VOCAB is the number of logits of a row"
#endif
const int THREADS = 1024;
const int PIECES = VOCAB / 8, ROUNDS = div_up(PIECES, THREADS);

#if STORAGE == 16
typedef uint4 Piece;
__device__ __forceinline__ void unpack(const Piece &v, float (&x)[8]) { load8((const bf16 *)&v, x); }
#endif

struct Row {
  const element *logits;
#if STORAGE == 16
  Piece pieces[ROUNDS];
#endif
  __device__ __forceinline__ Row(const element *logits) : logits(logits) {
#if STORAGE == 16
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
      const int p = i * THREADS + threadIdx.x;
      if (p < PIECES) pieces[i] = ((const uint4 *)logits)[p];
    }
#endif
  }
  // get reads piece i of this thread; columns p*8 to p*8+7.
  __device__ __forceinline__ void get(int i, float (&x)[8]) const {
#if STORAGE == 16
    const uint4 v = pieces[i];
    x[0] = low_bf16(v.x), x[1] = high_bf16(v.x), x[2] = low_bf16(v.y), x[3] = high_bf16(v.y);
    x[4] = low_bf16(v.z), x[5] = high_bf16(v.z), x[6] = low_bf16(v.w), x[7] = high_bf16(v.w);
#else
    load8(logits + (i * THREADS + threadIdx.x) * 8, x);
#endif
  }
};

// block_max and block_sum combine one value of each of 1024 threads, in a fixed order.
template <bool SUM> __device__ __forceinline__ float combine(float x) {
  __shared__ float values[32];
  x = SUM ? warp_sum(x) : warp_max(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = x;
  __syncthreads();
  x = values[threadIdx.x % 32];
  return SUM ? warp_sum(x) : warp_max(x);
}

__device__ __forceinline__ void log_sum(const Row &row, float &top, float &sum) {
  float t = -INFINITE;
#pragma unroll
  for (int i = 0; i < ROUNDS; i++) {
    if (i * THREADS + threadIdx.x >= PIECES) break;
    float x[8];
    row.get(i, x);
#pragma unroll
    for (int j = 0; j < 8; j++) t = fmaxf(t, x[j]);
  }
  top = combine<false>(t);
  float s = 0;
#pragma unroll
  for (int i = 0; i < ROUNDS; i++) {
    if (i * THREADS + threadIdx.x >= PIECES) break;
    float x[8];
    row.get(i, x);
#pragma unroll
    for (int j = 0; j < 8; j++) s += exp2_fast((x[j] - top) * LOG2E);
  }
  sum = combine<true>(s);
}

// head_loss: loss[r] = -log softmax(logits[r])[targets[r]], and logits become
// their gradient times scale; both 0 where the target is negative (ignored).
// Grid: rows blocks of 1024; stride is the row stride of logits, a multiple of 8.
extern "C" __global__ void __launch_bounds__(1024, 1) head_loss(element *logits, const int *targets, float *loss, int rows, long long stride, float scale) {
  element *line = logits + blockIdx.x * stride;
  const int target = targets[blockIdx.x];
  if (target < 0) {
    const float zero[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (int p = threadIdx.x; p < PIECES; p += THREADS) store8(line + p * 8, zero);
    if (threadIdx.x == 0) loss[blockIdx.x] = 0;
    return;
  }
  const float picked = to_float(line[target]);
  const Row row(line);
  float top, sum;
  log_sum(row, top, sum);
  if (threadIdx.x == 0) loss[blockIdx.x] = logf(sum) + top - picked;
  const float factor = scale / sum;
#pragma unroll
  for (int i = 0; i < ROUNDS; i++) {
    const int p = i * THREADS + threadIdx.x;
    if (p >= PIECES) break;
    float x[8];
    row.get(i, x);
#pragma unroll
    for (int j = 0; j < 8; j++) x[j] = exp2_fast((x[j] - top) * LOG2E) * factor - (p * 8 + j == target ? scale : 0);
    store8(line + p * 8, x);
  }
}

// head_distill: entropy[r] is head_loss's loss, divergence[r] = KL(p || q) of the
// distributions p of the teacher's logits and q of the model's, both divided by
// temperature; logits become the gradient of
// (1 - weight) entropy + weight temperature^2 divergence. All 0 where ignored.
// The teacher's row is read twice, as two rows do not fit into the registers.
// Grid and stride as head_loss.
extern "C" __global__ void __launch_bounds__(1024, 1) head_distill(element *logits, const element *teacher, const int *targets, float *entropy, float *divergence,
                                                                   int rows, long long stride, float weight, float temperature) {
  element *line = logits + blockIdx.x * stride;
  const element *taught = teacher + blockIdx.x * stride;
  const int target = targets[blockIdx.x];
  if (target < 0) {
    const float zero[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (int p = threadIdx.x; p < PIECES; p += THREADS) store8(line + p * 8, zero);
    if (threadIdx.x == 0) entropy[blockIdx.x] = divergence[blockIdx.x] = 0;
    return;
  }
  const float picked = to_float(line[target]);
  const Row row(line);
  float top = -INFINITE, top_taught = -INFINITE;
#pragma unroll
  for (int i = 0; i < ROUNDS; i++) {
    const int p = i * THREADS + threadIdx.x;
    if (p >= PIECES) break;
    float x[8], y[8];
    row.get(i, x), load8(taught + p * 8, y);
#pragma unroll
    for (int j = 0; j < 8; j++) top = fmaxf(top, x[j]), top_taught = fmaxf(top_taught, y[j]);
  }
  top = combine<false>(top), top_taught = combine<false>(top_taught);

  // Sums of the exponentials of the model's logits, of both at temperature, and
  // of p (log p - log q), the last without denominators.
  const float soft = LOG2E / temperature;
  float sum = 0, sum_soft = 0, sum_taught = 0, gap = 0;
#pragma unroll
  for (int i = 0; i < ROUNDS; i++) {
    const int p = i * THREADS + threadIdx.x;
    if (p >= PIECES) break;
    float x[8], y[8];
    row.get(i, x), load8(taught + p * 8, y);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const float a = x[j] - top, b = y[j] - top_taught, e = exp2_fast(b * soft);
      sum += exp2_fast(a * LOG2E), sum_soft += exp2_fast(a * soft), sum_taught += e, gap += e * (b - a);
    }
  }
  sum = combine<true>(sum), sum_soft = combine<true>(sum_soft), sum_taught = combine<true>(sum_taught), gap = combine<true>(gap);
  if (threadIdx.x == 0) {
    entropy[blockIdx.x] = logf(sum) + top - picked;
    divergence[blockIdx.x] = gap / (sum_taught * temperature) - logf(sum_taught) + logf(sum_soft);
  }
  const float hard = 1 - weight, pull = weight * temperature;
  const float by = hard / sum, by_soft = pull / sum_soft, by_taught = pull / sum_taught;
#pragma unroll
  for (int i = 0; i < ROUNDS; i++) {
    const int p = i * THREADS + threadIdx.x;
    if (p >= PIECES) break;
    float x[8], y[8];
    row.get(i, x), load8(taught + p * 8, y);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const float a = x[j] - top;
      x[j] = exp2_fast(a * LOG2E) * by + (exp2_fast(a * soft) * by_soft - exp2_fast((y[j] - top_taught) * soft) * by_taught) - (p * 8 + j == target ? hard : 0);
    }
    store8(line + p * 8, x);
  }
}

// head_score: likelihood[r] = log softmax(logits[r])[targets[r]] and greedy[r] =
// 1 if the target is the first of the greatest logits; 0 and 0 where ignored.
// Grid and stride as head_loss.
extern "C" __global__ void __launch_bounds__(1024, 1) head_score(const element *logits, const int *targets, float *likelihood, int *greedy, int rows, long long stride) {
  const element *line = logits + blockIdx.x * stride;
  const int target = targets[blockIdx.x];
  if (target < 0) {
    if (threadIdx.x == 0) likelihood[blockIdx.x] = 0, greedy[blockIdx.x] = 0;
    return;
  }
  const float picked = to_float(line[target]);
  const Row row(line);
  float top, sum, beaten = 0;
  log_sum(row, top, sum);
#pragma unroll
  for (int i = 0; i < ROUNDS; i++) {
    const int p = i * THREADS + threadIdx.x;
    if (p >= PIECES) break;
    float x[8];
    row.get(i, x);
#pragma unroll
    for (int j = 0; j < 8; j++) beaten = x[j] > picked || (x[j] == picked && p * 8 + j < target) ? 1 : beaten;
  }
  beaten = combine<false>(beaten);
  if (threadIdx.x == 0) likelihood[blockIdx.x] = picked - top - logf(sum), greedy[blockIdx.x] = beaten == 0;
}

// loss_sum adds the losses of a micro-batch, its divergences from a teacher
// unless null, and the number of its targets that count, to *total, *diverged and
// *counted. One block of 1024.
extern "C" __global__ void __launch_bounds__(1024) loss_sum(const float *loss, const float *divergence, const int *targets, double *total, double *diverged, int *counted, int rows) {
  __shared__ double sums[32], others[32];
  __shared__ int counts[32];
  double s = 0, o = 0;
  int n = 0;
  for (int i = threadIdx.x; i < rows; i += 1024) {
    s += loss[i], n += targets[i] >= 0;
    if (divergence) o += divergence[i];
  }
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) s += __shfl_xor_sync(~0u, s, d), o += __shfl_xor_sync(~0u, o, d), n += __shfl_xor_sync(~0u, n, d);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = s, others[threadIdx.x / 32] = o, counts[threadIdx.x / 32] = n;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < 32; w++) s += sums[w], o += others[w], n += counts[w];
    *total += s;
    *diverged += o;
    *counted += n;
  }
}
