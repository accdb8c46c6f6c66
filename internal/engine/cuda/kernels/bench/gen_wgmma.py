"""Writes ../gen_wgmma.cuh: one wrapper for each shape of wgmma that the kernels use."""
import os

SHAPES = (16, 32, 64, 72, 80, 128, 192, 256)


def wrapper(n, a_in_registers):
    regs = n // 2
    acc = ", ".join(f"%{i}" for i in range(regs))
    outs = ", ".join(f'"+f"(d[{i}])' for i in range(regs))
    k = regs
    if a_in_registers:
        a, ins, args = "{" + ", ".join(f"%{k + i}" for i in range(4)) + "}", '"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])', "const uint32 *a"
        k += 4
        tail = f"p, 1, 1, %{k + 2}"
    else:
        a, ins, args = f"%{k}", '"l"(a)', "uint64 a"
        k += 1
        tail = f"p, 1, 1, 0, %{k + 2}"
    name = "wgmma_rs" if a_in_registers else "wgmma_ss"
    return f"""template <int TRANSPOSE_B> __device__ __forceinline__ void {name}(float (&d)[{regs}], {args}, uint64 b, int accumulate) {{
  asm volatile("{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{k + 1}, 0;\\n"
               "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {{{acc}}}, {a}, %{k}, {tail};\\n}}\\n"
               : {outs}
               : {ins}, "l"(b), "r"(accumulate), "n"(TRANSPOSE_B));
}}
"""


with open(os.path.join(os.path.dirname(__file__), "..", "gen_wgmma.cuh"), "w") as f:
    f.write("// Written by bench/gen_wgmma.py; do not edit.\n//\n"
            "// d[64][N] += A[64][16] * B[16][N] for a warpgroup: A through a shared memory\n"
            "// descriptor (ss) or in registers (rs), B through a descriptor. TRANSPOSE_B tells\n"
            "// that B's rows lie along N in memory.\n#pragma once\n\n")
    for n in SHAPES:
        for a in (False, True):
            f.write(wrapper(n, a))
