// CPU twin: internal/op/embed.go.
#include "common.cuh"

// embed_forward: out[i] = table[tokens[i]]; hidden is a multiple of 8.
// Grid: ceil(tokens * hidden / 8 / 256) blocks of 256.
extern "C" __global__ void __launch_bounds__(256) embed_forward(const int *tokens, const element *table, element *out, int count, int hidden) {
  const int pieces = hidden / 8;
  const long long at = (long long)blockIdx.x * 256 + threadIdx.x;
  if (at >= (long long)count * pieces) return;
  const int i = (int)(at / pieces), c = (int)(at - (long long)i * pieces) * 8;
  float x[8];
  load8(table + (long long)tokens[i] * hidden + c, x);
  store8(out + (long long)i * hidden + c, x);
}

// The backward pass sums the gradients of all positions of a token in an order
// that does not depend on scheduling: positions are sorted by token (stable
// radix sort, two passes of eight bits; ids are below 65536), then summed in
// chunks of 32 sorted positions, then runs that cross chunks are joined.

const int SORT_BLOCK = 1024;
const int CHUNK = 32;

// embed_sort_count: counts[digit * blocks + block] = keys of the block with the digit.
// Grid: ceil(count / 1024) blocks of 1024.
extern "C" __global__ void __launch_bounds__(1024) embed_sort_count(const int *keys, int *counts, int count, int shift) {
  __shared__ int digits[256];
  if (threadIdx.x < 256) digits[threadIdx.x] = 0;
  __syncthreads();
  const int at = blockIdx.x * SORT_BLOCK + threadIdx.x;
  if (at < count) atomicAdd(&digits[keys[at] >> shift & 255], 1);
  __syncthreads();
  if (threadIdx.x < 256) counts[threadIdx.x * gridDim.x + blockIdx.x] = digits[threadIdx.x];
}

// embed_sort_scan replaces size counts by the sum of those before. One block of 1024.
extern "C" __global__ void __launch_bounds__(1024) embed_sort_scan(int *counts, int size) {
  __shared__ int sums[32];
  const int per = div_up(size, 1024), first = threadIdx.x * per, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int own = 0;
  for (int i = first; i < min(first + per, size); i++) own += counts[i];
  int before = own;
#pragma unroll
  for (int d = 1; d < 32; d <<= 1) {
    int other = __shfl_up_sync(~0u, before, d);
    if (lane >= d) before += other;
  }
  if (lane == 31) sums[warp] = before;
  __syncthreads();
  if (warp == 0) {
    int s = sums[lane];
#pragma unroll
    for (int d = 1; d < 32; d <<= 1) {
      int other = __shfl_up_sync(~0u, s, d);
      if (lane >= d) s += other;
    }
    sums[lane] = s;
  }
  __syncthreads();
  before += (warp > 0 ? sums[warp - 1] : 0) - own;
  for (int i = first; i < min(first + per, size); i++) {
    int c = counts[i];
    counts[i] = before;
    before += c;
  }
}

// embed_sort_scatter moves keys and positions to their places for one digit;
// positions_in may be null, meaning 0, 1, 2, ... Grid as embed_sort_count.
extern "C" __global__ void __launch_bounds__(1024) embed_sort_scatter(const int *keys_in, const int *positions_in, int *keys_out, int *positions_out, const int *counts, int count,
                                                                       int shift) {
  __shared__ int before[32][256];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, at = blockIdx.x * SORT_BLOCK + threadIdx.x;
  for (int i = threadIdx.x; i < 32 * 256; i += 1024) (&before[0][0])[i] = 0;
  __syncthreads();
  const bool exists = at < count;
  const int key = exists ? keys_in[at] : 0, digit = key >> shift & 255;
  const uint32 same = __match_any_sync(~0u, exists ? digit : 256 + lane);
  const int rank = __popc(same & ((1u << lane) - 1));
  if (exists && rank == 0) before[warp][digit] = __popc(same);
  __syncthreads();
  if (threadIdx.x < 256) {
    int sum = 0;
    for (int w = 0; w < 32; w++) {
      int c = before[w][threadIdx.x];
      before[w][threadIdx.x] = sum;
      sum += c;
    }
  }
  __syncthreads();
  if (exists) {
    const int to = counts[digit * gridDim.x + blockIdx.x] + before[warp][digit] + rank;
    keys_out[to] = key;
    positions_out[to] = positions_in ? positions_in[at] : at;
  }
}

// embed_backward adds the gradients of runs inside a chunk to the table's
// gradient; runs that reach a chunk's border go to first[chunk] and last[chunk]
// (float32, [chunks, hidden] each). Grid: (ceil(count / 32), ceil(hidden / 1024))
// blocks of 128.
extern "C" __global__ void __launch_bounds__(128) embed_backward(const int *keys, const int *positions, const element *dout, float *dtable, float *first, float *last, int count,
                                                                  int hidden) {
  const int c = (blockIdx.y * 128 + threadIdx.x) * 8, chunk = blockIdx.x, begin = chunk * CHUNK, end = min(begin + CHUNK, count);
  if (c >= hidden) return;
  float sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  int start = begin;
  for (int i = begin; i < end; i++) {
    float x[8];
    load8(dout + (long long)positions[i] * hidden + c, x);
#pragma unroll
    for (int j = 0; j < 8; j++) sum[j] += x[j];
    const int key = keys[i];
    if (i + 1 < end && keys[i + 1] == key) continue;
    const bool from_before = start == begin && begin > 0 && keys[begin - 1] == key;
    const bool goes_on = i + 1 == end && end < count && keys[end] == key;
    if (from_before || goes_on) {
      store8((from_before ? first : last) + (long long)chunk * hidden + c, sum);
    } else {
      float *to = dtable + (long long)key * hidden + c, y[8];
      load8(to, y);
#pragma unroll
      for (int j = 0; j < 8; j++) y[j] += sum[j];
      store8(to, y);
    }
#pragma unroll
    for (int j = 0; j < 8; j++) sum[j] = 0;
    start = i + 1;
  }
}

// embed_backward_join adds the runs that cross chunks: the chunk where a run
// starts sums its parts in order. Grid and block as embed_backward.
extern "C" __global__ void __launch_bounds__(128) embed_backward_join(const int *keys, float *dtable, const float *first, const float *last, int count, int hidden) {
  const int c = (blockIdx.y * 128 + threadIdx.x) * 8, chunk = blockIdx.x, begin = chunk * CHUNK, end = begin + CHUNK;
  if (c >= hidden || end >= count) return;
  const int key = keys[end];
  if (keys[end - 1] != key) return;                                     // no run crosses this border
  if (begin > 0 && keys[begin - 1] == key && keys[begin] == key) return;  // it started in an earlier chunk
  float sum[8], x[8];
  load8(last + (long long)chunk * hidden + c, sum);
  for (int k = chunk + 1; k * CHUNK < count && keys[k * CHUNK] == key; k++) {
    load8(first + (long long)k * hidden + c, x);
#pragma unroll
    for (int j = 0; j < 8; j++) sum[j] += x[j];
    if (keys[min(k * CHUNK + CHUNK, count) - 1] != key) break;
  }
  float *to = dtable + (long long)key * hidden + c;
  load8(to, x);
#pragma unroll
  for (int j = 0; j < 8; j++) x[j] += sum[j];
  store8(to, x);
}
