// Hopper (sm_90a) primitives: mbarriers, register shares and warpgroup matrix
// products.
#pragma once
#include "tiles.cuh"
#include "gen_wgmma.cuh"

// SANITIZED kernels run under compute-sanitizer: no warp gives registers to another
// one, so that the code which the tool adds to every warp cannot run short of them,
// and every lane arrives at a barrier itself, since the tool does not see that
// products keep the lanes of a warp together.
#ifdef SANITIZED
const int WARP_ARRIVALS = 32;
#else
const int WARP_ARRIVALS = 1;
#endif

// A Barrier completes a phase after a fixed number of arrivals.
typedef uint64 Barrier;

__device__ __forceinline__ void barrier_init(Barrier *b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ __forceinline__ void barrier_wait(Barrier *b, int parity) {
  asm volatile("{\n.reg .pred done;\n"
               "wait:\n"
               "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
               "@done bra finished;\n"
               "bra wait;\n"
               "finished:\n}\n" ::"r"(shared_address(b)),
               "r"(parity)
               : "memory");
}
__device__ __forceinline__ void barrier_arrive(Barrier *b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
// barrier_arrive_warp arrives WARP_ARRIVALS times for a warp that is done with what
// the barrier guards. A product or __syncwarp has joined its lanes before.
__device__ __forceinline__ void barrier_arrive_warp(Barrier *b, int lane) {
  if (lane < WARP_ARRIVALS) barrier_arrive(b);
}
// barrier_arrive_copied arrives once this thread's asynchronous copies so far have landed.
__device__ __forceinline__ void barrier_arrive_copied(Barrier *b) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(b)) : "memory");
}

// A Ring counts through the stages of a buffer; the parity of a stage's
// barriers flips with each round.
template <int STAGES> struct Ring {
  int stage = 0, parity = 0;
  __device__ __forceinline__ void next() {
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
};

__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
#ifdef SANITIZED
template <int N> __device__ __forceinline__ void more_registers() {}
template <int N> __device__ __forceinline__ void fewer_registers() {}
#else
template <int N> __device__ __forceinline__ void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> __device__ __forceinline__ void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
#endif

__device__ __forceinline__ void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// wgmma_wait waits until at most N committed groups are under way.
template <int N> __device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
// hold keeps the compiler from moving uses of an accumulator across a wait.
template <int N> __device__ __forceinline__ void hold(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// Matrix descriptors. K-major: the product runs along the columns of the tile;
// step advances by 16 columns. N-major: the product runs along the rows. The
// step only moves the address in the lower word.
__device__ __forceinline__ uint64 descriptor(uint32 tile, int leading_bytes, int offset) {
  const uint32 low = ((tile & 0x3ffff) >> 4) + (offset >> 4) + ((uint32)(leading_bytes >> 4) << 16);
  return (uint64)low | (uint64)(1024 >> 4 | 1 << 30) << 32;
}
template <int ROWS> __device__ __forceinline__ uint64 k_major(uint32 tile, int step) {
  return descriptor(tile, 16, (step >> 2) * panel_bytes<ROWS>() + (step & 3) * 32);
}
template <int ROWS> __device__ __forceinline__ uint64 n_major(uint32 tile, int step) { return descriptor(tile, panel_bytes<ROWS>(), step * 2048); }

// load_tile starts the copy of rows [first, first+ROWS) of a matrix into a tile
// by THREADS threads; rows from limit on become zeros. Addresses are stepped, not
// precomputed: producers have few registers.
template <int ROWS, int COLUMNS, int THREADS = 128> __device__ __forceinline__ void load_tile(uint32 tile, const bf16 *from, int stride, int first, int limit, int thread) {
  const int LANES = COLUMNS <= 32 ? 4 : COLUMNS <= 64 ? 8 : COLUMNS <= 128 ? 16 : 32;  // threads of one row
  const int STEP = THREADS / LANES;
  const int c = thread % LANES;
  int row = thread / LANES;
  if (COLUMNS / 8 < LANES && c >= COLUMNS / 8) return;
  const bf16 *p = from + (long long)(first + row) * stride + c * 8;
  const long long step = (long long)STEP * stride;
  limit -= first;
#pragma unroll 4
  for (int i = 0; i < ROWS / STEP; i++) {
    copy16(tile + piece_offset<ROWS>(row, c), p, row < limit);
    p += step, row += STEP;
  }
}
