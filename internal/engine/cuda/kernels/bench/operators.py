"""Checks and times every kernel but attention against float64 references."""
import argparse, math, struct

import torch
import torch.nn.functional as F

from device import Module, Report, error, graph_ms as median_ms, long, poison


def up(a, b):
    return -(-a // b)


class Kernels:
    def __init__(self, storage, hidden=None, vocab=None):
        s = f"STORAGE={storage}"
        self.dtype = torch.bfloat16 if storage == 16 else torch.float32
        self.tol = 3e-3 if storage == 16 else 1e-5
        for name in ("embed", "linear", "gelu", "rotary", "norm", "adamw"):
            setattr(self, name, Module(name + ".cu", s))
        if hidden:
            self.hidden = hidden
            self.layernorm, self.residual = Module("layernorm.cu", s, f"HIDDEN={hidden}"), Module("residual.cu", s, f"HIDDEN={hidden}")
            self.rows, _, self.threads = self.layernorm.constant("layernorm_launch", 3)
        if vocab:
            self.vocab, self.headloss = vocab, Module("headloss.cu", s, f"VOCAB={vocab}")

    def random(self, *shape):
        return torch.randn(*shape, device="cuda").to(self.dtype)


def floats(*shape):
    return torch.randn(*shape, device="cuda")


class Sorted:
    """The radix sort of tokens that embed_backward reads."""

    def __init__(self, k, tokens):
        self.k, self.tokens, n = k, tokens, tokens.numel()
        self.n, self.blocks = n, up(n, 1024)
        self.counts = torch.empty(256 * self.blocks, dtype=torch.int32, device="cuda")
        self.keys, self.positions = torch.full((2, n), -9, dtype=torch.int32, device="cuda"), torch.full((2, n), -9, dtype=torch.int32, device="cuda")

    def run(self):
        keys, positions = self.tokens, None
        for i, shift in enumerate((0, 8)):
            self.k.embed.launch("embed_sort_count", self.blocks, 1024, 0, keys, self.counts, self.n, shift)
            self.k.embed.launch("embed_sort_scan", 1, 1024, 0, self.counts, 256 * self.blocks)
            self.k.embed.launch("embed_sort_scatter", self.blocks, 1024, 0, keys, positions, self.keys[i], self.positions[i], self.counts, self.n, shift)
            keys, positions = self.keys[i], self.positions[i]
        return keys, positions


def embed_backward(k, s, dout, dtable, first, last):
    hidden = dout.shape[1]
    keys, positions = s.run()
    grid = up(s.n, 32), up(hidden, 1024), 1
    k.embed.launch("embed_backward", grid, 128, 0, keys, positions, dout, dtable, first, last, s.n, hidden)
    k.embed.launch("embed_backward_join", grid, 128, 0, keys, dtable, first, last, s.n, hidden)


def check_embed(r, k):
    for n, vocab, hidden, skew in ((1, 50, 8, 0), (100, 50304, 64, 0), (5000, 300, 768, 0), (3333, 50304, 1032, 2), (2050, 7, 2048, 0), (4096, 60000, 768, 1)):
        tag = f"n{n} v{vocab} h{hidden}"
        tokens = torch.randint(0, vocab, (n,), device="cuda", dtype=torch.int32)
        if skew == 1:
            tokens[:] = 5
        if skew == 2:
            tokens[torch.rand(n, device="cuda") < .7] = 3
        table, out = k.random(vocab, hidden), poison(n, hidden, dtype=k.dtype)
        k.embed.launch("embed_forward", up(n * hidden // 8, 256), 256, 0, tokens, table, out, n, hidden)
        r.check("embed_forward", tag, float(not torch.equal(out, table[tokens.long()])), 0)
        dout, start = k.random(n, hidden), floats(vocab, hidden)
        ref = start.double().index_add_(0, tokens.long(), dout.double())
        got = []
        for _ in range(2):
            dtable = start.clone()
            first, last = (poison(up(n, 32), hidden, dtype=torch.float32) for _ in range(2))
            embed_backward(k, Sorted(k, tokens), dout, dtable, first, last)
            got.append(dtable)
        r.check("embed_backward", tag, error(got[0], ref), 1e-5)
        r.check("embed_backward repeated", tag, float(not torch.equal(*got)), 0)


def check_linear(r, k):
    for rows, columns, stride in ((1, 8, 8), (37, 768, 800), (3000, 2304, 2304), (513, 264, 264)):
        tag = f"{rows}x{columns}"
        x = k.random(rows, stride)
        parts, start = poison(16, columns, dtype=torch.float32), floats(columns)
        g = start.clone()
        k.linear.launch("bias_gradient_parts", (up(columns, 256), 16, 1), (32, 8), 0, x, parts, rows, columns, stride)
        k.linear.launch("bias_gradient_add", up(columns, 32), (32, 32), 0, parts, g, 16, columns)
        r.check("bias_gradient", tag, error(g, start.double() + x[:, :columns].double().sum(0)), 1e-5)
        y, b = x.clone(), floats(columns)
        k.linear.launch("bias_add", up(rows * columns // 8, 256), 256, 0, y, b, rows, columns, stride)
        r.check("bias_add", tag, error(y[:, :columns], x[:, :columns].double() + b.double()), k.tol)


def check_gelu(r, k):
    for rows, columns, biased in ((1, 8, 1), (37, 3072, 0), (1000, 3808, 1), (300, 136, 1)):
        tag = f"{rows}x{columns}"
        u, dy, b = k.random(rows, columns) * 2, k.random(rows, columns), floats(columns)
        bias = b if biased else None
        x = (u.double() + (b.double() if biased else 0)).requires_grad_()
        ref = F.gelu(x)
        grad, = torch.autograd.grad(ref, x, dy.double())
        y, du, parts, start = poison(rows, columns, dtype=k.dtype), poison(rows, columns, dtype=k.dtype), poison(8, columns, dtype=torch.float32), floats(columns)
        k.gelu.launch("gelu_forward", up(rows * columns // 8, 256), 256, 0, u, bias, y, rows, columns, columns)
        r.check("gelu_forward", tag, error(y, ref), k.tol)
        k.gelu.launch("gelu_backward", (up(columns, 256), 8, 1), (32, 8), 0, dy, u, bias, du, parts, rows, columns, columns, columns)
        r.check("gelu_backward", tag, error(du, grad), k.tol)
        g = start.clone()
        k.linear.launch("bias_gradient_add", up(columns, 32), (32, 32), 0, parts, g, 8, columns)
        r.check("gelu_backward bias", tag, error(g, start.double() + grad.sum(0)), 1e-5)


def check_rotary(r, k):
    for batch, length, heads, size, pairs in ((2, 100, 3, 64, 8), (1, 2048, 2, 32, 4), (3, 77, 5, 80, 10), (2, 33, 2, 256, 32), (1, 50, 1, 128, 64)):
        tag = f"b{batch} t{length} h{heads} d{size} p{pairs}"
        n, stride = batch * length, heads * size + 8
        table = poison(length * pairs, 2, dtype=torch.float32)
        k.rotary.launch("rotary_table", up(length * pairs, 256), 256, 0, table, length, pairs, 10000.0)
        angle = torch.arange(length, device="cuda")[:, None].double() * (1.0 / 10000.0 ** (torch.arange(pairs, device="cuda").double() / pairs)).float().double()
        c, s = angle.cos(), angle.sin()
        r.check("rotary_table", tag, error(table.reshape(length, pairs, 2), torch.stack((c, s), -1)), 1e-4)
        x = k.random(n, stride)
        for direction in (1.0, -1.0):
            y = x.clone()
            k.rotary.launch("rotary", up(n * heads * (pairs // 8 if pairs % 8 == 0 else pairs), 256), 256, 0, y, table, n, length, heads, size, pairs, stride, direction)
            ref = x.double().clone()
            v = ref[:, :heads * size].reshape(batch, length, heads, size)
            p, q = v[..., :pairs].clone(), v[..., pairs:2 * pairs].clone()
            v[..., :pairs] = p * c[None, :, None] - direction * q * s[None, :, None]
            v[..., pairs:2 * pairs] = q * c[None, :, None] + direction * p * s[None, :, None]
            ref[:, :heads * size] = v.reshape(n, -1)
            r.check("rotary", tag, error(y, ref), k.tol)


def check_layernorm(r, k):
    h = k.hidden
    for rows in (1, 7, 100, 1111):
        tag = f"{rows}x{h}"
        x, a, m = (k.random(rows, h) for _ in range(3))
        g1, b1, g2, b2, ba, bm = (floats(h) for _ in range(6))
        mean, rstd = poison(rows, dtype=torch.float32), poison(rows, dtype=torch.float32)

        def forward(name, two, *inputs):
            y1, y2 = poison(rows, h, dtype=k.dtype), poison(rows, h, dtype=k.dtype)
            module = k.layernorm if name == "layernorm_forward" else k.residual
            module.launch(name, up(rows, k.rows), 256, 0, *inputs, g1, b1, y1, g2, b2, y2 if two else None, mean, rstd, rows, 1e-5)
            return y1, y2

        y1, y2 = forward("layernorm_forward", True, x)
        xd = x.double().requires_grad_()
        p = [t.double().requires_grad_() for t in (g1, b1, g2, b2)]
        n1, n2 = F.layer_norm(xd, (h,), p[0], p[1], 1e-5), F.layer_norm(xd, (h,), p[2], p[3], 1e-5)
        r.check("layernorm_forward", tag, max(error(y1, n1.detach()), error(y2, n2.detach())), k.tol)
        r.check("layernorm_forward mean", tag, error(mean, x.double().mean(1)), 1e-4)
        one, none = forward("layernorm_forward", False, x)
        r.check("layernorm_forward single", tag, float(not torch.equal(one, y1) or not none.isnan().all()), 0)
        mean_x, rstd_x = mean.clone(), rstd.clone()

        dy1, dy2, dres = (k.random(rows, h) for _ in range(3))
        for two, residual in ((True, True), (True, False), (False, True), (False, False)):
            blocks = 5
            parts, dx = poison(blocks, 5, h, dtype=torch.float32), poison(rows, h, dtype=k.dtype)
            tail = (dres if residual else None, dx, parts, rows)
            if two:
                k.layernorm.launch("layernorm_backward_two", blocks, k.threads, 0, x, mean_x, rstd_x, dy1, g1, dy2, g2, *tail)
            else:
                k.layernorm.launch("layernorm_backward", blocks, k.threads, 0, x, mean_x, rstd_x, dy1, g1, *tail)
            start = [floats(h) for _ in range(6)]
            got = [s.clone() for s in start]
            k.layernorm.launch("layernorm_backward_add", (up(h, 32), 6, 1), (32, 32), 0, parts, blocks, got[0], got[1], got[2] if two else None, got[3] if two else None,
                               got[4] if residual else None, got[5] if residual else None)
            outs, grads, wrt = ((n1, n2), (dy1.double(), dy2.double()), [xd] + p) if two else ((n1,), (dy1.double(),), [xd] + p[:2])
            ref = torch.autograd.grad(outs, wrt, grads, retain_graph=True)
            r.check("layernorm_backward", f"{tag} two {two} residual {residual}", error(dx, ref[0] + (dres.double() if residual else 0)), k.tol * 2)
            for i, g in enumerate(ref[1:]):
                r.check("layernorm_backward parameters", f"{tag} {i}", error(got[i], start[i].double() + g), 2e-5)
            if residual:
                for i in (4, 5):
                    r.check("layernorm_backward linear bias", tag, error(got[i], start[i].double() + dres.double().sum(0)), 1e-5)

        out = poison(rows, h, dtype=k.dtype)
        y1, y2 = forward("residual_layernorm_forward", True, x, a, m, ba, bm, out)
        total = x.double() + a.double() + m.double() + ba.double() + bm.double()
        r.check("residual_layernorm_forward", tag, error(out, total), k.tol)
        r.check("residual_layernorm_forward norm", tag, max(error(y1, F.layer_norm(out.double(), (h,), g1.double(), b1.double(), 1e-5)),
                                                          error(y2, F.layer_norm(out.double(), (h,), g2.double(), b2.double(), 1e-5))), k.tol)
        plain = poison(rows, h, dtype=k.dtype)
        k.residual.launch("residual_forward", up(rows * h // 8, 256), 256, 0, x, a, m, ba, bm, plain, rows)
        r.check("residual_forward", tag, float(not torch.equal(plain, out)), 0)
        k.residual.launch("residual_forward", up(rows * h // 8, 256), 256, 0, x, a, None, None, None, plain, rows)
        r.check("residual_forward", tag, error(plain, x.double() + a.double()), k.tol)


def check_headloss(r, k):
    v = k.vocab
    for rows, stride in ((1, v), (50, v + 8), (333, v)):
        tag = f"{rows}x{v}"
        logits = k.random(rows, stride) * 3
        targets = torch.randint(-1, v, (rows,), device="cuda", dtype=torch.int32)
        targets[rows // 2] = logits[rows // 2, :v].argmax()
        if rows > 4:
            targets[1], targets[2] = -1, v - 1
            logits[4, 100 % v] = logits[4, 3] = 60
            targets[3], targets[4] = 0, 100 % v
        x = logits[:, :v].double().requires_grad_()
        ref = F.cross_entropy(x, targets.long(), ignore_index=-1, reduction="none")
        grad, = torch.autograd.grad(ref.sum() * 0.5, x)
        loss, work = poison(rows, dtype=torch.float32), logits.clone()
        k.headloss.launch("head_loss", rows, 1024, 0, work, targets, loss, rows, long(stride), 0.5)
        r.check("head_loss", tag, error(loss, ref.detach()), 1e-5 if v > 8 else 2e-4)
        r.check("head_loss gradient", tag, error(work[:, :v], grad) if (targets >= 0).any() else work[:, :v].double().norm().item(), k.tol)
        other = floats(rows)
        total, diverged = (torch.full((1,), start, dtype=torch.float64, device="cuda") for start in (7.0, 5.0))
        counted = torch.full((1,), 3, dtype=torch.int32, device="cuda")
        k.headloss.launch("loss_sum", 1, 1024, 0, loss, other, targets, total, diverged, counted, rows)
        r.check("loss_sum", tag, abs(total.item() - 7 - loss.double().sum().item()) / max(1, loss.sum().item()) + abs(counted.item() - 3 - (targets >= 0).sum().item()), 1e-12)
        r.check("loss_sum divergence", tag, abs(diverged.item() - 5 - other.double().sum().item()), 1e-12)
        for weight, temperature in ((0.5, 1.0), (0.3, 2.0), (1.0, 0.5)):
            check_head_distill(r, k, f"{tag} weight {weight:g} temperature {temperature:g}", logits, targets, weight, temperature)
        like, greedy = poison(rows, dtype=torch.float32), torch.full((rows,), -9, dtype=torch.int32, device="cuda")
        k.headloss.launch("head_score", rows, 1024, 0, logits, targets, like, greedy, rows, long(stride))
        r.check("head_score", tag, error(like, -ref.detach()), 1e-5 if v > 8 else 2e-4)
        first = (logits[:, :v] == logits[:, :v].max(1, keepdim=True).values).int().argmax(1)
        r.check("head_score greedy", tag, float(not torch.equal(greedy, ((first == targets) & (targets >= 0)).int())), 0)


def check_head_distill(r, k, tag, logits, targets, weight, temperature):
    v, (rows, stride) = k.vocab, logits.shape
    teacher = k.random(rows, stride) * 2
    counts = targets >= 0
    x, y = logits[:, :v].double().requires_grad_(), teacher[:, :v].double()
    entropy = F.cross_entropy(x, targets.long(), ignore_index=-1, reduction="none")
    p, q = F.log_softmax(y / temperature, 1), F.log_softmax(x / temperature, 1)
    divergence = torch.where(counts, (p.exp() * (p - q)).sum(1), 0.)
    grad, = torch.autograd.grad(((1 - weight) * entropy + weight * temperature**2 * divergence).sum(), x)
    got, other, work = poison(rows, dtype=torch.float32), poison(rows, dtype=torch.float32), logits.clone()
    k.headloss.launch("head_distill", rows, 1024, 0, work, teacher, targets, got, other, rows, long(stride), weight, temperature)
    r.check("head_distill entropy", tag, error(got, entropy.detach()), 1e-5 if v > 8 else 2e-4)
    r.check("head_distill divergence", tag, error(other, divergence.detach()), 1e-5 if v > 8 else 2e-4)
    r.check("head_distill gradient", tag, error(work[:, :v], grad) if counts.any() else work[:, :v].double().norm().item(), k.tol)


class Parameters:
    def __init__(self, k, sizes, gradient=1.0):
        self.k, self.sizes = k, sizes
        self.w, self.m, self.v, self.g = ([floats(n) for n in sizes] for _ in range(4))
        for v, g in zip(self.v, self.g):
            v.abs_(), g.mul_(gradient)
        self.c = [poison(n, dtype=k.dtype) if i != 1 else None for i, n in enumerate(sizes)]
        rows, self.blocks = [], 0
        for i, n in enumerate(sizes):
            rows.append(struct.pack("<5QqiiQ", self.w[i].data_ptr(), self.m[i].data_ptr(), self.v[i].data_ptr(), self.g[i].data_ptr(),
                                    self.c[i].data_ptr() if self.c[i] is not None else 0, n, self.blocks, i % 2, 0))
            self.blocks += up(n, 8192)
        self.table = torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).cuda()
        self.parts = poison(self.blocks, dtype=torch.float64)

    def set_state(self, rate=1e-2, clip=1.0, steps=4, loss=2.0, counted=10):
        self.state = torch.frombuffer(bytearray(struct.pack("<6f2idi4fid", rate, 0.9, 0.95, 1e-8, 0.1, clip, 1, steps, loss, counted, 0, 0, 0, 0, 0, 0)), dtype=torch.uint8).cuda()

    def step(self):
        self.k.norm.launch("gradient_squares", self.blocks, 256, 0, self.table, len(self.sizes), self.parts)
        self.k.norm.launch("gradient_factor", 1, 1024, 0, self.parts, self.blocks, self.state)
        self.k.adamw.launch("adamw", self.blocks, 256, 0, self.table, len(self.sizes), self.state)

    def read(self):
        return struct.unpack("<6f2idi4fid", self.state.cpu().numpy().tobytes())


def check_adamw(r, k):
    for clip in (0.0, 1.0, 1e6):
        p = Parameters(k, [5, 8192, 100003, 768, 1, 30000])
        before = [[t.double() for t in group] for group in (p.w, p.m, p.v, p.g)]
        p.set_state(clip=clip)
        p.step()
        s = p.read()
        norm = math.sqrt(sum(g.pow(2).sum().item() for g in before[3])) / 10
        r.check("gradient_factor norm", f"clip {clip}", abs(s[10] - norm) / norm, 1e-6)
        factor = 0.1 * (min(1, clip / (norm + 1e-6)) if clip else 1)
        for i in range(len(p.sizes)):
            w, m, v, g = (b[i] for b in before)
            g = g * factor
            m = .9 * m + .1 * g
            v = .95 * v + .05 * g * g
            w = w * (1 - (1e-2 * .1 if i % 2 else 0)) - 1e-2 * (m / (1 - .9 ** 5)) / ((v / (1 - .95 ** 5)).sqrt() + 1e-8)
            r.check("adamw", f"clip {clip} tensor {i}", max(error(p.w[i], w), error(p.m[i], m), error(p.v[i], v)), 1e-6)
            r.check("adamw clears", f"{i}", p.g[i].abs().max().item(), 0)
            if p.c[i] is not None:
                r.check("adamw copy", f"{i}", float(not torch.equal(p.c[i], p.w[i].to(k.dtype))), 0)
        r.check("adamw steps", "", abs(s[7] - 5), 0)
    p = Parameters(k, [8192, 77])
    w = [t.clone() for t in p.w]
    p.g[1][3] = float("inf")
    p.set_state()
    p.step()
    s = p.read()
    r.check("adamw skips", "", float(s[14] != 1 or s[7] != 4 or not all(torch.equal(a, b) for a, b in zip(w, p.w)) or p.g[1].abs().max().item() != 0), 0)
    k.adamw.launch("copy_weights", p.blocks, 256, 0, p.table, 2)
    r.check("copy_weights", "", float(not torch.equal(p.c[0], p.w[0].to(k.dtype))), 0)


def print_time(name, ms, bytes):
    print(f"{name:28s} {ms:7.3f} ms  {bytes / ms / 1e9:5.2f} TB/s", flush=True)


def times(show=print_time):
    n, h, f, v, heads, length = 32 * 2048, 768, 3072, 50304, 12, 2048
    k = Kernels(16, h, v)
    e = 2

    x = torch.empty(1 << 29, device="cuda", dtype=torch.bfloat16).normal_()
    y = torch.empty_like(x)
    show("copy (ceiling)", median_ms(lambda: y.copy_(x)), 4 * x.numel())
    del x, y
    tokens = torch.randint(0, v, (n,), device="cuda", dtype=torch.int32)
    table, out = k.random(v, h), k.random(n, h)
    show("embed_forward", median_ms(lambda: k.embed.launch("embed_forward", up(n * h // 8, 256), 256, 0, tokens, table, out, n, h)), 2 * n * h * e)
    dtable, first, last = torch.zeros(v, h, device="cuda"), torch.empty(n // 32, h, device="cuda"), torch.empty(n // 32, h, device="cuda")
    s = Sorted(k, tokens)
    show("embed sort", median_ms(s.run), 32 * n)
    show("embed_backward with sort", median_ms(lambda: embed_backward(k, s, out, dtable, first, last)), n * h * (e + 8))
    s = Sorted(k, (torch.rand(n, device="cuda") ** 8 * 5000).int())
    show("the same, skewed tokens", median_ms(lambda: embed_backward(k, s, out, dtable, first, last)), n * h * (e + 8))
    s = Sorted(k, torch.zeros_like(tokens))
    show("the same, one token", median_ms(lambda: embed_backward(k, s, out, dtable, first, last)), n * h * (e + 8))
    del dtable
    a, m, y1, y2 = (k.random(n, h) for _ in range(4))
    g = [floats(h) for _ in range(6)]
    mean, rstd = floats(n), floats(n)
    grid = up(n, k.rows)
    show("layernorm_forward one", median_ms(lambda: k.layernorm.launch("layernorm_forward", grid, 256, 0, out, g[0], g[1], y1, g[2], g[3], None, mean, rstd, n, 1e-5)), 2 * n * h * e)
    show("layernorm_forward two", median_ms(lambda: k.layernorm.launch("layernorm_forward", grid, 256, 0, out, g[0], g[1], y1, g[2], g[3], y2, mean, rstd, n, 1e-5)), 3 * n * h * e)
    show("residual_layernorm two", median_ms(lambda: k.residual.launch("residual_layernorm_forward", grid, 256, 0, out, a, m, g[4], g[5], out, g[0], g[1], y1, g[2], g[3], y2, mean, rstd, n,
                                                                       1e-5)), 6 * n * h * e)
    for blocks in (264, 396, 528):
        parts, dx = torch.empty(blocks, 5, h, device="cuda"), torch.empty_like(out)
        show(f"layernorm_backward_two {blocks}", median_ms(lambda: k.layernorm.launch("layernorm_backward_two", blocks, k.threads, 0, out, mean, rstd, y1, g[0], y2, g[1], a, dx, parts, n)),
             5 * n * h * e)
    show("layernorm_backward 264", median_ms(lambda: k.layernorm.launch("layernorm_backward", 264, k.threads, 0, out, mean, rstd, y1, g[0], a, dx, parts, n)), 4 * n * h * e)
    show("layernorm_backward_add", median_ms(lambda: k.layernorm.launch("layernorm_backward_add", (up(h, 32), 6, 1), (32, 32), 0, parts, 264, *g)), 264 * 6 * h * 4)
    u, dy = k.random(n, f), k.random(n, f)
    bias = floats(f)
    show("gelu_forward", median_ms(lambda: k.gelu.launch("gelu_forward", up(n * f // 8, 256), 256, 0, u, bias, dy, n, f, f)), 2 * n * f * e)
    for share in (44, 88, 176):
        parts = torch.empty(share, f, device="cuda")
        show(f"gelu_backward {share}", median_ms(lambda: k.gelu.launch("gelu_backward", (up(f, 256), share, 1), (32, 8), 0, dy, u, bias, dy, parts, n, f, f, f)), 3 * n * f * e)
    qkv = k.random(n, 3 * h)
    parts = torch.empty(88, 3 * h, device="cuda")
    show("bias_gradient_parts qkv", median_ms(lambda: k.linear.launch("bias_gradient_parts", (up(3 * h, 256), 88, 1), (32, 8), 0, qkv, parts, n, 3 * h, 3 * h)), 3 * n * h * e)
    table = floats(length * 8, 2)
    show("rotary q and k", median_ms(lambda: k.rotary.launch("rotary", up(n * 2 * heads, 256), 256, 0, qkv, table, n, length, 2 * heads, 64, 8, 3 * h, 1.0)), 2 * n * 2 * h * e // 4)
    del qkv, u, dy
    rows = 8192
    logits, targets, loss = k.random(rows, v), torch.randint(0, v, (rows,), device="cuda", dtype=torch.int32), floats(rows)
    show("head_loss 8192 rows", median_ms(lambda: k.headloss.launch("head_loss", rows, 1024, 0, logits, targets, loss, rows, long(v), 1.0)), 2 * rows * v * e)
    teacher, other = k.random(rows, v), floats(rows)
    show("head_distill 8192 rows", median_ms(lambda: k.headloss.launch("head_distill", rows, 1024, 0, logits, teacher, targets, loss, other, rows, long(v), 0.5, 2.0)), 3 * rows * v * e)
    greedy = torch.empty_like(targets)
    show("head_score 8192 rows", median_ms(lambda: k.headloss.launch("head_score", rows, 1024, 0, logits, targets, loss, greedy, rows, long(v))), rows * v * e)
    del logits, teacher
    p = Parameters(k, [v * h, v * h] + [h * 3 * h, h * h, h * f, f * h] * 12 + [h, f] * 40, 1e-3)
    p.c[1] = k.random(v * h)
    p.set_state()
    total = sum(p.sizes)
    show("gradient_squares", median_ms(lambda: k.norm.launch("gradient_squares", p.blocks, 256, 0, p.table, len(p.sizes), p.parts)), 4 * total)
    show("gradient_factor", median_ms(lambda: k.norm.launch("gradient_factor", 1, 1024, 0, p.parts, p.blocks, p.state)), 8 * p.blocks)
    show("adamw", median_ms(lambda: k.adamw.launch("adamw", p.blocks, 256, 0, p.table, len(p.sizes), p.state)), (32 + 2) * total)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--check", action="store_true")
    a.add_argument("--time", action="store_true")
    a = a.parse_args()
    torch.manual_seed(2)
    if a.check:
        for storage in (16, 32):
            r = Report()
            k = Kernels(storage, 768, 50304)
            for f in (check_embed, check_linear, check_gelu, check_rotary, check_layernorm, check_headloss, check_adamw):
                f(r, k)
            for hidden, vocab in ((64, 512), (1032, 1000), (2048, 50280), (2560, 8), (4096, 50304)):
                k = Kernels(storage, hidden, vocab)
                check_layernorm(r, k)
                check_headloss(r, k)
            print("STORAGE", storage)
            r.show()
    if a.time:
        times()


if __name__ == "__main__":
    main()
