// Tiles of bf16 in shared memory: layout, asynchronous copies, fragments.
#pragma once
#include "common.cuh"

__device__ __forceinline__ uint32 shared_address(const void *p) { return (uint32)__cvta_generic_to_shared(p); }

// copy16 copies 16 bytes, or writes zeros where the source does not exist.
__device__ __forceinline__ void copy16(uint32 to, const void *from, bool exists) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(exists ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copy4(uint32 to, const void *from, bool exists) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(exists ? 4 : 0) : "memory");
}

// A tile of ROWS rows of bf16 lies in shared memory as panels of 64 columns:
// 128 bytes a row, 16-byte pieces permuted within groups of eight rows (the
// 128-byte swizzle), every panel aligned to 1024 bytes.
template <int ROWS> __host__ __device__ constexpr int panel_bytes() { return ROWS * 128; }
template <int ROWS, int COLUMNS> __host__ __device__ constexpr int tile_bytes() { return panel_bytes<ROWS>() * div_up(COLUMNS, 64); }

// piece_offset is the place of 16-byte piece c (columns 8c to 8c+7) of a row.
template <int ROWS> __device__ __forceinline__ uint32 piece_offset(int row, int c) {
  return (c >> 3) * panel_bytes<ROWS>() + row * 128 + (((c & 7) ^ (row & 7)) << 4);
}

// load_matrices reads four 8 x 8 matrices; every lane gives the address of one row.
template <bool TRANSPOSE> __device__ __forceinline__ void load_matrices(uint32 (&a)[4], uint32 at) {
  if (TRANSPOSE)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(at) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(at) : "memory");
}

// load_fragment reads 16 rows x 16 columns of a tile as the left side of a product.
template <int ROWS> __device__ __forceinline__ void load_fragment(uint32 (&a)[4], uint32 tile, int row, int step, int lane) {
  load_matrices<false>(a, tile + piece_offset<ROWS>(row + (lane & 15), step * 2 + (lane >> 4)));
}
