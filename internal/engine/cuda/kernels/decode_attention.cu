// CPU twin: internal/op/cached.go.
//
// Attention of one new query in each row over the keys and values in the cache,
// [batch, kv_head, position, HEAD_SIZE] each. All query heads of a key/value head
// share one read. decode_attention keeps the tensor cores fed from registers and
// has head sizes 64 and 128 in 16 bits; decode_attention_plain has all.
#include "decode_heads.cuh"

#if STORAGE == 16 && (HEAD_SIZE == 64 || HEAD_SIZE == 128)

// A team of 4 warps works by itself on its share; TEAMS fill a multiprocessor as one
// block.
const int WARPS = 4;
const int TEAM = WARPS * 32;
const int TEAMS = HEAD_SIZE == 64 ? 3 : 2;
const int UNIT = WARPS * TILE;  // positions that a team takes at a time
const int PARTS = 64;            // teams that may share a key/value head; see deal in decode.cu
const int BATCH = 8;             // partial results that are read at once
// Floats of shared memory that a team needs to merge parts.
const int MERGE = 2 * PARTS * 16 + 16 + TEAM * 4;
// What the end of a head takes, in units of positions.
const int REST = 2;
// Teams of a block, positions of a unit, floats of a head's partial result, and of
// shared memory that a team needs at least, and the end of a head in units.
extern "C" __device__ const int decode_attention_launch[5] = {TEAMS, UNIT, SLOT, MERGE, REST};

// Place is where a team's share of the work begins: a row's key/value head, and
// in it a unit of positions.
typedef int2 Place;

struct Work {
  const element *q;
  int q_stride;
  element *out;
  int out_stride;
  const int *seen;     // positions of each row that count
  const Place *places; // of every team, and the end
  float *partial;      // [team, 2, group, SLOT]
  int *arrived;        // [batch * kv_heads] units that are done; 0 before and after
  int heads, kv_heads;
  float scale;
};

__device__ __forceinline__ void team_barrier() { asm volatile("bar.sync %0, %1;" ::"r"(1 + threadIdx.x / TEAM), "n"(TEAM) : "memory"); }

__device__ __forceinline__ float4 fresh_load4(const float *p) {
  float4 v;
  asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "l"(p) : "memory");
  return v;
}

__device__ __forceinline__ void put4(element *to, float4 v, float f) { *(uint2 *)to = make_uint2(pack_bf16(v.x * f, v.y * f), pack_bf16(v.z * f, v.w * f)); }

// merge adds up eight channels of a head from the parts that parts(k) gives, SLOT
// floats each, for k below count, at most MOST; sum and top are the head's.
template <int MOST, bool FRESH, class Parts> __device__ __forceinline__ void merge(const Parts &parts, int count, int channel, float scale, float (&o)[8], float &top, float &sum) {
  float x[MOST][8], t[MOST], l[MOST];
#pragma unroll
  for (int k = 0; k < MOST; k++) {
    const float *slot = parts(min(k, count - 1));
    const float4 a = FRESH ? fresh_load4(slot + channel) : *(const float4 *)(slot + channel);
    const float4 b = FRESH ? fresh_load4(slot + channel + 4) : *(const float4 *)(slot + channel + 4);
    x[k][0] = a.x, x[k][1] = a.y, x[k][2] = a.z, x[k][3] = a.w, x[k][4] = b.x, x[k][5] = b.y, x[k][6] = b.z, x[k][7] = b.w;
    t[k] = FRESH ? fresh_load(slot + D) : slot[D], l[k] = FRESH ? fresh_load(slot + D + 1) : slot[D + 1];
  }
  top = t[0];
#pragma unroll
  for (int k = 1; k < MOST; k++) top = fmaxf(top, t[k]);
  sum = 0;
#pragma unroll
  for (int j = 0; j < 8; j++) o[j] = 0;
#pragma unroll
  for (int k = 0; k < MOST; k++) {
    if (k >= count) break;
    const float f = exp2_fast((t[k] - top) * scale);
    sum += f * l[k];
#pragma unroll
    for (int j = 0; j < 8; j++) o[j] += f * x[k][j];
  }
}

__device__ __forceinline__ void put8(element *to, float (&o)[8], float sum) {
  const float f = 1 / sum;
#pragma unroll
  for (int j = 0; j < 8; j++) o[j] *= f;
  store8(to, o);
}

// join merges what count teams have left of a head's output, the first of them in its
// second slot if skip is 1, by one team. shared holds MERGE floats.
__device__ __forceinline__ void join(const float *parts, int count, int skip, int group, float scale, element *out, float *shared) {
  const int FEW = 4;  // parts that a thread reads at once
  const int thread = threadIdx.x % TEAM, warp = thread / 32, lane = thread % 32;
  float *factors = shared, *sums = factors + PARTS * 16, *inverse = sums + PARTS * 16;
  float4 *rest = (float4 *)(inverse + 16);
  auto slot = [&](int k, int g) { return parts + ((2ll * k + (k == 0 ? skip : 0)) * group + g) * SLOT; };
  if (count <= FEW) {
    for (int i = thread; i < group * (D / 8); i += TEAM) {
      const int g = i / (D / 8), d = i % (D / 8) * 8;
      float o[8], top, sum;
      merge<FEW, true>([&](int k) { return slot(k, g); }, count, d, scale, o, top, sum);
      put8(out + g * D + d, o, sum);
    }
    return;
  }
  for (int i = thread; i < count * group; i += TEAM) {
    const float *from = slot(i / group, i % group);
    factors[i] = fresh_load(from + D), sums[i] = fresh_load(from + D + 1);
  }
  team_barrier();
  for (int g = warp; g < group; g += WARPS) {
    float top = -INFINITE, sum = 0;
    for (int k = lane; k < count; k += 32) top = fmaxf(top, factors[k * group + g]);
    top = warp_max(top);
    for (int k = lane; k < count; k += 32) {
      const float f = exp2_fast((factors[k * group + g] - top) * scale);
      factors[k * group + g] = f;
      sum += f * sums[k * group + g];
    }
    sum = warp_sum(sum);
    if (lane == 0) inverse[g] = 1 / sum;
  }
  team_barrier();
  // Four channels a thread; where threads are left, several share the parts.
  const int pieces = group * (D / 4), shares = pieces < TEAM ? TEAM / pieces : 1;
  for (int i = thread; i < pieces * shares; i += TEAM) {
    const int piece = i % pieces, share = i / pieces, g = piece / (D / 4), d = piece % (D / 4) * 4;
    float4 total = make_float4(0, 0, 0, 0);
    for (int first = share; first < count; first += shares * BATCH) {
      float4 x[BATCH];
#pragma unroll
      for (int b = 0; b < BATCH; b++) x[b] = fresh_load4(slot(min(first + b * shares, count - 1), g) + d);
#pragma unroll
      for (int b = 0; b < BATCH; b++) {
        const int k = first + b * shares;
        if (k >= count) break;
        const float f = factors[k * group + g];
        total.x += f * x[b].x, total.y += f * x[b].y, total.z += f * x[b].z, total.w += f * x[b].w;
      }
    }
    if (shares == 1)
      put4(out + g * D + d, total, inverse[g]);
    else
      rest[i] = total;
  }
  if (shares == 1) return;
  team_barrier();
  if (thread < pieces) {
    float4 total = rest[thread];
    for (int s = 1; s < shares; s++) {
      const float4 v = rest[s * pieces + thread];
      total.x += v.x, total.y += v.y, total.z += v.z, total.w += v.w;
    }
    put4(out + thread * 4, total, inverse[thread / (D / 4)]);
  }
}

// Others are the numbers of teams before this one and behind it that have parts of the
// same head.
struct Others {
  uint8 before, behind;
};

__device__ __forceinline__ Others find_others(const Work &w, int item, int team, int lane) {
  const int teams = gridDim.x * TEAMS;
  int before = 0, behind = 0;
  bool back = true, ahead = true;
  for (int k = 0; back || ahead; k += 32) {
    const Place p = w.places[max(team - k - lane, 0)];
    const int next = w.places[min(team + 1 + k + lane, teams)].x;
    const uint32 b = ~__ballot_sync(~0u, p.x == item && p.y > 0), a = ~__ballot_sync(~0u, next == item);
    if (back) before = k + (b ? __ffs(b) - 1 : 32), back = !b;
    if (ahead) behind = k + (a ? __ffs(a) - 1 : 32), ahead = !a;
  }
  return {(uint8)before, (uint8)behind};
}

// Stretch is what a team does of a head: units [from, to) of all units.
struct Stretch {
  int item, from, to, units;
  Others others;
  __device__ __forceinline__ bool whole() const { return from == 0 && to == units; }
};

// finish merges the team's warps for one key/value head, and the teams that share it
// where this one is the last to arrive.
__device__ __forceinline__ void finish(const Work &w, int team, float *states, const Stretch &s, int group) {
  __shared__ int lasts[TEAMS];
  const int thread = threadIdx.x % TEAM, local = threadIdx.x / TEAM;
  team_barrier();
  const int row = s.item / w.kv_heads, head = s.item - row * w.kv_heads;
  element *out = w.out + (long long)row * w.out_stride + (long long)head * group * D;
  float *mine = w.partial + (2ll * team + (w.places[team].x == s.item ? 0 : 1)) * group * SLOT;
  for (int i = thread; i < group * (D / 8); i += TEAM) {
    const int g = i / (D / 8), d = i % (D / 8) * 8;
    float o[8], top, sum;
    merge<WARPS, false>([&](int k) { return states + (k * group + g) * SLOT; }, WARPS, d, w.scale, o, top, sum);
    if (s.whole()) {
      put8(out + g * D + d, o, sum);
    } else {
      store8(mine + g * SLOT + d, o);
      if (d == 0) *(float2 *)(mine + g * SLOT + D) = make_float2(top, sum);
    }
  }
  if (!s.whole()) {
    __threadfence();
    team_barrier();
    if (thread == 0) {
      lasts[local] = atomicAdd(w.arrived + s.item, s.to - s.from) + s.to - s.from == s.units;
      if (lasts[local]) {
        w.arrived[s.item] = 0;
        __threadfence();
      }
    }
    team_barrier();
    if (lasts[local]) {
      // Of the teams that share a head only the first can have begun before it.
      const int first = team - s.others.before, count = s.others.before + 1 + s.others.behind;
      join(w.partial + 2ll * first * group * SLOT, count, w.places[first].x == s.item ? 0 : 1, group, w.scale, out, states);
    }
  }
  team_barrier();
}

template <bool WIDE, bool TURN> __device__ __forceinline__ void attend(const Work &w, const Cache &cache, const float2 *table, int pairs, bool early) {
  // Tiles that are held: one is used while the others are on their way.
  const int STAGES = BYTES && D == 64 ? (TURN ? 3 : 4) : 2;
  extern __shared__ __align__(16) float team_shared[];
  const int group = w.heads / w.kv_heads, local = threadIdx.x / TEAM, team = blockIdx.x * TEAMS + local;
  const int warp = threadIdx.x % TEAM / 32, lane = threadIdx.x % 32;
  float *states = team_shared + local * max(MERGE, WARPS * group * SLOT);
  if (!early) wait_for_previous();
  const Place begin = w.places[team], end = w.places[team + 1];
  Stretch done;
  for (int item = begin.x, from = begin.y;; item++, from = 0) {
    const bool more = item < end.x || (item == end.x && from < end.y);
    const long long base = (long long)item * cache.capacity;
    Stretch s;
    Tile tiles[STAGES];
    int n, stop, p = from * UNIT + warp * TILE;
    if (more) {
      n = w.seen[item / w.kv_heads];
      s.item = item, s.from = from, s.units = div_up(n, UNIT), s.to = item == end.x ? end.y : s.units;
      stop = min(s.to * UNIT, n);
      // The kernel ahead may still write the last position.
      if (p + (STAGES - 2) * UNIT + TILE >= n) wait_for_previous();
#pragma unroll
      for (int i = 0; i < STAGES - 1; i++)
        if (p + i * UNIT < stop) tiles[i].load(cache, base, p + i * UNIT, n, lane);
      if (!s.whole()) s.others = find_others(w, item, team, lane);
    }
    // A head is merged while the first tiles of the next are on their way.
    if (item > begin.x) finish(w, team, states, done, group);
    if (!more) break;
    wait_for_previous();
    Heads<WIDE> heads;
    const int row = item / w.kv_heads;
    heads.start(w.q + (long long)row * w.q_stride + (long long)(item - row * w.kv_heads) * group * D, group, lane);
    while (p < stop) {
#pragma unroll
      for (int i = 0; i < STAGES; i++) {
        if (p >= stop) break;
        const int far = p + (STAGES - 1) * UNIT;
        if (far < stop) tiles[(i + STAGES - 1) % STAGES].load(cache, base, far, n, lane);
        heads.template take<TURN>(tiles[i], p, n, table, pairs, w.scale, lane);
        p += UNIT;
      }
    }
    heads.put(states + warp * group * SLOT, group, lane);
    done = s;
  }
}

// decode_attention: out[row, head] over positions 0 to seen[row] - 1. q and out,
// [batch, heads * HEAD_SIZE], have row strides; out may be q itself. places deals
// units of UNIT positions to the teams (decode_begin in decode.cu). pairs, if not
// 0, says that keys are to be rotated, by table [position, pairs]. At most 16 query
// heads share a key/value head. scale is that of scores in powers of two. Blocks of
// TEAMS * 128; dynamic shared memory: TEAMS * max(MERGE, 4 * group * SLOT) floats.
#define DECODE_ATTENTION(NAME, WIDE, TURN)                                                                                                                              \
  extern "C" __global__ void __launch_bounds__(TEAMS * TEAM, 1)                                                                                                         \
      NAME(const element *q, int q_stride, const cached *keys, const cached *values, const bf16 *key_scales, const bf16 *value_scales, int capacity, element *out,      \
           int out_stride, const int *seen, const Place *places, float *partial, int *arrived, int heads, int kv_heads, const float2 *table, int pairs, float scale,    \
           int early) {                                                                                                                                                 \
    begin_early();                                                                                                                                                      \
    const Cache cache = {keys, values, key_scales, value_scales, capacity};                                                                                             \
    const Work work = {q, q_stride, out, out_stride, seen, places, partial, arrived, heads, kv_heads, scale};                                                           \
    attend<WIDE, TURN>(work, cache, table, pairs, early);                                                                                                               \
  }
DECODE_ATTENTION(decode_attention, false, false)
DECODE_ATTENTION(decode_attention_turn, false, true)
DECODE_ATTENTION(decode_attention_wide, true, false)
DECODE_ATTENTION(decode_attention_wide_turn, true, true)

#endif

#include "decode_attention_plain.cuh"
