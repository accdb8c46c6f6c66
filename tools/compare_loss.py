#!/usr/bin/env python3
"""Trains one model with mlkv and with PyTorch, from the same weights on the same
batches, and compares the losses. Needs PyTorch and safetensors, and a GPU unless
both are told to use the CPU.

  mlkv prepare --tokenizer pythia-160m --limit 1400 --out SHARD train-00.jsonl.zst
  tools/compare_loss.py --mlkv bin/mlkv --peer ../shared/bench --shard SHARD

The weights are those of CHECKPOINT, or random ones of SIZE; the order of rows is
that of mlkv's loader, computed here once more; each step's learning rate is the
one that mlkv's metrics name. PyTorch computes as bench_train.py does: float32
weights, autocast to bfloat16, fused AdamW, gradients clipped to norm 1, no decay
of biases and norms. Exits with 1 where the mean losses of the last steps differ
by more than the tolerance.

The time from the command to the first step is reported, too. With --warm a run of
a single step comes first, which leaves kernels and the choice of products in
mlkv's cache; its time is reported beside.
"""
import argparse
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

MASK = (1 << 64) - 1


def mix(x):
    """The finalizer of SplitMix64."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def permutation(n, key, epoch):
    """mlkv's order of n rows in an epoch (internal/data/permute.go)."""
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    state = mix(key & MASK) ^ mix(epoch + 0x632BE59BD9B4E019 & MASK)
    keys = []
    for _ in range(6):
        state = state + 0x9E3779B97F4A7C15 & MASK
        keys.append(mix(state))
    mask, order = (1 << half) - 1, []
    for x in range(n):
        while True:
            left, right = x >> half, x & mask
            for k in keys:
                left, right = right, left ^ mix(right ^ k) & mask
            x = left << half | right
            if x < n:
                break
        order.append(x)
    return order


def read_rows(folder):
    """The rows of a folder of packed shards [rows, length + 1], and how many tokens each uses."""
    rows, used = [], []
    for path in sorted(pathlib.Path(folder).glob("*.rows")):
        raw = path.read_bytes()
        length, = struct.unpack_from("<I", raw, 16)
        n, = struct.unpack_from("<q", raw, 24)
        rows.append(np.frombuffer(raw, "<u2", n * (length + 1), 256).reshape(n, length + 1))
        used.append(np.frombuffer(raw, "<u4", n, len(raw) - 4 * n))
    return np.concatenate(rows), np.concatenate(used)


def batches(folder, rows_a_step, steps, seed):
    """Inputs and targets of every step; targets that a short row lacks are -100."""
    rows, used = read_rows(folder)
    order, epoch = [], 0
    while len(order) < rows_a_step * steps:
        order += permutation(len(rows), seed, epoch)
        epoch += 1
    for s in range(steps):
        pick = order[s * rows_a_step:(s + 1) * rows_a_step]
        batch = torch.from_numpy(rows[pick].astype(np.int64))
        targets = batch[:, 1:].clone()
        targets[torch.arange(1, batch.shape[1]) >= torch.from_numpy(used[pick].astype(np.int64))[:, None]] = -100
        yield batch[:, :-1], targets


def load_model(folder, peer):
    sys.path.insert(0, str(peer))
    from torch_mlkv import Config, Model
    c = json.loads((folder / "config.json").read_text())
    heads, layers = c["num_attention_heads"], c["num_hidden_layers"]
    cfg = Config(vocab=c["vocab_size"], hidden=c["hidden_size"], layers=layers, heads=heads, ffn=c["intermediate_size"],
                 kv_layers=c.get("num_key_value_layers", layers), kv_heads=c.get("num_key_value_heads", heads),
                 rotary_pct=c.get("rotary_pct", 0.25), eps=c.get("layer_norm_eps", 1e-5))
    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights.update(load_file(file))
    names = {"gpt_neox.embed_in": "embed", "gpt_neox.final_layer_norm": "ln", "embed_out": "head"}
    parts = {"input_layernorm": "ln1", "post_attention_layernorm": "ln2", "attention.query": "q", "attention.key": "k", "attention.value": "v",
             "attention.dense": "o", "mlp.dense_h_to_4h": "up", "mlp.dense_4h_to_h": "down"}
    names.update({f"gpt_neox.layers.{i}.{a}": f"layers.{i}.{b}" for i in range(layers) for a, b in parts.items()})
    state = {}
    for name, w in weights.items():
        stem, leaf = name.rsplit(".", 1)
        if stem.endswith("query_key_value"):  # rows are [head, (q, k, v), head size]
            split = w.unflatten(0, (heads, 3, -1))
            for i, part in enumerate(("query", "key", "value")):
                state[names[stem.removesuffix("query_key_value") + part] + "." + leaf] = split[:, i].flatten(0, 1).float()
        elif stem in names:
            state[names[stem] + "." + leaf] = w.float()
    model = Model(cfg)
    model.load_state_dict(state)
    return model


def train_peer(model, data, rates, device, compiled):
    model = model.to(device)
    decays = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() == 1]
    opt = torch.optim.AdamW([{"params": decays, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}],
                            lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=device == "cuda")

    def objective(x, y):
        with torch.autocast(device, torch.bfloat16):
            logits = model(x)
        return F.cross_entropy(logits.float().flatten(0, 1), y.flatten())

    if compiled:
        objective = torch.compile(objective)
    losses = []
    for (x, y), rate in zip(data, rates, strict=True):
        for group in opt.param_groups:
            group["lr"] = rate
        loss = objective(x.to(device), y.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    return torch.stack(losses).cpu().tolist()


def run_mlkv(a, checkpoint, out, steps):
    """Trains and returns the metrics of every step and the seconds until the first one was recorded."""
    command = [a.mlkv, "uptrain", str(checkpoint), "--out", str(out), "--force", "--train", str(a.shard), "--steps", str(steps), "--rows", str(a.rows),
               "--micro-rows", str(a.rows), "--learning-rate", str(a.rate), "--seed", str(a.seed), "--device", a.device, "--precision", "bf16",
               "--set", "uptrain.log_every=1", "--set", "uptrain.checkpoint_every=0"]
    metrics, log, first = out / "metrics.jsonl", out.with_suffix(".log"), None
    start = time.monotonic()
    with log.open("w") as f, subprocess.Popen(command, stdout=f, stderr=f) as p:
        while p.poll() is None:
            if first is None and metrics.exists() and metrics.stat().st_size > 0:
                first = time.monotonic() - start
            time.sleep(0.01)
    if p.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {p.returncode}\n{log.read_text()[-2000:]}")
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [s for s in steps if "lr" in s], first


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mlkv", default="bin/mlkv")
    p.add_argument("--peer", type=pathlib.Path, default="../shared/bench", help="folder of torch_mlkv.py")
    p.add_argument("--shard", type=pathlib.Path, required=True, help="folder that mlkv prepare wrote")
    p.add_argument("--checkpoint", type=pathlib.Path, help="weights to start from")
    p.add_argument("--size", default="pythia-160m", help="of random weights where there is no checkpoint")
    p.add_argument("--steps", type=int, default=200)
    p.add_argument("--rows", type=int, default=8, help="of 2048 tokens in a step")
    p.add_argument("--rate", type=float, default=6e-4, help="peak learning rate")
    p.add_argument("--seed", type=int, default=42, help="of the order of rows")
    p.add_argument("--last", type=int, default=50, help="steps at the end whose losses are averaged")
    p.add_argument("--tolerance", type=float, default=0.01)
    p.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    p.add_argument("--warm", action="store_true", help="make a run of one step first")
    p.add_argument("--compile", action="store_true", help="compile the peer")
    p.add_argument("--json", type=pathlib.Path, help="file for the losses of every step")
    a = p.parse_args()
    work = pathlib.Path(tempfile.mkdtemp())
    checkpoint = a.checkpoint
    if checkpoint is None:
        checkpoint = work / "init"
        subprocess.run([a.mlkv, "init", a.size, "--out", str(checkpoint)], check=True, stdout=subprocess.DEVNULL)

    waits = [run_mlkv(a, checkpoint, work / "first", 1)[1]] if a.warm else []
    ours, first = run_mlkv(a, checkpoint, work / "run", a.steps)
    waits.append(first)
    print("first step recorded after " + ", then ".join(f"{s:.1f} s" for s in waits), flush=True)
    torch.manual_seed(0)
    theirs = train_peer(load_model(checkpoint, a.peer), batches(a.shard, a.rows, a.steps, a.seed), [m["lr"] for m in ours], a.device, a.compile)

    mine = [m["loss"] for m in ours]
    if a.json:
        a.json.write_text(json.dumps({"mlkv": mine, "pytorch": theirs, "first_step": waits,
                                      "tokens_per_second": [m.get("tokens_per_second") for m in ours], "mfu": [m.get("mfu") for m in ours]}))
    print(f"{'steps':>9s} {'mlkv':>9s} {'PyTorch':>9s} {'difference':>11s}")
    for at in range(a.steps % a.last, a.steps, a.last):
        m, t = (sum(x[at:at + a.last]) / a.last for x in (mine, theirs))
        print(f"{at + 1:4d}-{at + a.last:4d} {m:9.4f} {t:9.4f} {m - t:+11.4f}")
    sys.exit(abs(m - t) > a.tolerance)


if __name__ == "__main__":
    main()
