// CPU twin: internal/op/rotary.go.
#include "common.cuh"

// rotary_table: table[position * pairs + p] = cos and sin of
// position * base^(-p / pairs), in float32 as the reference implementation
// computes them. Grid: ceil(length * pairs / 256) blocks of 256.
extern "C" __global__ void __launch_bounds__(256) rotary_table(float2 *table, int length, int pairs, float base) {
  const long long at = blockIdx.x * 256ll + threadIdx.x;
  if (at >= (long long)length * pairs) return;
  const int position = (int)(at / pairs), p = (int)(at - (long long)position * pairs);
  const float inverse = (float)(1.0 / pow((double)base, (double)p / pairs));
  const float angle = (float)position * inverse;
  table[at] = make_float2((float)cos((double)angle), (float)sin((double)angle));
}

template <class Position>
__device__ __forceinline__ void turn(element *x, const float2 *table, const Position &position, int tokens, int heads, int head_size, int pairs, int stride, float direction) {
  const bool wide = pairs % 8 == 0;
  const int lanes = wide ? pairs / 8 : pairs;
  const long long at = (long long)blockIdx.x * 256 + threadIdx.x;
  if (at >= (long long)tokens * heads * lanes) return;
  const int lane = (int)(at % lanes);
  const long long rest = at / lanes;
  const int h = (int)(rest % heads);
  const long long token = rest / heads;
  element *head = x + token * stride + (long long)h * head_size;
  const float2 *line = table + position(token) * pairs;
  if (wide) {
    float a[8], b[8];
    load8(head + lane * 8, a);
    load8(head + pairs + lane * 8, b);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const float2 w = line[lane * 8 + j];
      const float p = a[j], q = b[j], s = w.y * direction;
      a[j] = p * w.x - q * s;
      b[j] = q * w.x + p * s;
    }
    store8(head + lane * 8, a);
    store8(head + pairs + lane * 8, b);
  } else {
    const float2 w = line[lane];
    const float p = to_float(head[lane]), q = to_float(head[pairs + lane]), s = w.y * direction;
    head[lane] = to_element(p * w.x - q * s);
    head[pairs + lane] = to_element(q * w.x + p * s);
  }
}

// rotary turns the pairs (p, p + pairs) of each head of x [tokens, heads,
// head_size] (row stride in elements) in place by their position's angle times
// direction: 1 forward, -1 backward. Grid: ceil(tokens * heads * lanes / 256)
// blocks of 256, with lanes = pairs / 8 if 8 divides pairs, else pairs.
extern "C" __global__ void __launch_bounds__(256) rotary(element *x, const float2 *table, int tokens, int length, int heads, int head_size, int pairs, int stride, float direction) {
  turn(x, table, [=](long long token) { return token % length; }, tokens, heads, head_size, pairs, stride, direction);
}

// rotary_at turns every token by the angle of its own position, forward. Grid as
// rotary.
extern "C" __global__ void __launch_bounds__(256) rotary_at(element *x, const float2 *table, const int *positions, int tokens, int heads, int head_size, int pairs, int stride) {
  turn(x, table, [=](long long token) { return positions[token]; }, tokens, heads, head_size, pairs, stride, 1);
}
