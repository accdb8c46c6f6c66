"""Compiles kernels as the engine does: with NVRTC and no toolkit header.

    python3 nvrtc.py [--arch sm_90a] [--out DIR] [attention:64 ...]

prints registers, spills and shared memory of every kernel."""
import argparse, ctypes, glob, hashlib, os, re, sys

HERE = os.path.dirname(os.path.abspath(__file__))
KERNELS = os.path.dirname(HERE)


def library():
    roots = [os.path.join(p, "nvidia") for p in sys.path] + ["/usr/local/cuda"]
    for name in ["libnvrtc.so.13", "libnvrtc.so.12"] + [f for r in roots for f in glob.glob(r + "/**/libnvrtc.so.1[23]", recursive=True)]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            pass
    sys.exit("libnvrtc.so was not found")


_lib = None


def compile(source, arch, defines=(), options=()):
    """Returns (cubin, log) of kernels/<source>."""
    global _lib
    _lib = _lib or library()
    headers = sorted(glob.glob(os.path.join(KERNELS, "*.cuh")))
    names = (ctypes.c_char_p * len(headers))(*[os.path.basename(h).encode() for h in headers])
    texts = (ctypes.c_char_p * len(headers))(*[open(h, "rb").read() for h in headers])
    prog = ctypes.c_void_p()
    text = open(os.path.join(KERNELS, source), "rb").read()
    assert _lib.nvrtcCreateProgram(ctypes.byref(prog), text, source.encode(), len(headers), texts, names) == 0
    opts = [f"--gpu-architecture={arch}", "--std=c++17", "--ptxas-options=-v"] + [f"-D{d}" for d in defines] + list(options)
    rc = _lib.nvrtcCompileProgram(prog, len(opts), (ctypes.c_char_p * len(opts))(*[o.encode() for o in opts]))
    size = ctypes.c_size_t()
    _lib.nvrtcGetProgramLogSize(prog, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    _lib.nvrtcGetProgramLog(prog, log)
    if rc != 0:
        raise RuntimeError(f"{source}: {log.value.decode()}")
    _lib.nvrtcGetCUBINSize(prog, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    _lib.nvrtcGetCUBIN(prog, cubin)
    _lib.nvrtcDestroyProgram(ctypes.byref(prog))
    return cubin.raw, log.value.decode()


CACHE = os.environ.get("MLKV_CUBINS", os.path.join(HERE, "..", "..", "..", "..", "..", ".carry", "cubins"))
ARCH = os.environ.get("MLKV_ARCH", "sm_90a")


def cubin(source, defines=(), options=()):
    """Compiles kernels/<source>, or takes it from the cache beside the checkout."""
    h = hashlib.sha256(repr((source, sorted(defines), list(options), ARCH)).encode())
    for f in sorted(os.listdir(KERNELS)):
        if f.endswith((".cu", ".cuh")) and (f == source or f.endswith(".cuh")):
            h.update(open(os.path.join(KERNELS, f), "rb").read())
    path = os.path.join(CACHE, h.hexdigest()[:20] + ".cubin")
    if not os.path.exists(path):
        code, log = compile(source, ARCH, defines, options)
        for line in log.splitlines():
            if "C75" in line:
                print(source, list(defines), line.strip(), flush=True)
        os.makedirs(CACHE, exist_ok=True)
        open(path, "wb").write(code)
    return open(path, "rb").read()


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--arch", default="sm_90a")
    a.add_argument("--out")
    a.add_argument("--define", action="append", default=[])
    a.add_argument("sources", nargs="*")
    a = a.parse_args()
    for item in a.sources or [os.path.basename(f)[:-3] for f in sorted(glob.glob(KERNELS + "/*.cu"))]:
        name, _, sizes = item.partition(":")
        for size in sizes.split(",") if sizes else [""]:
            d = a.define + ([f"HEAD_SIZE={size}"] if size else [])
            cubin, log = compile(name + ".cu", a.arch, d)
            if a.out:
                os.makedirs(a.out, exist_ok=True)
                open(f"{a.out}/{name}{size}.cubin", "wb").write(cubin)
            kernel = ""
            for line in log.splitlines():
                m = re.search(r"Compiling entry function '(\w+)'", line)
                kernel = m.group(1) if m else kernel
                m = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)
                spill = m.groups() if m else locals().get("spill")
                m = re.search(r"Used (\d+) registers", line)
                if m:
                    print(f"{name:10s} {size:4s} {kernel:36s} {m.group(1):>4s} registers, stack {spill[0]}, spills {spill[1]}/{spill[2]}")
                elif "arning" in line or "C75" in line:
                    print("   ", line)


if __name__ == "__main__":
    main()
