"""Runs kernels through the CUDA driver, as the engine does, on PyTorch's tensors."""
import ctypes, functools

import torch

import nvrtc

@functools.lru_cache(None)
def driver():
    torch.cuda.init()
    torch.zeros(1, device="cuda")
    return ctypes.CDLL("libcuda.so.1")


def check(rc, what):
    if rc != 0:
        text = ctypes.c_char_p()
        driver().cuGetErrorName(rc, ctypes.byref(text))
        raise RuntimeError(f"{what}: {text.value}")


class Module:
    def __init__(self, source, *defines):
        self.code = nvrtc.cubin(source, defines)
        self.handle = ctypes.c_void_p()
        check(driver().cuModuleLoadData(ctypes.byref(self.handle), self.code), f"load {source} {defines}")
        self.functions = {}

    def constant(self, name, count):
        at, size = ctypes.c_uint64(), ctypes.c_size_t()
        check(driver().cuModuleGetGlobal_v2(ctypes.byref(at), ctypes.byref(size), self.handle, name.encode()), name)
        out = (ctypes.c_int * count)()
        check(driver().cuMemcpyDtoH_v2(out, at, 4 * count), name)
        return list(out)

    def launch(self, name, grid, block, shared, *args):
        if name not in self.functions:
            f = ctypes.c_void_p()
            check(driver().cuModuleGetFunction(ctypes.byref(f), self.handle, name.encode()), name)
            self.functions[name] = [f, 0]
        f, most = self.functions[name]
        if shared > max(most, 48 << 10):
            check(driver().cuFuncSetAttribute(f, 8, shared), f"{name}: {shared} bytes of shared memory")
            self.functions[name][1] = shared
        values = []
        for a in args:
            if a is None:
                values.append(ctypes.c_void_p(0))
            elif isinstance(a, torch.Tensor):
                values.append(ctypes.c_void_p(a.data_ptr()))
            elif isinstance(a, float):
                values.append(ctypes.c_float(a))
            elif isinstance(a, int):
                values.append(ctypes.c_int(a))
            else:
                values.append(a)
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])
        block = block if isinstance(block, tuple) else (block, 1)
        g = tuple(grid) + (1,) * (3 - len(grid)) if isinstance(grid, tuple) else (grid, 1, 1)
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        check(driver().cuLaunchKernel(f, *g, *block, 1, shared, stream, pointers, None), f"launch {name} {g} {block} {shared}")


def long(x):
    return ctypes.c_longlong(x)


def poison(*shape, dtype):
    """A tensor of NaN, so that an element left unwritten shows."""
    return torch.full(shape, float("nan"), dtype=dtype, device="cuda")


def error(out, ref):
    """The relative error in the Euclidean norm; NaN never passes."""
    out, ref = out.double(), ref.double()
    return ((out - ref).norm() / ref.norm().clamp_min(1e-30)).item()


def median_ms(f, repeat=15, warm=3):
    for _ in range(warm):
        f()
    times = []
    for _ in range(repeat):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        f()
        b.record()
        times.append((a, b))
    torch.cuda.synchronize()
    times = sorted(a.elapsed_time(b) for a, b in times)
    return times[len(times) // 2]


def graph_ms(f, calls=5, repeat=9):
    """The same for kernels too short to be launched one by one: calls in a CUDA graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        f()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            f()
    return median_ms(graph.replay, repeat, 1) / calls


class Report:
    """Collects checks; prints failures at once and a summary for each kernel."""

    def __init__(self):
        self.worst, self.failed, self.count = {}, 0, {}

    def check(self, kernel, case, value, limit):
        self.count[kernel] = self.count.get(kernel, 0) + 1
        if not value <= limit:
            self.failed += 1
            if self.failed < 60:
                print(f"FAIL {kernel} {case}: {value:.3g} > {limit:g}", flush=True)
        if not value <= self.worst.get(kernel, (-1, ""))[0]:
            self.worst[kernel] = (value, case, limit)

    def show(self):
        for k, (v, case, limit) in self.worst.items():
            print(f"{k:34s} {self.count[k]:4d} checks, worst {v:.2e} (limit {limit:g}) at {case}")
        print("FAILED" if self.failed else "passed", self.failed)
