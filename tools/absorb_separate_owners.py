#!/usr/bin/env python3
"""What absorption would gain if keys and values had separate owners.

  pip install numpy torch         # a measurement, not a dependency
  tools/absorb_separate_owners.py bin/mlkv demo/base runs/absorb-rows/data
  tools/absorb_separate_owners.py --weighted --uptrain 42,43,44 bin/mlkv demo/base runs/absorb-rows/data

DATA is a folder of packed shards with held-out ones in DATA/heldout, as
tools/absorb-rows.sh makes it.

Keys and values are fitted independently of each other: keys change the key and
query projections, values the value and output projections. So the model with
key owners A and value owners B is mlkv's conversion to A with the value and
output projections of its conversion to B. For each number of owners this
converts MODEL to all contiguous maps with one key/value head, and scores every
pair of a map for keys and a map for values on the first held-out rows. What it
prints:

  checks      that the forward pass here gives the losses of mlkv convert --check
              for every common map, and that of the pair found best is the same
              with the fits of tools/absorb_reference.py (without --weighted)
  pairs       the loss of the even split, of the best common map and of the best
              pair, and of the best with one side even: on the rows that chose
              them, on the others and on all; with it the variance explained of
              keys, of their rotary channels and of values
  sums        the best maps of either side, mean over the maps of the other, and how
              well the loss of a pair is a sum of one term for each side
  uptrained   with --uptrain, on all held-out rows after 130 steps of 4 rows at a
              peak rate of 5e-4 (else the recipe of configs/demo.yaml; with
              --distill 0.9 that of configs/demo/best.yaml), for each seed of the
              order

Takes about a minute for 2 owners and a quarter of an hour for 4 on two cores,
and half a minute more for each model uptrained.
"""
import argparse
import itertools
import json
import math
import pathlib
import subprocess
import tempfile

import numpy as np
import torch
import torch.nn.functional as F

import absorb_reference as reference

# ---- packed shards


class Permutation:
    """The order of an epoch's rows, as internal/data/permute.go has it."""

    MASK = (1 << 64) - 1

    def __init__(self, n, key, epoch=0):
        self.n, self.half = n, max(1, ((n - 1).bit_length() + 1) // 2)
        state, self.keys = self.mix(key) ^ self.mix(epoch + 0x632BE59BD9B4E019), []
        for _ in range(6):
            state = (state + 0x9E3779B97F4A7C15) & self.MASK
            self.keys.append(self.mix(state))

    def mix(self, x):
        x &= self.MASK
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & self.MASK
        x = (x ^ x >> 27) * 0x94D049BB133111EB & self.MASK
        return x ^ x >> 31

    def __getitem__(self, i):
        mask = (1 << self.half) - 1
        while True:
            left, right = i >> self.half, i & mask
            for k in self.keys:
                left, right = right, left ^ self.mix(right ^ k) & mask
            i = left << self.half | right
            if i < self.n:
                return i


def read_rows(folder):
    """The rows of a folder of shards, [rows, row length + 1]; -1 behind a row's end."""
    out = []
    for path in sorted(pathlib.Path(folder).glob("*.rows")):
        data = path.read_bytes()
        width = int.from_bytes(data[16:20], "little") + 1
        count = int.from_bytes(data[24:32], "little")
        rows = np.frombuffer(data, "<u2", count * width, 256).reshape(count, width).astype(np.int32)
        used = np.frombuffer(data, "<u4", count, len(data) - 4 * count)
        rows[np.arange(width) >= used[:, None]] = -1
        out.append(rows)
    return torch.tensor(np.concatenate(out), dtype=torch.long)


# ---- models


class Net:
    """A GPT-NeoX model with a map of owners for keys and one for values."""

    def __init__(self, m, w, keys, values):
        self.m, self.w, self.keys, self.values = m, w, keys, values

    def logits(self, ids):
        m, w = self.m, self.w
        rows, length = ids.shape
        angle = torch.outer(torch.arange(length).double(), m.base ** (-2 * torch.arange(m.r // 2).double() / m.r))
        cos, sin = angle.cos().float(), angle.sin().float()

        def linear(x, name):
            return F.linear(x, w[name + ".weight"], w[name + ".bias"])

        def norm(x, name):
            return F.layer_norm(x, (m.hidden,), w[name + ".weight"], w[name + ".bias"], m.eps)

        def heads(x):  # [rows, heads, length, d]
            return x.view(rows, length, -1, m.d).transpose(1, 2)

        def rotate(x):
            h = m.r // 2
            a, b = x[..., :h], x[..., h : m.r]
            return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., m.r :]], -1)

        x = F.embedding(ids, w["gpt_neox.embed_in.weight"])
        key, value = {}, {}
        for l in range(m.layers):
            a = norm(x, m.name(l, "input_layernorm"))
            q = rotate(heads(linear(a, m.name(l, "attention.query"))))
            if self.keys[l] == l:
                key[l] = rotate(heads(linear(a, m.name(l, "attention.key"))))
            if self.values[l] == l:
                value[l] = heads(linear(a, m.name(l, "attention.value")))
            k, v = (y.repeat_interleave(m.heads // y.shape[1], 1) for y in (key[self.keys[l]], value[self.values[l]]))
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(rows, length, m.hidden)
            o = linear(o, m.name(l, "attention.dense"))
            x, y = x + o, x if m.parallel else x + o
            y = norm(y, m.name(l, "post_attention_layernorm"))
            x = x + linear(F.gelu(linear(y, m.name(l, "mlp.dense_h_to_4h"))), m.name(l, "mlp.dense_4h_to_h"))
        return F.linear(norm(x, "gpt_neox.final_layer_norm"), w["embed_out.weight"])

    def loss(self, rows, teacher=None, share=0.0):
        """Mean loss of the rows' targets, a share of it the divergence from a
        teacher."""
        ids, targets = rows[:, :-1].clamp(min=0), rows[:, 1:].flatten()
        logits = self.logits(ids).flatten(0, 1)
        loss = F.cross_entropy(logits, targets, ignore_index=-1)
        if share == 0:
            return loss
        with torch.no_grad():
            p = teacher.logits(ids).flatten(0, 1).log_softmax(-1)
        divergence = (p.exp() * (p - logits.log_softmax(-1))).sum(-1)[targets >= 0].mean()
        return (1 - share) * loss + share * divergence

    @torch.no_grad()
    def score(self, rows, batch=16):
        if len(rows) == 0:
            return math.nan
        total = tokens = 0
        for part in rows.split(batch):
            n = (part[:, 1:] >= 0).sum().item()
            total, tokens = total + self.loss(part).item() * n, tokens + n
        return total / tokens


def combined(keys, values):
    """The model with the keys of one conversion and the values of another."""
    of_values = (".attention.value.", ".attention.dense.")
    w = {n: x for n, x in keys.w.items() if not any(part in n for part in of_values)}
    w |= {n: x for n, x in values.w.items() if any(part in n for part in of_values)}
    return Net(keys, w, keys.owner, values.owner)


class Conversions:
    """mlkv's conversions of one model by their owner map."""

    def __init__(self, o, work):
        self.o, self.work, self.models, self.off = o, pathlib.Path(work), {}, 0.0

    def __getitem__(self, owner):
        """The model, with variance explained, mean of its members, as .explained."""
        if owner not in self.models:
            o, name = self.o, "_".join(map(str, owner))
            cmd = [o.mlkv, "convert", o.model, "--layer-map", name, "--kv-heads", "1", "--out", self.work / name, "--dtype", "float32", "--start", "absorb",
                   "--calibration", o.data, "--check", f"{o.data}/heldout", "--check-rows", str(o.rows), "--threads", str(o.threads)]
            subprocess.run(cmd + ["--absorb-weighted"] * o.weighted, check=True, capture_output=True)
            report = json.loads((self.work / name / "convert.json").read_text())
            m = reference.read_model(self.work / name)
            m.w = {n: torch.tensor(x, dtype=torch.float32) for n, x in m.w.items()}
            heads = report["absorbed"]["heads"]
            m.explained = {part: sum(h[f"{part}_variance_explained"] * h["source_heads"] for h in heads) / sum(h["source_heads"] for h in heads)
                           for part in ["key", "key_rotary", "value"]}
            m.checked = report["check"]["loss_after"]
            self.models[owner] = m
        return self.models[owner]

    def plain(self):
        """The unconverted model, in float32."""
        out = self.work / "plain"
        subprocess.run([self.o.mlkv, "convert", self.o.model, "--out", out, "--dtype", "float32"], check=True, capture_output=True)
        return reference.read_model(out)


def by_reference(plain, ids, keys, values):
    """The same pair with the fits of tools/absorb_reference.py."""
    fits = []
    for owner in [keys, values]:
        m = reference.absorb(plain, ids, list(owner), 1)
        m.w = {n: torch.tensor(x, dtype=torch.float32) for n, x in m.w.items()}
        fits.append(m)
    return combined(*fits)


# ---- what is measured


def uptrain(net, train, seed, teacher, share, steps=130, rows=4, peak=5e-4, warmup=13):
    """Trains a copy, as configs/demo.yaml does at another peak rate, or as
    configs/demo/best.yaml does where share is 0.9."""
    w = {n: torch.nn.Parameter(x.clone()) for n, x in net.w.items()}
    net = Net(net.m, w, net.keys, net.values)
    matrices = [x for x in w.values() if x.dim() > 1]
    vectors = [x for x in w.values() if x.dim() <= 1]
    opt = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.95), eps=1e-8)
    order = Permutation(len(train), seed)
    for step in range(steps):
        rate = peak * step / warmup if step < warmup else peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
        for group in opt.param_groups:
            group["lr"] = rate
        opt.zero_grad()
        net.loss(train[[order[step * rows + i] for i in range(rows)]], teacher, share).backward()
        torch.nn.utils.clip_grad_norm_(w.values(), 1.0)
        opt.step()
    return net


def text(owner):
    return "_".join(map(str, owner))


def sums(loss, maps, conversions):
    """Prints which maps are good whatever the other side has, and how far the
    losses of pairs are from a sum of one term for keys and one for values."""
    for part, side in [("key", 0), ("value", 1)]:
        mean = {m: np.mean([x for owners, x in loss.items() if owners[side] == m]) for m in maps}
        best = sorted(maps, key=mean.get)[:5]
        shown = (f"{text(m)} {mean[m]:.3f} ({conversions[m].explained[part]:.3f})" for m in best)
        print(f"best maps of {part}s, mean over the other side's and variance explained: {', '.join(shown)}")
        r = np.corrcoef([mean[m] for m in maps], [conversions[m].explained[part] for m in maps])[0, 1]
        print(f"  range of these means {max(mean.values()) - min(mean.values()):.3f}, correlation with variance explained {r:+.2f}")
    grid = np.array([[loss[a, b] for b in maps] for a in maps])
    left = grid - grid.mean(1, keepdims=True) - grid.mean(0, keepdims=True) + grid.mean()
    print(f"standard deviation of all pairs {grid.std():.4f}, of what a sum of both sides leaves {left.std():.4f}", flush=True)


def measure(o, owners, work, train, held):
    conversions = Conversions(o, work)
    layers = json.loads(pathlib.Path(o.model, "config.json").read_text())["num_hidden_layers"]
    maps = []
    for rest in itertools.combinations(range(1, layers), owners - 1):
        maps.append(tuple(max(x for x in (0, *rest) if x <= l) for l in range(layers)))
    even = tuple(l - l % (layers // owners) for l in range(layers))
    first = held[: o.rows]
    print(f"\n{owners} owners of one head, {len(maps)} maps, {'weighted' if o.weighted else 'plain'}, first {len(first)} held-out rows", flush=True)

    loss = {(a, b): combined(conversions[a], conversions[b]).score(first) for a in maps for b in maps}
    off = max(abs(loss[a, a] - conversions[a].checked) for a in maps)
    print(f"losses of common maps differ from mlkv's by at most {off:.1e}")

    rows = {
        "even split": (even, even),
        "best common map": min(((a, a) for a in maps), key=loss.get),
        "even keys, best values": min(((even, b) for b in maps), key=loss.get),
        "best keys, even values": min(((a, even) for a in maps), key=loss.get),
        "best pair": min(loss, key=loss.get),
        "worst pair": max(loss, key=loss.get),
    }
    pair = rows["best pair"]
    rows |= {"its keys' map for both": (pair[0], pair[0]), "its values' map for both": (pair[1], pair[1])}
    rows |= {f"of --pairs, {i + 1}": x for i, x in enumerate(o.pairs) if len(set(x[0])) == len(set(x[1])) == owners}
    plain = conversions.plain()
    if not o.weighted:
        order, wanted = Permutation(len(train), 42), -(-32 * (plain.hidden + 1) // (train.shape[1] - 1))
        ids = train[[order[i] for i in range(wanted)], :-1].numpy()
        print(f"the best pair fitted by absorb_reference.py: {by_reference(plain, ids, *pair).score(first):.6f}, by mlkv {loss[pair]:.6f}")

    print(f"{'':26}{'keys':18}{'values':18}{'first':>8}{'others':>8}{'all':>8}   explained: keys, rotary, values")
    for name, (a, b) in rows.items():
        net = combined(conversions[a], conversions[b])
        e = conversions[a].explained
        print(f"{name:26}{text(a):18}{text(b):18}{loss[a, b]:8.4f}{net.score(held[o.rows :]):8.4f}{net.score(held):8.4f}"
              f"   {e['key']:.3f}, {e['key_rotary']:.3f}, {conversions[b].explained['value']:.3f}", flush=True)
    better, than_even = (sum(x < loss[rows[name]] for x in loss.values()) for name in ["best common map", "even split"])
    print(f"{better} of {len(loss)} pairs are better than the best common map, {than_even} than the even split")
    sums(loss, maps, conversions)

    teacher = Net(plain, {n: torch.tensor(x, dtype=torch.float32) for n, x in plain.w.items()}, plain.owner, plain.owner)
    for seed in o.uptrain:
        done = {}
        for name, (a, b) in rows.items():
            if name in ["even keys, best values", "best keys, even values", "worst pair"]:
                continue
            if (a, b) not in done:
                done[a, b] = uptrain(combined(conversions[a], conversions[b]), train, seed, teacher, o.distill).score(held)
            print(f"uptrained, seed {seed}, share of the divergence {o.distill:g}: {name:26}{done[a, b]:.4f}", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--owners", default="2,4", help="numbers of owners, with commas")
    p.add_argument("--rows", type=int, default=32, help="held-out rows that choose")
    p.add_argument("--weighted", action="store_true", help="convert with --absorb-weighted")
    p.add_argument("--uptrain", metavar="SEEDS", default="", help="uptrain too, with these seeds of the order, with commas")
    p.add_argument("--distill", type=float, default=0, help="share of the divergence from MODEL in the loss of --uptrain")
    p.add_argument("--pairs", default="", help="more pairs to show and uptrain: the owners of keys, a slash, those of values, with commas")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("mlkv")
    p.add_argument("model")
    p.add_argument("data")
    o = p.parse_args()
    o.uptrain = [int(x) for x in o.uptrain.split(",") if x]
    o.pairs = [tuple(tuple(int(x) for x in side.split("_")) for side in pair.split("/")) for pair in o.pairs.split(",") if pair]
    torch.set_num_threads(o.threads)
    train, held = read_rows(o.data), read_rows(f"{o.data}/heldout")
    for owners in [int(x) for x in o.owners.split(",")]:
        with tempfile.TemporaryDirectory() as work:
            measure(o, owners, work, train, held)


if __name__ == "__main__":
    main()
