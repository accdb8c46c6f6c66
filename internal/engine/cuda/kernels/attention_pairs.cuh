// Attention of float32 numbers by units that multiply bf16: tiles and operands are
// pairs (pairs.cu), and a product is three, the small ones first.
#pragma once

// A Tile holds the high parts, and behind them the low ones.
typedef uint32 Tile;
template <int R> __host__ __device__ constexpr int tile_size() { return 2 * tile_bytes<R, D>(); }
const int STAGE_BYTES = 0;

// split_pair rounds two floats to high and what they lack to low.
__device__ __forceinline__ void split_pair(float x, float y, uint32 &high, uint32 &low) {
  high = pack_bf16(x, y);
  low = pack_bf16(x - low_bf16(high), y - high_bf16(high));
}

__device__ __forceinline__ void put16(uint32 to, const uint32 (&v)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
}

template <int R, class Map> __device__ __forceinline__ void load_rows(Tile tile, const float *from, int stride, const Map &place) {
#pragma unroll 4
  for (int at = threadIdx.x; at < R * (D / 8); at += BLOCK) {
    const int row = at / (D / 8), c = at % (D / 8);
    const int n = place(row);
    float x[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (n >= 0) load8(from + (long long)n * stride + c * 8, x);
    uint32 high[4], low[4];
#pragma unroll
    for (int j = 0; j < 4; j++) split_pair(x[2 * j], x[2 * j + 1], high[j], low[j]);
    put16(tile + piece_offset<R>(row, c), high);
    put16(tile + tile_bytes<R, D>() + piece_offset<R>(row, c), low);
  }
}

// multiply_pairs: d (16 x 16) += a times b, whose fragments are those of multiply
// for columns 0 to 7 and 8 to 15.
__device__ __forceinline__ void multiply_pairs(float *d, const uint32 *high, const uint32 *low, const uint32 (&b_high)[4], const uint32 (&b_low)[4]) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    multiply(d + 4 * i, low, b_high[2 * i], b_high[2 * i + 1]);
    multiply(d + 4 * i, high, b_low[2 * i], b_low[2 * i + 1]);
    multiply(d + 4 * i, high, b_high[2 * i], b_high[2 * i + 1]);
  }
}

template <int A_ROWS, int N> __device__ __forceinline__ void rows_product(float (&s)[N / 2], Tile a, int row, Tile b, int lane) {
#pragma unroll
  for (int j = 0; j < N / 2; j++) s[j] = 0;
#pragma unroll
  for (int k = 0; k < D / 16; k++) {
    uint32 high[4], low[4], b_high[4], b_low[4];
    load_fragment<A_ROWS>(high, a, row, k, lane);
    load_fragment<A_ROWS>(low, a + tile_bytes<A_ROWS, D>(), row, k, lane);
#pragma unroll
    for (int j = 0; j < N / 16; j++) {
      const uint32 at = b + piece_offset<N>(16 * j + (lane & 7) + (lane >> 4) * 8, 2 * k + (lane >> 3 & 1));
      load_matrices<false>(b_high, at);
      load_matrices<false>(b_low, at + tile_bytes<N, D>());
      multiply_pairs(s + 8 * j, high, low, b_high, b_low);
    }
  }
}

template <int K> struct Operand {
  uint32 high[K / 4], low[K / 4];
  __device__ __forceinline__ Operand(const float (&s)[K / 2], char *, int) {
#pragma unroll
    for (int i = 0; i < K / 4; i++) split_pair(s[2 * i], s[2 * i + 1], high[i], low[i]);
  }
};

template <int K> __device__ __forceinline__ void add_product(float (&d)[D / 2], const Operand<K> &p, Tile b, int lane) {
#pragma unroll
  for (int k = 0; k < K / 16; k++)
#pragma unroll
    for (int j = 0; j < D / 16; j++) {
      uint32 b_high[4], b_low[4];
      const uint32 at = b + piece_offset<K>(16 * k + (lane & 15), 2 * j + (lane >> 4));
      load_matrices<true>(b_high, at);
      load_matrices<true>(b_low, at + tile_bytes<K, D>());
      multiply_pairs(d + 8 * j, p.high + 4 * k, p.low + 4 * k, b_high, b_low);
    }
}

__device__ __forceinline__ void store_pair(float *to, float x, float y) { *(float2 *)to = make_float2(x, y); }
__device__ __forceinline__ float power(float x) { return exp2f(x); }
__device__ __forceinline__ Tile tile_at(char *p) { return shared_address(p); }
