// CPU twins: internal/op/embed.go, layernorm.go, rotary.go, cached.go, gelu.go.
//
// What a decoding step does besides attention and matrix products. Rows of tokens
// are [tokens, columns] with a row stride in elements, a multiple of 8.
#include "decode.cuh"

// deal gives every team of the attention an equal share of all work, in order: place b
// is where team b begins, and place teams where all ends. A key/value head counts for
// its units of positions and rest more, which its end takes. Where teams would have less
// than two units, or a head more than 64 teams (PARTS in decode_attention.cu), the last
// teams get none.
__device__ __forceinline__ void deal(const int *seen, int rows, int kv_heads, int unit, int rest, int2 *places, int teams) {
  __shared__ long long warps[32];
  __shared__ int most;
  if (threadIdx.x == 0) most = 0;
  __syncthreads();
  const int each = div_up(rows, blockDim.x), from = min(threadIdx.x * each, rows), to = min(from + each, rows);
  long long mine = 0, total;
  for (int r = from; r < to; r++) {
    const int units = div_up(seen[r], unit) + rest;
    mine += (long long)units * kv_heads;
    atomicMax(&most, units);
  }
  long long at = block_scan(mine, warps, total) - mine;
  const long long shares = min(min((long long)teams, (total + 1) / 2), total * 62 / most);
  // Team b begins at unit b * total / shares, rounded down.
  long long b = (at * shares + total - 1) / total;
  for (int r = from; r < to; r++) {
    const int units = div_up(seen[r], unit) + rest;
    const long long next = at + (long long)units * kv_heads;
    for (; b < shares; b++) {
      const long long start = b * total / shares;
      if (start >= next) break;
      const int offset = (int)(start - at), head = r * kv_heads + offset / units, within = offset % units;
      places[b] = within < units - rest ? make_int2(head, within) : make_int2(head + 1, 0);
    }
    at = next;
  }
  for (int i = (int)shares + threadIdx.x; i <= teams; i += blockDim.x) places[i] = make_int2(rows * kv_heads, 0);
}

// decode_begin starts a step, and counts it: every row has one token more, seen[row]
// in all, the last at position[row]; x, in float32, are the tokens' rows of the
// embedding. Block 0 deals the work of attention in units of positions, unless unit
// is 0. Grid: 1 + ceil(rows * hidden / 8 / 1024) blocks of 1024.
extern "C" __global__ void __launch_bounds__(1024)
    decode_begin(const int *tokens, const element *table, float *x, int *seen, int *position, int *step, int rows, int hidden, int kv_heads, int unit, int rest, int2 *places,
                 int teams) {
  begin_early();
  wait_for_previous();
  if (blockIdx.x == 0) {
    for (int r = threadIdx.x; r < rows; r += blockDim.x) position[r] = seen[r]++;
    if (threadIdx.x == 0) ++*step;
    __syncthreads();
    if (unit) deal(seen, rows, kv_heads, unit, rest, places, teams);
    return;
  }
  const int pieces = hidden / 8;
  const long long at = (blockIdx.x - 1) * 1024ll + threadIdx.x;
  if (at >= (long long)rows * pieces) return;
  const long long row = at / pieces, c = at % pieces * 8;
  float v[8];
  load8(table + (long long)tokens[row] * hidden + c, v);
  store8(x + row * hidden + c, v);
}

// decode_embed is the same without counting: x of any tokens. Grid:
// ceil(tokens * hidden / 8 / 256) blocks of 256.
extern "C" __global__ void __launch_bounds__(256) decode_embed(const int *tokens, const element *table, float *x, int count, int hidden) {
  const int pieces = hidden / 8;
  const long long at = blockIdx.x * 256ll + threadIdx.x;
  if (at >= (long long)count * pieces) return;
  const long long row = at / pieces, c = at % pieces * 8;
  float v[8];
  load8(table + (long long)tokens[row] * hidden + c, v);
  store8(x + row * hidden + c, v);
}

// decode_gather copies the rows of x that index names. Grid: count blocks of 128.
extern "C" __global__ void __launch_bounds__(128) decode_gather(const element *x, const int *index, element *out, int hidden) {
  const uint4 *from = (const uint4 *)(x + (long long)index[blockIdx.x] * hidden);
  uint4 *to = (uint4 *)(out + (long long)blockIdx.x * hidden);
  for (int i = threadIdx.x; i < hidden * (int)sizeof(element) / 16; i += 128) to[i] = from[i];
}

// decode_norm normalises rows of x to mean 0 and variance 1; gain and bias, if not
// null, follow. A warp takes a row. Grid: ceil(rows / 4) blocks of 128.
extern "C" __global__ void __launch_bounds__(128) decode_norm(const float *x, const float *gain, const float *bias, element *out, int rows, int hidden, float eps) {
  begin_early();
  wait_for_previous();
  const int row = blockIdx.x * 4 + threadIdx.x / 32;
  if (row < rows) norm_row(x + (long long)row * hidden, gain, bias, out + (long long)row * hidden, hidden, eps);
}

// decode_gelu: y = gelu(y + bias). Grid: ceil(rows * columns / 8 / 256) blocks of
// 256.
extern "C" __global__ void __launch_bounds__(256) decode_gelu(element *y, const float *bias, int rows, int columns, int stride) {
  begin_early();
  wait_for_previous();
  const int pieces = columns / 8;
  const long long at = blockIdx.x * 256ll + threadIdx.x;
  if (at >= (long long)rows * pieces) return;
  const int c = (int)(at % pieces) * 8;
  element *p = y + at / pieces * stride + c;
  float v[8], b[8];
  load8(p, v), load8(bias + c, b);
#pragma unroll
  for (int j = 0; j < 8; j++) v[j] = gelu(v[j] + b[j]);
  store8(p, v);
}

// decode_split finishes the fused projection of a layer, y [tokens, keys | values |
// queries | mlp], in place: it adds the bias, rotates queries and keys, puts keys
// and values of the positions below limit into the cache and takes the GELU of mlp.
// A layer that borrows has kv_columns 0, a residual in sequence mlp_columns 0. Keys
// are cached unrotated if unrotated is 1. Token t is row first + t / length at
// position t % length, or row t at positions[t] where positions is not null. Keys
// and values as borrowers see them go to borrowed [tokens, keys | values], too, if
// it is not null. Grid: tokens blocks of 256; dynamic shared memory: kv_columns / 4
// floats with CACHE 8.
extern "C" __global__ void __launch_bounds__(256)
    decode_split(element *y, int stride, const float *bias, int kv_columns, int query_columns, int mlp_columns, int head_size, const float2 *table, int pairs,
                 const int *positions, int first, int length, int limit, int rows, cached *keys, cached *values, bf16 *key_scales, bf16 *value_scales, int capacity, int unrotated,
                 element *borrowed) {
  extern __shared__ float greatest[];
  begin_early();
  wait_for_previous();
  const int token = blockIdx.x;
  int row = token, position;
  if (positions) {
    position = positions[token];
  } else {
    row = first + token / length, position = token % length;
    if (row >= rows) return;
  }
  element *line = y + (long long)token * stride;
  const int kv_heads = kv_columns / head_size;
  const bool keep = position < limit;
  const int keep_columns = 2 * kv_columns;
  const int columns = keep_columns + query_columns + mlp_columns;
  for (int c = threadIdx.x * 8; c < columns; c += 256 * 8) {
    float v[8], b[8];
    load8(line + c, v), load8(bias + c, b);
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] += b[j];
    if (c >= keep_columns + query_columns) {
#pragma unroll
      for (int j = 0; j < 8; j++) v[j] = gelu(v[j]);
      store8(line + c, v);
      continue;
    }
    const bool key = c < kv_columns, value = !key && c < keep_columns;
    const int within = (key ? c : value ? c - kv_columns : c - keep_columns) % head_size;
    float t[8];
#pragma unroll
    for (int j = 0; j < 8; j++) t[j] = v[j];
    if (!value) turn_pairs(t, table, position, within / 2, pairs);
    store8(line + c, t);
    if (c >= keep_columns) continue;
    if (!(key && unrotated)) {
#pragma unroll
      for (int j = 0; j < 8; j++) v[j] = t[j];
    }
    if (borrowed) store8(borrowed + (long long)token * keep_columns + c, v);
#if CACHE == 8
    float high = 0;
#pragma unroll
    for (int j = 0; j < 8; j++) high = fmaxf(high, fabsf(v[j]));
    greatest[c / 8] = high;
#else
    if (keep) {
      const int head = (key ? c : c - kv_columns) / head_size;
      store8((key ? keys : values) + (((long long)row * kv_heads + head) * capacity + position) * head_size + within, v);
    }
#endif
  }
#if CACHE == 8
  __syncthreads();
  if (!keep) return;
  for (int c = threadIdx.x * 8; c < keep_columns; c += 256 * 8) {
    const bool key = c < kv_columns;
    const int at = key ? c : c - kv_columns, head = at / head_size, within = at % head_size;
    float high = 0;
    for (int i = 0; i < head_size / 8; i++) high = fmaxf(high, greatest[(c - within) / 8 + i]);
    // The scale is rounded up, so that no byte leaves its range.
    bf16 scale = to_bf16(high / 127);
    if (to_float(scale) * 127 < high) scale.bits++;
    const float inverse = high > 0 ? 1 / to_float(scale) : 0;
    // Read again, as the cache is to hold them.
    float v[8];
    load8(line + c, v);
    if (key && unrotated) {
      // What was stored is rotated; turning back costs less than keeping both.
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (within / 2 + i >= pairs) break;
        const float2 w = table[(long long)position * pairs + within / 2 + i];
        const float p = v[2 * i], q = v[2 * i + 1];
        v[2 * i] = p * w.x + q * w.y, v[2 * i + 1] = q * w.x - p * w.y;
      }
    }
    const long long slot = ((long long)row * kv_heads + head) * capacity + position;
    uint32 bytes[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < 8; j++) bytes[j / 4] |= (uint32)(min(max(__float2int_rn(v[j] * inverse), -127), 127) + 128) << 8 * (j % 4);
    *(uint2 *)((key ? keys : values) + slot * head_size + within) = make_uint2(bytes[0], bytes[1]);
    if (within == 0) (key ? key_scales : value_scales)[slot] = scale;
  }
#endif
}

// decode_fill makes count cached elements (or scales) random: uniform from -1 to 1
// by a hash of seed and place, and with CACHE 8 all bytes and scales of 1/127.
// Grid: any number of blocks of 256.
extern "C" __global__ void __launch_bounds__(256) decode_fill(cached *p, long long count, uint64 seed) {
  for (long long at = blockIdx.x * 256ll + threadIdx.x; at < count; at += 256ll * gridDim.x) {
    uint64 h = (seed + (uint64)at) * 0x9e3779b97f4a7c15ull;  // splitmix64
    h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9ull;
    h = (h ^ h >> 27) * 0x94d049bb133111ebull;
    h ^= h >> 31;
#if CACHE == 8
    p[at] = (uint8)(1 + (h >> 40) % 255);
#else
    p[at] = to_element((float)(h >> 40) * (2.f / (1 << 24)) - 1);
#endif
  }
}

// decode_lengths sets seen of every row. Grid: ceil(rows / 256) blocks of 256.
extern "C" __global__ void __launch_bounds__(256) decode_lengths(int *seen, int rows, int length) {
  const int r = blockIdx.x * 256 + threadIdx.x;
  if (r < rows) seen[r] = length;
}
