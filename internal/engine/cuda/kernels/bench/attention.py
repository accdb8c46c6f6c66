"""Checks and times the attention kernels; PyTorch's attention in the same run."""
import argparse, itertools, math

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import device
from device import Module, Report, error, median_ms, poison

WRITE, START, ADD, FINISH = range(4)


FORWARD, QUERY, KEY_VALUE, ORDERED = range(4)


class Attention:
    """The attention kernels for one head size."""

    def __init__(self, head_size, storage=16, defines=()):
        self.d, self.dtype = head_size, torch.bfloat16 if storage == 16 else torch.float32
        self.m = Module("attention.cu", f"HEAD_SIZE={head_size}", f"STORAGE={storage}", *defines)
        c = self.m.constant("attention_launch", 16)
        self.config = [c[i:i + 4] for i in range(0, 16, 4)]
        self.part_rows, = self.m.constant("attention_part_rows", 1)
        self.sms = torch.cuda.get_device_properties(0).multi_processor_count
        self.kernels = ("delta", "ordered") if self.config[ORDERED][0] else ("query", "key_value")

    def launch(self, which, name, pairs, length, *args):
        threads, shared, rows, y = self.config[which]
        grid = min(self.sms * (1 if shared > 100 << 10 else 2), -(-length // rows) * pairs)
        self.m.launch(name, (grid, y, 1), threads, shared, *args)

    def forward(self, q, k, v, out, lse, batch, length, heads, kv):
        self.launch(FORWARD, "attention_forward", batch * heads, length, q, k, v, out, lse, batch, length, heads, kv, q.stride(0), k.stride(0), v.stride(0), out.stride(0),
                    1 / math.sqrt(self.d))

    def backward(self, q, k, v, out, dout, lse, delta, dq, dk, dv, sums, mode, size, table=None, parts=(None, None, None), room=None):
        for name in self.kernels:
            getattr(self, name)(q, k, v, out, dout, lse, delta, dq, dk, dv, sums, mode, size, table, parts, room)

    def query(self, q, k, v, out, dout, lse, delta, dq, dk, dv, sums, mode, size, table, parts, room):
        batch, length, heads, kv = size
        self.launch(QUERY, "attention_backward_query", batch * heads, length, q, k, v, out, dout, lse, delta, dq, table, parts[0], *size, q.stride(0), k.stride(0),
                    v.stride(0), out.stride(0), dout.stride(0), dq.stride(0), stride(parts[0]), 1 / math.sqrt(self.d))

    def key_value(self, q, k, v, out, dout, lse, delta, dq, dk, dv, sums, mode, size, table, parts, room):
        batch, length, heads, kv = size
        self.launch(KEY_VALUE, "attention_backward_key_value", batch * kv, length, q, k, v, dout, lse, delta, dk, dv, sums[0], sums[1], table, parts[1], parts[2], *size,
                    q.stride(0), k.stride(0), v.stride(0), dout.stride(0), dk.stride(0), dv.stride(0), stride(sums[0]), stride(parts[1]), mode, 1 / math.sqrt(self.d))

    def delta(self, q, k, v, out, dout, lse, delta, dq, dk, dv, sums, mode, size, table, parts, room):
        batch, length, heads, kv = size
        self.m.launch("attention_backward_delta", -(-length // 64) * batch * heads, 256, 0, out, dout, delta, room[1], room[1].numel(), length, heads, out.stride(0), dout.stride(0))

    def ordered(self, q, k, v, out, dout, lse, delta, dq, dk, dv, sums, mode, size, table, parts, room):
        batch, length, heads, kv = size
        self.launch(ORDERED, "attention_backward_ordered", -(-batch * kv // 2), length, q, k, v, dout, lse, delta, *room, dq, dk, dv, sums[0], sums[1], table, table, *parts, *size,
                    q.stride(0), k.stride(0), v.stride(0), dout.stride(0), dq.stride(0), dk.stride(0), dv.stride(0), stride(sums[0]), stride(parts[0]), mode,
                    1 / math.sqrt(self.d))

    def room(self, batch, length, heads, kv):
        """Where one kernel makes the derivative: the sums of dq, their flags, and the room for sums of dk and dv."""
        if "ordered" not in self.kernels:
            return None
        tiles = batch * heads * -(-length // 128)
        kept = poison(self.sms * 512, self.d, dtype=torch.float32) if heads > kv else None
        return poison(tiles * 128, self.d, dtype=torch.float32), torch.full((tiles,), -1, device="cuda", dtype=torch.int32), kept

    def turns(self):
        """Whether the backward kernels turn gradients back and sum their rows."""
        return self.d % 64 == 0

    def parts(self, batch, length, width):
        return poison(batch * -(-length // self.part_rows), width, dtype=torch.float32)


def stride(x):
    return 0 if x is None else x.stride(0)


def rotary_table(length, pairs):
    angle = torch.arange(length, device="cuda")[:, None] * 10000.0 ** (-torch.arange(pairs, device="cuda") / pairs)
    return torch.stack((angle.cos(), angle.sin()), -1).float().contiguous()


def turned_back(x, batch, length, d):
    """x [batch * length, heads * d] turned by minus the angles of a quarter of each head."""
    p, pairs = x.double().reshape(batch, length, -1, d).clone(), d // 8
    w = rotary_table(length, pairs).double()[:, None]
    a, b = p[..., :pairs].clone(), p[..., pairs:2 * pairs].clone()
    p[..., :pairs], p[..., pairs:2 * pairs] = a * w[..., 0] + b * w[..., 1], b * w[..., 0] - a * w[..., 1]
    return p.reshape(batch * length, -1)


def reference(q, k, v, dout, batch, length, heads, kv, d):
    def split(x, n):
        return x.double().reshape(batch, length, n, d).transpose(1, 2)
    q, k, v, g = split(q, heads).requires_grad_(), split(k, kv).requires_grad_(), split(v, kv).requires_grad_(), split(dout, heads)
    kk, vv = k.repeat_interleave(heads // kv, 1), v.repeat_interleave(heads // kv, 1)
    s = q @ kk.transpose(-1, -2) / math.sqrt(d)
    s = s.masked_fill(torch.ones(length, length, device="cuda", dtype=torch.bool).triu(1), -math.inf)
    out = s.softmax(-1) @ vv
    grads = torch.autograd.grad(out, (q, k, v), g)
    join = lambda x: x.transpose(1, 2).reshape(batch * length, -1)
    return (join(out.detach()), s.logsumexp(-1).detach(), *map(join, grads))


def check(report, a, batch, length, heads, kv):
    d, dt, n = a.d, a.dtype, batch * length
    tag = f"d{d} b{batch} t{length} h{heads}/{kv}"
    width = (heads + 2 * kv) * d
    qkv = torch.randn(n, width, device="cuda").to(dt)
    q, k, v = qkv[:, :heads * d], qkv[:, heads * d:(heads + kv) * d], qkv[:, (heads + kv) * d:]
    dout = torch.randn(n, heads * d, device="cuda").to(dt)
    out, lse, delta = poison(n, heads * d, dtype=dt), poison(batch * heads, length, dtype=torch.float32), poison(batch * heads, length, dtype=torch.float32)
    dqkv = poison(n, width, dtype=dt)
    dq, dk, dv = dqkv[:, :heads * d], dqkv[:, heads * d:(heads + kv) * d], dqkv[:, (heads + kv) * d:]
    sums = [poison(n, kv * d, dtype=torch.float32) for _ in range(2)]
    size = batch, length, heads, kv
    ref = reference(q, k, v, dout, *size, d)
    tol = 6e-3 if dt == torch.bfloat16 else 1e-5
    a.forward(q, k, v, out, lse, *size)
    report.check("attention_forward", tag, error(out, ref[0]), tol)
    report.check("attention_forward lse", tag, error(lse * math.log(2), ref[1].reshape(batch * heads, length)), 1e-5)
    room = a.room(*size)
    x = q, k, v, out, dout, lse, delta, dq, dk, dv
    a.backward(*x, (None, None), WRITE, size, room=room)
    report.check("attention_backward delta", tag, error(delta, (out.double() * dout.double()).reshape(batch, length, heads, d).sum(-1).transpose(1, 2).reshape(-1, length)), 1e-5)
    # The gradient of scores loses digits by cancellation where a row sees few keys.
    small = 2e-2 if dt == torch.bfloat16 else 1e-4 if length > 1 else 2e-3
    floor = ref[4].norm() * 1e-3
    for name, got, r in (("dq", dq, ref[2]), ("dk", dk, ref[3]), ("dv", dv, ref[4])):
        e = ((got.double() - r).norm() / torch.maximum(r.norm(), floor)).item()
        report.check(f"attention_backward {name}", tag, e, tol * 2 if length > 64 else small)
    for mode in (START, ADD, FINISH):
        if mode == FINISH:
            dqkv[:, heads * d:] = float("nan")
        a.backward(*x, sums, mode, size, room=room)
    for name, got, r in (("dk", dk, ref[3]), ("dv", dv, ref[4])):
        e = ((got.double() - 3 * r).norm() / torch.maximum(3 * r.norm(), floor)).item()
        report.check(f"attention_backward sum {name}", tag, e, tol * 2 if length > 64 else small)
    if a.turns():
        check_turned(report, a, tag, (q, k, v, out, dout, lse, delta), dqkv, ref, size, tol * 2 if length > 64 else small)


def check_turned(report, a, tag, inputs, dqkv, ref, size, tol):
    """Gradients turned back, and the sums of their rows, in all ways of writing keys and values."""
    q, k, v, out, dout, lse, delta = inputs
    batch, length, heads, kv = size
    d = a.d
    split = heads * d, (heads + kv) * d
    table = rotary_table(length, d // 8)
    want = [turned_back(ref[2], batch, length, d), turned_back(ref[3], batch, length, d), ref[4]]
    for mode in (WRITE, FINISH):
        dqkv.fill_(float("nan"))
        parts = a.parts(batch, length, dqkv.shape[1])
        dq, dk, dv = dqkv[:, :split[0]], dqkv[:, split[0]:split[1]], dqkv[:, split[1]:]
        sums = [torch.zeros(batch * length, kv * d, device="cuda") for _ in range(2)] if mode == FINISH else (None, None)
        columns = parts[:, :split[0]], parts[:, split[0]:split[1]], parts[:, split[1]:]
        a.backward(q, k, v, out, dout, lse, delta, dq, dk, dv, sums, mode, size, table, columns, a.room(*size))
        for name, x, r in zip(("dq", "dk", "dv"), (dq, dk, dv), want):
            e = ((x.double() - r).norm() / torch.maximum(r.norm(), ref[4].norm() * 1e-3)).item()
            report.check(f"attention_backward turned {name}", tag, e, tol)
        report.check("attention_backward bias", tag, error(parts.double().sum(0), dqkv.double().sum(0)), 2e-2 if a.dtype == torch.bfloat16 else 1e-5)


def check_repeat(report, a, batch, length, heads, kv):
    """The same bits every time, also where all multiprocessors are at work."""
    d, n = a.d, batch * length
    x = [torch.randn(n, w * d, device="cuda").to(a.dtype) for w in (heads, kv, kv, heads)]
    size = batch, length, heads, kv
    got = []
    for _ in range(4):
        out, dq = (poison(n, heads * d, dtype=a.dtype) for _ in range(2))
        dk, dv = (poison(n, kv * d, dtype=a.dtype) for _ in range(2))
        lse, delta = (poison(batch * heads, length, dtype=torch.float32) for _ in range(2))
        a.forward(*x[:3], out, lse, *size)
        a.backward(*x[:3], out, x[3], lse, delta, dq, dk, dv, (None, None), WRITE, size, room=a.room(*size))
        got.append([out, lse, dq, dk, dv])
    for other in got[1:]:
        for name, p, q in zip(("out", "lse", "dq", "dk", "dv"), got[0], other):
            report.check("attention repeated", f"d{d} b{batch} h{heads}/{kv} {name}", float(not torch.equal(p, q)), 0)


class Ours:
    """Our kernels on one set of inputs: named runs."""

    def __init__(self, a, batch, length, heads, kv):
        d, n = a.d, batch * length
        qkv = torch.randn(n, (heads + 2 * kv) * d, device="cuda").to(a.dtype)
        q, k, v = qkv[:, :heads * d], qkv[:, heads * d:(heads + kv) * d], qkv[:, (heads + kv) * d:]
        dqkv = torch.empty_like(qkv)
        dq, dk, dv = dqkv[:, :heads * d], dqkv[:, heads * d:(heads + kv) * d], dqkv[:, (heads + kv) * d:]
        out, dout = torch.empty(n, heads * d, device="cuda", dtype=a.dtype), torch.randn(n, heads * d, device="cuda").to(a.dtype)
        lse, delta = (torch.empty(batch * heads, length, device="cuda") for _ in range(2))
        size = batch, length, heads, kv
        parts, room = a.parts(batch, length, qkv.shape[1]) if a.turns() else None, a.room(*size)
        columns = (parts[:, :heads * d], parts[:, heads * d:(heads + kv) * d], parts[:, (heads + kv) * d:]) if a.turns() else (None, None, None)
        args = q, k, v, out, dout, lse, delta, dq, dk, dv, (None, None), WRITE, size, rotary_table(length, d // 8) if a.turns() else None, columns, room
        self.runs = {"forward": lambda: a.forward(q, k, v, out, lse, *size), "backward": lambda: a.backward(*args)}


class Peer:
    """PyTorch's attention by one backend."""

    def __init__(self, backend, d, batch, length, heads, kv):
        x = [torch.randn(batch, length, h, d, device="cuda").bfloat16().transpose(1, 2).requires_grad_() for h in (heads, kv, kv)]
        g = torch.randn(batch, length, heads, d, device="cuda").bfloat16().transpose(1, 2)

        def forward():
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(*x, is_causal=True, enable_gqa=heads != kv)

        def no_grad():
            with torch.no_grad():
                forward()
        o = forward()
        self.runs = {"forward": no_grad, "backward": lambda: torch.autograd.grad(o, x, g, retain_graph=True)}


def flops(d, batch, length, heads):
    return 4 * batch * heads * length * length * d / 2


def compare(d, batch, length, heads, kv, variants=((),), rounds=4, quiet=False):
    """Times everything in turn, several rounds, since the clock moves with the heat."""
    rows = []
    for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
        try:
            rows.append((f"torch {name}", Peer(backend, d, batch, length, heads, kv)))
        except Exception as e:
            print("torch", name, d, heads, kv, repr(e)[:100], flush=True)
    for v in variants:
        try:
            rows.append((" ".join(("ours",) + tuple(v)), Ours(Attention(d, 16, v), batch, length, heads, kv)))
        except Exception as e:
            print(v, repr(e)[:100], flush=True)
    times = {(name, run): [] for name, x in rows for run in x.runs}
    for _ in range(rounds):
        for name, x in rows:
            for run, f in x.runs.items():
                times[name, run].append(median_ms(f, 6, 1))
    fl = flops(d, batch, length, heads)
    best, result = {}, {}
    for name, x in rows:
        t = {run: sorted(times[name, run])[rounds // 2] for run in x.runs}
        result[name] = t
        if quiet:
            continue
        ratio = " ".join(f"{p}: {best[p][0] / t['forward']:.2f}x {best[p][1] / t['backward']:.2f}x" for p in best if name.startswith("ours"))
        if name.startswith("torch"):
            best[name[6:]] = t["forward"], t["backward"]
        print(f"d{d} b{batch} t{length} h{heads}/{kv} forward {t['forward']:.3f} ms {fl / t['forward'] / 1e9:.0f} TFLOP/s backward {t['backward']:.3f} ms "
              f"{2.5 * fl / t['backward'] / 1e9:.0f} {ratio} {name}", flush=True)
    return result


def ceilings():
    """The copy's rate in bytes/s and a bf16 product's in operations/s."""
    x = torch.randn(1 << 30, device="cuda", dtype=torch.bfloat16)
    y = torch.empty_like(x)
    copy = 4e3 * x.numel() / median_ms(lambda: y.copy_(x))
    del x, y
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return copy, 2e3 * 8192**3 / median_ms(lambda: a @ b)


def shapes():
    for length in (1, 17, 64, 65, 127, 128, 129, 200, 333, 1000):
        yield 2, length, 6, 6 if length % 2 else 2
    yield 1, 300, 12, 1
    yield 2, 2048, 4, 1
    yield 3, 515, 5, 5


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--sizes", default="64,32,80,128,256")
    p.add_argument("--storage", type=int, default=16)
    p.add_argument("--define", action="append", default=[])
    p.add_argument("--check", action="store_true")
    p.add_argument("--time", action="store_true")
    p.add_argument("--shapes", action="store_true", help="time sharing ratios and head sizes")
    p.add_argument("--variant", action="append", default=[], help="comma-separated defines")
    a = p.parse_args()
    torch.manual_seed(1)
    sizes = [int(s) for s in a.sizes.split(",")]
    if a.check:
        report = Report()
        for d in sizes:
            try:
                kernels = Attention(d, a.storage, a.define)
                for s in shapes():
                    check(report, kernels, *s)
                for batch, length, heads, kv in ((4, 777, 12, 4), (9, 2048, 12, 12), (32, 2048, 12, 1)):
                    check_repeat(report, kernels, batch, length, heads, kv)
            except Exception as e:
                print("FAIL", d, repr(e)[:300], flush=True)
                raise
        report.show()
    if a.time:
        copy, product = ceilings()
        print(f"copy {copy / 1e12:.2f} TB/s, bf16 8192^3 {product / 1e12:.0f} TFLOP/s", flush=True)
        compare(64, 32, 2048, 12, 12, [()] + [tuple(v.split(",")) for v in a.variant])
    if a.shapes:
        for kv in (6, 4, 3, 2, 1):
            compare(64, 32, 2048, 12, kv, rounds=2)
        compare(64, 12, 2048, 12, 12, rounds=2)
        compare(64, 12, 2048, 12, 1, rounds=2)
        for d, batch, heads in ((32, 32, 16), (80, 4, 32), (128, 8, 16), (256, 8, 8)):
            compare(d, batch, 2048, heads, heads, rounds=2)


if __name__ == "__main__":
    main()
