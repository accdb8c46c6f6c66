// CPU twins: internal/op/linear.go, cached.go, layernorm.go, rotary.go, gelu.go.
//
// A whole step of up to 16 rows in bf16, from tokens to logits, as one kernel whose
// blocks stay on the device, one a multiprocessor, and meet three times a layer. While
// a block waits for the others its copies of the weights, keys and values that it needs
// next go on. HIDDEN, INNER (of the MLP), KV_HEADS and
// HEAD_SIZE are the model's; WIDE_ROWS is 1 for more than 8 rows, TURN_KEYS where there are
// layers whose keys are cached unrotated.
#include "decode_heads.cuh"
#include "decode_stream.cuh"

#if STORAGE == 16 && CACHE == 16 && (HEAD_SIZE == 64 || HEAD_SIZE == 128) && __CUDA_ARCH__ >= 900

#if !defined(HIDDEN) || !defined(INNER) || !defined(KV_HEADS) || !defined(WIDE_ROWS) || !defined(TURN_KEYS)
#error "HIDDEN, INNER, KV_HEADS, WIDE_ROWS and TURN_KEYS are to be defined"
#endif

const int WIDTH = HIDDEN + INNER;                            // queries | mlp
const int GROUP = HIDDEN / D / KV_HEADS;                     // query heads of a key/value head
const int PITCH = HIDDEN + 8 * ((12 - HIDDEN / 8 % 8) % 8);  // of rows in shared memory: eight lanes that read 16 bytes each meet no bank twice
const int UNIT = WARPS * TILE;                               // positions that a block attends to at a time
const int UNIT_BYTES = UNIT * D * 2;                         // of its keys, and of its values
const int SHARERS = 46;                                      // blocks that share a key/value head, at most two more
const int TOGETHER = 12;                                     // partial results that are read at once

// Tiles and steps of a turn, such that what is on its way fits: what a block has of a
// layer's weights, if it can be.
const int IN_STEPS = HIDDEN > 1536 ? 1 : div_up(HIDDEN, 64 * WARPS);
const int IN_TILES = HIDDEN > 768 || WIDE_ROWS ? 2 : 3;
const int MOST_STEPS = HEAD_SIZE == 64 && !WIDE_ROWS ? 3 : HEAD_SIZE == 64 ? 2 : 1;
const int OUT_STEPS = div_up(WIDTH, 128 * WARPS) < MOST_STEPS ? div_up(WIDTH, 128 * WARPS) : MOST_STEPS;
typedef Stream<HIDDEN, IN_TILES, IN_STEPS, WIDE_ROWS> Inward;
typedef Stream<WIDTH, 1, OUT_STEPS, WIDE_ROWS> Outward;

// Threads, bytes of shared memory for what is on its way of the weights, and of the
// cache, columns of a group of tiles, floats of a head's partial result, elements
// from a row of activations to the next.
extern "C" __device__ const int decode_step_launch[6] = {THREADS, Inward::BYTES + Outward::BYTES, 2 * UNIT_BYTES, Inward::COLUMNS, SLOT, PITCH};

__device__ __forceinline__ void prefetch(const void *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

struct Layer {
  const bf16 *split, *out;  // [keys | values | queries | mlp, hidden] and [hidden, queries | mlp]
  const float *split_bias, *out_bias;
  bf16 *keys, *values;
  int kv_columns;  // of keys; 0 where they are borrowed
  int unrotated;   // 1: its keys are cached unrotated
};

// Work is a layer, and what is this block's of it. Behind the last layer there is the
// projection onto the vocabulary, as split.
struct Work {
  Share split, out;
  bf16 *keys, *values;  // null behind the last layer
  int kv_columns, unrotated;
};

struct Model {
  int rows, capacity, pairs;
  bf16 *y;  // [rows, WIDTH]; attention's result takes the place of queries
  const float2 *table;
  float *partial;  // [block, 2, GROUP, SLOT]
  int *arrived;    // [rows * KV_HEADS] units that are done; 0 before and after
  float scale;     // of scores in powers of two
};

// Deal gives every block an equal share of the cache: units of positions in order of
// rows, then key/value heads.
struct Deal {
  long long all;
  int blocks;           // that have any
  int from, to;         // units of this block
  int row, head, unit;  // where it begins
  __device__ __forceinline__ void make(const Model &m, const int *lengths) {
    all = 0, row = 0;
    int most = 1;
    for (int r = 0; r < m.rows; r++) {
      const int units = div_up(lengths[r], UNIT);
      all += (long long)units * KV_HEADS;
      most = max(most, units);
    }
    blocks = (int)min(min((long long)gridDim.x, all), max(all * SHARERS / most, 1ll));
    const bool idle = blockIdx.x >= blocks;
    from = idle ? 0 : (int)begin(blockIdx.x), to = idle ? 0 : (int)begin(blockIdx.x + 1);
    int rest = from;
    for (; row < m.rows - 1; row++) {
      const int units = div_up(lengths[row], UNIT) * KV_HEADS;
      if (rest < units) break;
      rest -= units;
    }
    const int units = div_up(lengths[row], UNIT);
    head = rest / units, unit = rest - head * units;
  }
  __device__ __forceinline__ long long begin(int block) const { return block * all / blocks; }
  // holder is the block that has a unit.
  __device__ __forceinline__ int holder(long long unit) const { return (int)(((unit + 1) * blocks + all - 1) / all) - 1; }
};

// Attention of a block over its share of the cache.
struct Attention {
  const Model &m;
  const int *lengths;
  const Deal &deal;
  char *held;      // a unit's keys and values
  float *states;   // in the same place, [WARPS, GROUP, SLOT]
  Barrier *there;  // the unit
  int warp, lane, parity;

  __device__ __forceinline__ Attention(const Model &m, const int *lengths, const Deal &deal, char *held, Barrier *there)
      : m(m), lengths(lengths), deal(deal), held(held), states((float *)held), there(there), warp(threadIdx.x / 32), lane(threadIdx.x % 32), parity(0) {}

  __device__ __forceinline__ Cache cache(const Work &l) const { return {l.keys, l.values, 0, 0, m.capacity}; }
  __device__ __forceinline__ long long base(int row, int head) const { return ((long long)row * KV_HEADS + head) * m.capacity; }
  __device__ __forceinline__ int position(int unit) const { return (unit * WARPS + warp) * TILE; }

  // bring orders a unit, to the place that every warp has left. Its newest position may
  // not have been written yet.
  __device__ __forceinline__ void bring(const Work &l, int row, int head, int unit) {
    if (threadIdx.x != PORTER * 32) return;
    const int bytes = min(UNIT, lengths[row] - unit * UNIT) * D * 2;
    const long long from = (base(row, head) + unit * UNIT) * D;
    fence_async_proxy();
    barrier_expect(there, 2 * bytes);
    bulk_copy(held, l.keys + from, bytes, there);
    bulk_copy(held + UNIT_BYTES, l.values + from, bytes, there);
  }

  // begin brings the first unit of a layer.
  __device__ __forceinline__ void begin(const Work &l) {
    if (l.keys && deal.from < deal.to) bring(l, deal.row, deal.head, deal.unit);
  }

  // run attends in a layer, whose first unit is on its way. order is called once, when
  // that and the first queries have come.
  template <class Order> __device__ __forceinline__ void run(const Work &l, Order order) {
    int row = deal.row, head = deal.head, unit = deal.unit;
    const int pairs = l.unrotated ? m.pairs : 0;
    for (int at = deal.from; at < deal.to;) {
      const int n = lengths[row], units = div_up(n, UNIT), stop = min(units, unit + deal.to - at), first = unit;
      bf16 *q = m.y + (long long)row * WIDTH + (long long)head * GROUP * D;
      Heads<(GROUP > 8)> heads;
      heads.start(q, GROUP, lane);
      for (; unit < stop; unit++) {
        barrier_wait(there, parity);
        parity ^= 1;
        const int p = position(unit);
        Tile tile;
        if (p + TILE < n) {
          const Cache here = {(const cached *)held, (const cached *)(held + UNIT_BYTES), 0, 0, UNIT};
          tile.load(here, -(long long)unit * UNIT, p, n, lane, [](const cached *from) { return *(const uint4 *)from; });
        } else if (p < n) {
          tile.load(cache(l), base(row, head), p, n, lane, [](const cached *from) { return fresh_load16(from); });
        }
        if (unit + 1 < stop) {
          __syncthreads();
          bring(l, row, head, unit + 1);
        }
        if (at == deal.from && unit == first) order();
        if (p < n) heads.template take<TURN_KEYS>(tile, p, n, m.table, pairs, m.scale, lane);
      }
      __syncthreads();
      heads.put(states + warp * GROUP * SLOT, GROUP, lane);
      __syncthreads();
      merge(row * KV_HEADS + head, at - first, first, stop, units, q);
      at += stop - first;
      unit = 0;
      if (++head == KV_HEADS) head = 0, row++;
      if (at < deal.to) {
        __syncthreads();
        bring(l, row, head, unit);
      }
    }
    if (deal.from == deal.to) order();
  }

 private:
  // merge adds up what the warps have of a head, and where other blocks have parts of
  // it the last of them to come adds these up. Units [from, to) of all units are this
  // block's; the head's first is number start of all.
  __device__ __forceinline__ void merge(int item, int start, int from, int to, int units, bf16 *out) {
    __shared__ int last, holder, count;
    const bool whole = from == 0 && to == units;
    float *mine = m.partial + (2ll * blockIdx.x + (start + from == deal.from ? 0 : 1)) * GROUP * SLOT;
    // Four channels a thread.
    for (int i = threadIdx.x; i < GROUP * D / 4; i += THREADS) {
      const int g = i / (D / 4), d = i % (D / 4) * 4;
      float top = -INFINITE, sum = 0;
      float4 o = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int w = 0; w < WARPS; w++) top = fmaxf(top, states[(w * GROUP + g) * SLOT + D]);
#pragma unroll
      for (int w = 0; w < WARPS; w++) {
        const float *slot = states + (w * GROUP + g) * SLOT;
        const float f = exp2_fast((slot[D] - top) * m.scale);
        add_to(o, f, *(const float4 *)(slot + d)), sum += f * slot[D + 1];
      }
      if (whole) {
        put4(out + g * D + d, o, 1 / sum);
      } else {
        *(float4 *)(mine + g * SLOT + d) = o;
        if (d == 0) mine[g * SLOT + D] = top, mine[g * SLOT + D + 1] = sum;
      }
    }
    if (whole) return;
    if (threadIdx.x == THREADS - 1) holder = deal.holder(start), count = deal.holder(start + units - 1) - holder + 1;
    __syncthreads();
    if (threadIdx.x == 0) {
      last = ordered_add(m.arrived + item, to - from) + (to - from) == units;
      if (last) m.arrived[item] = 0;
    }
    __syncthreads();
    if (!last) return;
    const int skip = deal.begin(holder) < start;
    for (int i = threadIdx.x; i < GROUP * D / 4; i += THREADS) {
      const int g = i / (D / 4), d = i % (D / 4) * 4;
      float top = -INFINITE, sum = 0;
      float4 o = make_float4(0, 0, 0, 0);
      for (int first = 0; first < count; first += TOGETHER) {
        uint4 x[TOGETHER];
        float t[TOGETHER], l[TOGETHER];
#pragma unroll
        for (int b = 0; b < TOGETHER; b++) {
          const int k = min(first + b, count - 1);
          const float *slot = m.partial + ((2ll * (holder + k) + (k == 0 ? skip : 0)) * GROUP + g) * SLOT;
          x[b] = fresh_load16(slot + d), t[b] = fresh_load(slot + D), l[b] = fresh_load(slot + D + 1);
        }
        float higher = top;
#pragma unroll
        for (int b = 0; b < TOGETHER; b++) higher = fmaxf(higher, t[b]);
        const float old = exp2_fast((top - higher) * m.scale);
        o = make_float4(o.x * old, o.y * old, o.z * old, o.w * old), sum *= old, top = higher;
#pragma unroll
        for (int b = 0; b < TOGETHER; b++) {
          const float f = first + b < count ? exp2_fast((t[b] - higher) * m.scale) : 0;
          add_to(o, f, make_float4(__uint_as_float(x[b].x), __uint_as_float(x[b].y), __uint_as_float(x[b].z), __uint_as_float(x[b].w))), sum += f * l[b];
        }
      }
      put4(out + g * D + d, o, 1 / sum);
    }
  }

  static __device__ __forceinline__ void add_to(float4 &sum, float f, float4 x) { sum.x += f * x.x, sum.y += f * x.y, sum.z += f * x.z, sum.w += f * x.w; }
  static __device__ __forceinline__ void put4(bf16 *to, float4 v, float f) { *(uint2 *)to = make_uint2(pack_bf16(v.x * f, v.y * f), pack_bf16(v.z * f, v.w * f)); }
};

// choose finds the most likely token of every row, of which this thread's best is one, by
// the last block that comes. They go to tokens and to a slot of ring; see decode_sample.
// choices is [rows, block], found [rows, candidates] in shared memory.
__device__ __forceinline__ void choose(Choice best, int row, int candidate, int candidates, int rows, Choice *found, Choice *choices, int *arrived, int *tokens, int *ring) {
  __shared__ int last;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Choice none = {-INFINITE, 0x7fffffff};
  __syncthreads();
  if (row < rows) found[row * candidates + candidate] = best;
  __syncthreads();
  for (int r = warp; r < rows; r += WARPS) {
    Choice c = none;
    for (int i = lane; i < candidates; i += 32) c.take(found[r * candidates + i]);
#pragma unroll
    for (int d = 16; d > 0; d /= 2) c.take_lane(d);
    if (lane == 0) choices[r * gridDim.x + blockIdx.x] = c;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    last = ordered_add(arrived, 1) + 1 == gridDim.x;
    if (last) *arrived = 0;
  }
  __syncthreads();
  if (!last) return;
  for (int r = warp; r < rows; r += WARPS) {
    Choice c = none;
    for (int i = lane; i < gridDim.x; i += 32) c.take(choices[r * gridDim.x + i]);
#pragma unroll
    for (int d = 16; d > 0; d /= 2) c.take_lane(d);
    if (lane == 0) tokens[r] = max(c.token, 0), ring[r] = c.token;
  }
}

// decode_step reads a token of each row and makes the logits of the next, or, with a
// ring, chooses the most likely one; every row has one token more then, seen[row] in
// all. x is the residual [rows, HIDDEN] in float32. meetings holds the arrivals of
// blocks, their number before this step, and those of choose. Grid: at most
// as many blocks of THREADS as are there at once (a cooperative launch); dynamic
// shared memory: decode_step_launch[1], angles of rows * pairs * 8 bytes and the layers,
// both rounded up to 16 together, and the greater of decode_step_launch[2] + 2 * WARPS *
// rows * Inward::COLUMNS * 4 + rows of activations (PITCH), and WARPS * GROUP * SLOT * 4.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    decode_step(const Layer *layers, int count, int *tokens, const bf16 *embed, const float *gain, const float *shift, const bf16 *head, int vocab, float *x, bf16 *y,
                float *logits, int rows, float eps, float scale, const float2 *table, int pairs, int capacity, int *seen, int *step, float *partial, int *arrived,
                uint32 *meetings, int *ring, int slots) {
  extern __shared__ __align__(16) char shared[];
  __shared__ int lengths[16];
  __shared__ Work works[2];  // this layer and the next
  __shared__ Deal deal;
  __shared__ Barrier there[5];  // two turns of each product, and a unit of the cache
  const Model m = {rows, capacity, pairs, y, table, partial, arrived, scale};
  const int warp = threadIdx.x / 32;
  Inward inward(shared, there);
  Outward outward(shared + Inward::BYTES, there + 2);
  float2 *angles = (float2 *)(shared + Inward::BYTES + Outward::BYTES);
  Layer *list = (Layer *)(angles + rows * pairs);
  char *held = (char *)(list + count) + (rows * pairs + count) % 2 * 8;
  float *parts = (float *)(held + 2 * UNIT_BYTES);
  bf16 *in = (bf16 *)(parts + 2 * WARPS * rows * Inward::COLUMNS);

  const Share none = {0, 0, 0, 0};
  auto prepare = [&](int l) {
    Work &w = works[l % 2];
    if (l == count) {
      w.split = share_of(head, 0, vocab, HIDDEN), w.out = none, w.keys = 0;
      return;
    }
    const Layer &from = list[l];
    w.split = share_of(from.split, from.split_bias, 2 * from.kv_columns + WIDTH, HIDDEN), w.out = share_of(from.out, from.out_bias, HIDDEN, WIDTH);
    w.keys = from.keys, w.values = from.values, w.kv_columns = from.kv_columns, w.unrotated = from.unrotated;
  };
  for (int i = threadIdx.x; i < count * (int)(sizeof(Layer) / 8); i += THREADS) ((uint64 *)list)[i] = ((const uint64 *)layers)[i];
  __syncthreads();
  if (threadIdx.x == 0) prepare(0);
  if (threadIdx.x < 5) barrier_init(there + threadIdx.x, 1);
  barrier_init_done();
  __syncthreads();
  inward.begin(works[0].split);
  wait_for_previous();

  if (threadIdx.x < rows) lengths[threadIdx.x] = seen[threadIdx.x] + 1;
  for (int i = threadIdx.x; i < rows * pairs; i += THREADS) angles[i] = table[(long long)seen[i / pairs] * pairs + i % pairs];
  for (int r = blockIdx.x; r < rows; r += gridDim.x)
    for (int c = threadIdx.x * 8; c < HIDDEN; c += THREADS * 8) {
      float v[8];
      load8(embed + (long long)tokens[r] * HIDDEN + c, v);
      store8(x + r * HIDDEN + c, v);
    }
  Meeting meeting = {meetings, meetings[1]};
  __syncthreads();
  if (threadIdx.x == 0) deal.make(m, lengths);
  __syncthreads();
  Attention attention(m, lengths, deal, held, there + 4);
  attention.begin(works[0]);

  const int slot = (*step + 1) % slots;  // of the ring
  auto zero = [](int, int) { return make_float2(0, 0); };
  auto normed = [&](int row, int at) { return *(const uint4 *)(in + row * PITCH + at); };
  for (int l = 0; l < count; l++) {
    const Work &work = works[l % 2], &next = works[(l + 1) % 2];
    if (threadIdx.x == PORTER * 32) prepare(l + 1);
    // Keys, values, queries and the inner layer of the MLP.
    if (l + 1 == count && threadIdx.x < HIDDEN / 32) prefetch(gain + 32 * threadIdx.x), prefetch(shift + 32 * threadIdx.x);
    if (l > 0) meeting.wait();
    for (int r = warp; r < rows; r += WARPS) {
      if (l == 0)
        norm_row(embed + (long long)tokens[r] * HIDDEN, 0, 0, in + r * PITCH, HIDDEN, eps);
      else
        norm_row(x + r * HIDDEN, 0, 0, in + r * PITCH, HIDDEN, eps);
    }
    __syncthreads();
    inward.multiply(work.split, rows, parts, normed, zero, [&](int row, int c, float2 v) {
      const int query = c - 2 * work.kv_columns;
      if (query >= HIDDEN) {
        *(uint32 *)(y + row * WIDTH + query) = pack_bf16(gelu(v.x), gelu(v.y));
        return;
      }
      const bool key = c < work.kv_columns, value = !key && query < 0;
      const int at = key ? c : value ? c - work.kv_columns : query, of = at / D, within = at - of * D;
      if (within / 2 < pairs && !value && !(key && work.unrotated)) {
        const float2 w = angles[row * pairs + within / 2];
        v = make_float2(v.x * w.x - v.y * w.y, v.y * w.x + v.x * w.y);
      }
      bf16 *to = y + row * WIDTH + query;
      if (query < 0) to = (key ? work.keys : work.values) + (((long long)row * KV_HEADS + of) * capacity + lengths[row] - 1) * D + within;
      *(uint32 *)to = pack_bf16(v.x, v.y);
    }, [&] { outward.begin(work.out); });
    meeting.arrive();
    meeting.wait();
    attention.run(work, [&] { inward.begin(next.split); });
    meeting.arrive();
    // Back to the residual.
    auto old = [&](int row, int column) {
      const float *at = x + row * HIDDEN + column;
      return make_float2(fresh_load(at), fresh_load(at + 1));
    };
    meeting.wait();
    outward.multiply(work.out, rows, parts, [&](int row, int at) { return fresh_load16(y + row * WIDTH + at); }, old,
                        [&](int row, int c, float2 v) { *(float2 *)(x + row * HIDDEN + c) = v; }, [&] { attention.begin(next); });
    meeting.arrive();
  }
  begin_early();
  meeting.wait();
  if (blockIdx.x == 0) {
    if (threadIdx.x < rows) seen[threadIdx.x] = lengths[threadIdx.x];
    if (threadIdx.x == 0) ++*step, meetings[1] = meeting.all;
  }
  for (int r = warp; r < rows; r += WARPS) norm_row(x + r * HIDDEN, gain, shift, in + r * PITCH, HIDDEN, eps);
  __syncthreads();
  Choice best = {-INFINITE, 0x7fffffff};
  inward.multiply(works[count % 2].split, rows, parts, normed, zero, [&](int row, int c, float2 v) {
    if (!ring) {
      *(float2 *)(logits + (long long)row * vocab + c) = v;
      return;
    }
    best.take({v.x, c}), best.take({v.y, c + 1});
    if (v.x != v.x || v.y != v.y) best = {INFINITE, -1};
  }, [] {});
  if (ring) choose(best, inward.row(), inward.pair(), Inward::COLUMNS / 2, rows, (Choice *)in, (Choice *)partial, (int *)meetings + 2, tokens, ring + slot * rows);
}

#endif
