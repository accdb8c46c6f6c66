#!/usr/bin/env python3
"""Absorption computed the plain way, and compared with `mlkv convert --start absorb`.

  pip install numpy               # a test tool, not a dependency
  tools/absorb_reference.py bin/mlkv MODEL...        # compares many layouts of each model
  tools/absorb_reference.py --fixture internal/absorb/testdata/reference

The whole of it is here in numpy and float64: the GPT-NeoX forward pass, the
activations of every calibration token, the regressions with every query head as
a member of its own, complex numbers in the planes of rotary. Nothing is shared
with the Go code, which keeps only second moments, counts heads that share keys
and values once, and scales shared heads.

A comparison converts MODEL by mlkv on a shard of random tokens, converts it
here on the same tokens, and compares the logits of both on other tokens. It
exits with 1 where they differ by more than the tolerance. --fixture writes small
random models with the logits that they have after absorption, for the tests
of internal/absorb.
"""
import argparse
import hashlib
import itertools
import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy as np

RIDGE = 1e-10  # in units of the mean square of an input channel


# ---- files


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    out = {}
    for name, t in json.loads(data[8 : 8 + n]).items():
        if name == "__metadata__":
            continue
        if t["dtype"] != "F32":
            sys.exit(f"{path}: {name}: expected F32, found {t['dtype']}")
        lo, hi = t["data_offsets"]
        out[name] = np.frombuffer(data[8 + n + lo : 8 + n + hi], "<f4").reshape(t["shape"]).astype(np.float64)
    return out


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, x in tensors.items():
        dtype = {"float32": "F32", "int32": "I32"}[str(x.dtype)]
        header[name] = {"dtype": dtype, "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(x.tobytes() for x in tensors.values()))


def write_shard(path, rows, vocab, tokenizer):
    """A packed shard of full rows, each with one token more than it predicts."""
    count, width = rows.shape
    body = rows.astype("<u2").tobytes()
    body += b"\0" * (-len(body) % 4)
    body += np.full(count, width, "<u4").tobytes()
    head = struct.pack("<8sIIIIqqI", b"MLKVROWS", 1, 256, width - 1, 1, count, rows.size, vocab)
    head = head.ljust(48, b"\0") + tokenizer + hashlib.sha256(body).digest()
    head = head.ljust(252, b"\0")
    pathlib.Path(path).write_bytes(head + struct.pack("<I", zlib.crc32(head)) + body)


class Model:
    """A GPT-NeoX model whose query, key and value are separate projections."""

    def __init__(self, config, weights):
        self.config, self.w = config, weights
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.hidden, self.eps = config["hidden_size"], config["layer_norm_eps"]
        self.d = self.hidden // self.heads
        self.r = int(self.d * config["rotary_pct"])
        self.base = config["rotary_emb_base"]
        self.parallel = config["use_parallel_residual"]
        self.kv_heads = config.get("num_key_value_heads", self.heads)
        text = config.get("layer_map")
        self.owner = [int(x) for x in text.split("_")] if text else list(range(self.layers))

    def name(self, layer, module):
        return f"gpt_neox.layers.{layer}.{module}"

    def linear(self, layer, module):
        n = self.name(layer, module)
        return self.w[n + ".weight"], self.w[n + ".bias"]


def read_model(folder):
    folder = pathlib.Path(folder)
    config = json.loads((folder / "config.json").read_text())
    w = read_safetensors(folder / "model.safetensors")
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    for name in [n for n in w if ".query_key_value." in n]:
        x = w.pop(name).reshape(heads, 3, hidden // heads, -1)
        for i, part in enumerate(["query", "key", "value"]):
            y = x[:, i].reshape(hidden, -1)
            w[name.replace("query_key_value", part)] = y[:, 0] if name.endswith("bias") else y
    return Model(config, w)


# ---- the forward pass


def norm(m, x, module):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + m.eps) * m.w[module + ".weight"] + m.w[module + ".bias"]


erf = np.vectorize(math.erf, otypes=[float])


def rotate(m, x):
    """x [rows, length, heads, d] with its first r channels turned by position."""
    half = m.r // 2
    if half == 0:
        return x
    angle = np.outer(np.arange(x.shape[1]), m.base ** (-2 * np.arange(half) / m.r))
    turn = np.exp(1j * angle)[None, :, None, :]
    z = (x[..., :half] + 1j * x[..., half : m.r]) * turn
    return np.concatenate([z.real, z.imag, x[..., m.r :]], -1)


def forward(m, ids):
    """Logits [rows, length, vocab], and per layer the attention's input and, where
    the layer owns them, its keys before rotary and its values."""
    rows, length = ids.shape
    x = m.w["gpt_neox.embed_in.weight"][ids]
    mask = np.where(np.tril(np.ones((length, length))) > 0, 0, -np.inf)
    seen, held = [], {}
    for l in range(m.layers):
        a = norm(m, x, m.name(l, "input_layernorm"))

        def heads(module, n):
            w, b = m.linear(l, "attention." + module)
            return (a @ w.T + b).reshape(rows, length, n, m.d)

        q = rotate(m, heads("query", m.heads))
        key = value = None
        if m.owner[l] == l:
            key, value = heads("key", m.kv_heads), heads("value", m.kv_heads)
            held[l] = rotate(m, key), value
        seen.append((a, key, value))
        k, v = (np.repeat(y, m.heads // m.kv_heads, axis=2) for y in held[m.owner[l]])
        s = np.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(m.d) + mask
        s = np.exp(s - s.max(-1, keepdims=True))
        s /= s.sum(-1, keepdims=True)
        o = np.einsum("bhij,bjhd->bihd", s, v).reshape(rows, length, m.hidden)
        w, b = m.linear(l, "attention.dense")
        attended = o @ w.T + b
        if not m.parallel:
            x = x + attended
        w, b = m.linear(l, "mlp.dense_h_to_4h")
        y = norm(m, x, m.name(l, "post_attention_layernorm")) @ w.T + b
        y = y * 0.5 * (1 + erf(y / math.sqrt(2)))
        w, b = m.linear(l, "mlp.dense_4h_to_h")
        x = x + y @ w.T + b + (attended if m.parallel else 0)
    x = norm(m, x, "gpt_neox.final_layer_norm")
    return x @ m.w["embed_out.weight"].T, seen


# ---- absorption


def regress(x, y):
    """Least squares with the ridge: x [tokens, n], y [tokens, any]."""
    xx = x.T @ x
    return np.linalg.solve(xx + RIDGE * np.trace(xx) / len(xx) * np.eye(len(xx)), x.T @ y), xx


def reduced(x, y, rank):
    """W [n, rank] and E [y's columns, rank] such that y is nearly x W E^H."""
    b, xx = regress(x, y)
    _, e = np.linalg.eigh(b.conj().T @ xx @ b)
    e = e[:, ::-1][:, :rank]
    return b @ e, e


def absorb(m, ids, owner, kv_heads):
    """The model with keys and values shared as owner and kv_heads say, its MLPs
    as they were."""
    _, seen = forward(m, ids)
    tokens = ids.size
    w = {n: x for n, x in m.w.items()}
    d, r, half = m.d, m.r, m.r // 2
    for o in sorted(set(owner)):
        x = np.concatenate([seen[o][0].reshape(tokens, -1), np.ones((tokens, 1))], 1)
        new = {part: np.zeros((m.hidden + 1, kv_heads * d)) for part in ["key", "value"]}
        for g in range(kv_heads):
            at = g * d
            members = [(l, h) for l in range(m.layers) if owner[l] == o for h in range(m.heads) if h * kv_heads // m.heads == g]

            def stacked(part, channels):
                each = [seen[m.owner[l]][part].reshape(tokens, m.kv_heads, d)[:, h * m.kv_heads // m.heads][:, channels] for l, h in members]
                return np.concatenate(each, 1)

            fit, e = reduced(x, stacked(2, slice(0, d)), d)
            new["value"][:, at : at + e.shape[1]] = fit
            for i, (l, h) in enumerate(members):
                name = m.name(l, "attention.dense.weight")
                w[name] = w[name].copy()
                w[name][:, h * d : (h + 1) * d] = m.w[name][:, h * d : (h + 1) * d] @ e[i * d : (i + 1) * d]

            turned = {}
            if r < d:
                fit, e = reduced(x, stacked(1, slice(r, d)), d - r)
                new["key"][:, at + r : at + d] = fit
                for i, member in enumerate(members):
                    turned[member] = np.zeros((d, d))
                    turned[member][r:, r:] = e[i * (d - r) : (i + 1) * (d - r)].T
            for p in range(half):
                z = stacked(1, slice(p, p + 1)) + 1j * stacked(1, slice(p + half, p + half + 1))
                fit, v = reduced(x, z, 1)
                new["key"][:, at + p], new["key"][:, at + p + half] = fit[:, 0].real, fit[:, 0].imag
                for i, member in enumerate(members):
                    c = v[i, 0]  # conj(a): the query's multiple
                    t = turned.setdefault(member, np.zeros((d, d)))
                    t[p, p], t[p, p + half], t[p + half, p], t[p + half, p + half] = c.real, -c.imag, c.imag, c.real
            for (l, h), t in turned.items():
                for suffix in [".weight", ".bias"]:
                    name = m.name(l, "attention.query" + suffix)
                    if w[name] is m.w[name]:
                        w[name] = w[name].copy()
                    w[name][h * d : (h + 1) * d] = t @ m.w[name][h * d : (h + 1) * d]
        for part, x in new.items():
            w[m.name(o, f"attention.{part}.weight")], w[m.name(o, f"attention.{part}.bias")] = x[:-1].T, x[-1]
    config = dict(m.config, num_key_value_heads=kv_heads, layer_map="_".join(map(str, owner)))
    return Model(config, w)


# ---- comparison


def layouts(m):
    """Owner maps and numbers of heads to try on a plain model."""
    n = m.layers
    if n <= 3:
        maps = [c for c in itertools.product(*(range(i + 1) for i in range(n))) if all(c[o] == o for o in c)]
    else:
        groups = [[i - i % s for i in range(n)] for s in (1, 2, 3, n)]
        maps = groups + [[0] + [1 + i % 2 for i in range(n - 1)], [0, 0, 2] + [2 * (i % 2) for i in range(n - 3)]]
    for owner in maps:
        for heads in [h for h in range(1, m.heads + 1) if m.heads % h == 0]:
            yield list(owner), heads


def compare(mlkv, folder, rows, tolerance, seed):
    rng = np.random.default_rng(seed)
    plain = read_model(folder)
    length = min(64, plain.config["max_position_embeddings"])
    ids = rng.integers(0, plain.config["vocab_size"], (rows, length + 1))
    other = rng.integers(0, plain.config["vocab_size"], (2, length))
    tokenizer = pathlib.Path(folder, "tokenizer.json")
    worst = 0.0
    with tempfile.TemporaryDirectory() as tmp:
        shard = f"{tmp}/x.rows"
        digest = hashlib.sha256(tokenizer.read_bytes()).digest() if tokenizer.exists() else bytes(32)
        write_shard(shard, ids, plain.config["vocab_size"], digest)

        def convert(source, owner, heads, *more):
            out = f"{tmp}/out{next(count)}"
            cmd = [mlkv, "convert", source, "--layer-map", "_".join(map(str, owner)), "--kv-heads", str(heads), "--out", out, "--dtype", "float32"]
            subprocess.run([*cmd, *more], check=True, capture_output=True)
            return out

        count = itertools.count()
        cases = [(folder, plain, owner, heads) for owner, heads in layouts(plain)]
        if plain.heads % 2 == 0:  # sources that share already
            for owner in [list(range(plain.layers)), [i - i % 2 for i in range(plain.layers)]]:
                grouped = convert(folder, owner, plain.heads // 2, "--grow", "none")
                cases += [(grouped, read_model(grouped), owner, 1), (grouped, read_model(grouped), [0] * plain.layers, 1)]
        for source, m, owner, heads in cases:
            out = convert(source, owner, heads, "--start", "absorb", "--calibration", shard, "--calibration-rows", str(rows))
            got, _ = forward(read_model(out), other)
            want, _ = forward(absorb(m, ids[:, :-1], owner, heads), other)
            before, _ = forward(m, other)
            off = np.abs(got - want).max() / np.abs(want).max()
            moved = np.abs(want - before).max() / np.abs(before).max()
            worst = max(worst, off)
            print(f"{folder}: {m.kv_heads} heads, owners {'_'.join(map(str, m.owner))} -> {heads}, {'_'.join(map(str, owner))}: "
                  f"differ by {off:.1e} of the greatest logit; absorption moved logits by {moved:.1e}")
    print(f"{folder}: {len(cases)} layouts, worst {worst:.1e}")
    return worst <= tolerance


# ---- fixtures


def fixture(folder):
    for number, (rotary, parallel) in enumerate([(0.5, True), (1.0, False)]):
        rng = np.random.default_rng(number)
        config = {
            "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "bos_token_id": 0, "eos_token_id": 0,
            "hidden_act": "gelu", "hidden_size": 16, "initializer_range": 0.02, "intermediate_size": 32, "layer_norm_eps": 1e-5,
            "max_position_embeddings": 32, "num_attention_heads": 2, "num_hidden_layers": 4, "rotary_emb_base": 10000,
            "rotary_pct": rotary, "tie_word_embeddings": False, "torch_dtype": "float32", "use_parallel_residual": parallel, "vocab_size": 48,
        }
        shapes = {"gpt_neox.embed_in.weight": (48, 16), "embed_out.weight": (48, 16)}
        shapes |= {"gpt_neox.final_layer_norm.weight": (16,), "gpt_neox.final_layer_norm.bias": (16,)}
        for l in range(4):
            for module, shape in [("attention.query_key_value", (48, 16)), ("attention.dense", (16, 16)),
                                  ("mlp.dense_h_to_4h", (32, 16)), ("mlp.dense_4h_to_h", (16, 32)),
                                  ("input_layernorm", (16,)), ("post_attention_layernorm", (16,))]:
                shapes[f"gpt_neox.layers.{l}.{module}.weight"] = shape
                shapes[f"gpt_neox.layers.{l}.{module}.bias"] = shape[:1]
        w = {}
        for name, shape in shapes.items():
            x = rng.standard_normal(shape)
            if len(shape) == 2:
                x *= 1 / math.sqrt(shape[1])
            elif "norm.weight" in name or "layernorm.weight" in name:
                x = 1 + 0.2 * x
            else:
                x *= 0.3
            w[name] = x.astype(np.float32)
        out = pathlib.Path(folder, f"rotary-{rotary:g}-{'parallel' if parallel else 'sequential'}")
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        write_safetensors(out / "model.safetensors", w)
        m = read_model(out)
        ids, other = rng.integers(0, 48, (8, 24)), rng.integers(0, 48, (1, 24))
        results = {"calibration": ids.astype(np.int32), "input_ids": other[0].astype(np.int32)}
        for owner, heads in layouts(m):
            if heads == m.heads and owner == m.owner:
                continue
            logits, _ = forward(absorb(m, ids, owner, heads), other)
            results[f"{'_'.join(map(str, owner))}x{heads}"] = logits[0].astype(np.float32)
        write_safetensors(out / "reference.safetensors", results)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--fixture", metavar="FOLDER")
    p.add_argument("--rows", type=int, default=16, help="calibration rows of up to 64 tokens")
    p.add_argument("--tolerance", type=float, default=1e-3)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("mlkv", nargs="?")
    p.add_argument("models", nargs="*")
    o = p.parse_args()
    if o.fixture:
        fixture(o.fixture)
        return
    if not o.models:
        p.error("expected the mlkv binary and at least one model folder")
    good = [compare(o.mlkv, model, o.rows, o.tolerance, o.seed) for model in o.models]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
