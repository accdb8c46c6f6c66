// CPU twin: internal/op/segment.go.
//
// Causal attention over a stream of tokens that holds many sequences, whose
// first tokens several of them may have in common. Compiled for one HEAD_SIZE,
// STORAGE and WARPS_OF_A_BLOCK; matrices lie as in attention.cu.
#include "attention_tiles.cuh"

// Queries are up to ROWS tokens of one segment: the place of the tokens before
// the segment and how many they are, the place of its first token, how many of
// its tokens come before the first query, and how many queries there are.
struct Queries {
  int prefix, prefix_length, first, skipped, count;
};

const int SHARED_SEGMENTS = 1024 + tile_size<ROWS>() + 2 * tile_size<OTHERS>() + STAGE_BYTES;

// attention_segments: every query attends to its prefix and to its segment up to
// itself. The order of additions is that of the keys in the sequence, so a row
// depends on nothing but its own sequence, wherever it lies. Grid: length of
// queries, heads.
extern "C" __global__ void __launch_bounds__(BLOCK)
    attention_segments(const element *q, const element *k, const element *v, element *out, const Queries *queries, int heads, int kv_heads, int q_stride, int k_stride, int v_stride,
                       int out_stride, float scale) {
  char *shared = aligned_shared();
  const Tile q_tile = tile_at(shared), k_tile = tile_at(shared + tile_size<ROWS>()), v_tile = tile_at(shared + tile_size<ROWS>() + tile_size<OTHERS>());
  char *stage = shared + tile_size<ROWS>() + 2 * tile_size<OTHERS>();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Queries b = queries[blockIdx.x];
  const int h = blockIdx.y, kv = h / (heads / kv_heads);
  const int query = b.first + b.skipped;                                // place of the first query
  const int row = b.prefix_length + b.skipped + 16 * warp + lane / 4;   // place in the sequence of this thread's first row
  const int keys = b.prefix_length + b.skipped + b.count;
  const float c = scale * LOG2E;
  Softmax softmax;
  float s[OTHERS / 2];
  load_tile<ROWS>(q_tile, q + h * D, q_stride, query, query + b.count);
  for (int n = 0; n < div_up(keys, OTHERS); n++) {
    if (n > 0) __syncthreads();
    const auto place = [=](int i) {
      const int at = n * OTHERS + i;
      return at < b.prefix_length ? b.prefix + at : at < keys ? b.first + at - b.prefix_length : -1;
    };
    load_rows<OTHERS>(k_tile, k + kv * D, k_stride, place);
    load_rows<OTHERS>(v_tile, v + kv * D, v_stride, place);
    copies_done();
    rows_product<ROWS, OTHERS>(s, q_tile, 16 * warp, k_tile, lane);
    softmax.add(s, n * OTHERS, row, c, v_tile, stage, lane);
  }
  softmax.total();
  put_rows(out + h * D, out_stride, query + 16 * warp, query + b.count, softmax.o, 1 / softmax.sum[0], 1 / softmax.sum[1], lane);
}

extern "C" __constant__ const int segments_launch[3] = {BLOCK, SHARED_SEGMENTS, ROWS};
