#!/usr/bin/env python3
"""Checks that transformers, and the MLKV authors' code, run the checkpoints
that mlkv writes.

  make check-transformers             # sets up an environment and runs this
  tools/check_transformers.py --mlkv bin/mlkv --golden ../shared/golden
  tools/check_transformers.py --authors CLONE   # of github.com/zaydzuhri/pythia-mlkv

What is compared, in float32 on the CPU:

  golden    logits, loss and gradients of converted models with the goldens', and
            the plain models' logits and greedy tokens, by transformers' GPT-NeoX
            and, from --format authors, by the code that shared models carry
  layouts   models of random weights over owner maps, head sizes, rotary shares and
            all else that config.json can say: the loss that mlkv computes for
            the folder that transformers saved; logits with those computed from
            the definition in float64; cached decoding, in steps and in pieces,
            with the full pass; padding on either side; a static cache;
            eager with fused attention; gradients with checkpointing; generation
            with and without cache; the entries of the cache
  authors   with --authors, their GPTNeoXForCausalLM: goldens as above on what --format
            authors writes; models of random weights that it saved, scored by mlkv
            and, after mlkv export, loaded again

The authors' code needs a transformers of its time (4.24), where only its part
runs. Prints the greatest difference of each kind; exits with 1 where one is
greater than the tolerance.
"""
import argparse
import copy
import json
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile

import tokenizers
import torch
import transformers
from safetensors.torch import load_file

TOLERANCE = 1e-4  # of logits and gradients, relative to the tensor's greatest magnitude
LOSS_TOLERANCE = 1e-5
LAYOUTS = ["6x2", "2x6", "6x1", "2x3", "3x1", "2x1", "1x1", "4x2"]  # KV layers x KV heads of the goldens

BASE = dict(
    vocab_size=320, hidden_size=64, num_hidden_layers=6, num_attention_heads=4, intermediate_size=96,
    num_key_value_heads=2, layer_map="0_0_2_2_4_4", shared_key_rotary="after", max_position_embeddings=256,
    tokenizer_class="GPTNeoXTokenizer",
)
RANDOM = {
    "base": {},
    "before rotary": dict(shared_key_rotary="before"),
    "free map": dict(layer_map="0_0_2_0_2_5"),
    "free map, before": dict(layer_map="0_0_2_0_2_5", shared_key_rotary="before"),
    "one owner": dict(layer_map="0_0_0_0_0_0", num_key_value_heads=1),
    "grouped heads": dict(layer_map="0_1_2_3_4_5"),
    "key/value MLP": dict(use_key_value_mlp=True, kv_intermediate_size=50),
    "key/value MLP, before": dict(use_key_value_mlp=True, kv_intermediate_size=50, shared_key_rotary="before"),
    "tied": dict(tie_word_embeddings=True),
    "sequential": dict(use_parallel_residual=False),
    "no rotary": dict(rotary_pct=0.0, shared_key_rotary="before"),
    "rotary 1.0, before": dict(rotary_pct=1.0, rotary_emb_base=500.0, shared_key_rotary="before"),
    "head size 32": dict(hidden_size=128),
    "head size 80": dict(hidden_size=320),
    "head size 128, before": dict(hidden_size=512, shared_key_rotary="before"),
    "head size 256": dict(hidden_size=1024, num_key_value_heads=1),
    "separate maps": dict(layer_map="0_0_2_2_2_5", value_layer_map="0_1_1_1_4_4"),
    "separate maps, before": dict(layer_map="0_0_2_2_0_0", value_layer_map="0_1_1_3_3_5", shared_key_rotary="before"),
    "separate maps, key/value MLP": dict(
        layer_map="0_1_1_1_4_0", value_layer_map="0_0_0_0_0_5", use_key_value_mlp=True, kv_intermediate_size=50),
}

AUTHORS_BASE = dict(
    vocab_size=320, hidden_size=64, num_hidden_layers=6, num_attention_heads=4, intermediate_size=96, eos_token_id=0,
    num_key_value_heads=2, num_key_value_layers=3, max_position_embeddings=256,
)
AUTHORS = {
    "base": {},
    "uneven owners": dict(num_hidden_layers=12, num_key_value_layers=5),
    "grouped heads": dict(num_key_value_layers=6),
    "nothing shared": dict(num_key_value_layers=6, num_key_value_heads=4),
    "key/value MLP": dict(use_key_value_mlp=True, kv_intermediate_size=50),
    "rotary 1.0": dict(rotary_pct=1.0),
    "sequential": dict(use_parallel_residual=False),
    "tied": dict(tie_word_embeddings=True),
}


class Table:
    """Collects the greatest difference of each kind of check and prints them."""

    def __init__(self):
        self.worst, self.count = {}, {}

    def add(self, kind, case, difference, tolerance):
        difference = float(difference)
        ok = difference <= tolerance  # false for NaN
        if not ok:
            print(f"FAIL {kind}, {case}: {difference:.3g}, expected at most {tolerance:g}")
        self.count[kind] = self.count.get(kind, 0) + 1
        if kind not in self.worst or not ok or difference > self.worst[kind][0]:
            self.worst[kind] = difference, case, ok and self.worst.get(kind, (0, 0, True))[2]

    def same(self, kind, case, a, b):
        self.add(kind, case, 0 if a == b else float("inf"), 0)

    def finish(self):
        if not self.count:
            raise SystemExit("nothing was checked")
        print(f"transformers {transformers.__version__}, torch {torch.__version__}")
        print(f"{'check':44}  cases  greatest difference  at")
        for kind, (difference, case, _) in self.worst.items():
            print(f"{kind:44}  {self.count[kind]:5}  {difference:19.3g}  {case}")
        return 0 if all(ok for *_, ok in self.worst.values()) else 1


def relative(a, b):
    """Greatest difference relative to the greatest magnitude of b."""
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


class Checks:
    def __init__(self, args, work):
        self.args, self.work, self.table = args, work, Table()

    def mlkv(self, *arguments):
        done = subprocess.run([self.args.mlkv, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"mlkv {' '.join(map(str, arguments))}: {done.stderr}")
        return done.stdout

    def folder(self, name):
        return self.work / name.replace(" ", "-").replace(",", "").replace("/", "").replace(".", "")

    # goldens

    def golden(self):
        base = self.args.golden / "neox"
        for layout in LAYOUTS:
            layers, heads = layout.split("x")
            for rotary, name in ("after", "post"), ("before", "pre"):
                folder = self.folder(f"golden {layout} {rotary}")
                self.mlkv("convert", base, "--preset", "authors", "--shared-key-rotary", rotary,
                          "--kv-layers", layers, "--kv-heads", heads, "--out", folder)
                want = load_file(base / f"mlkv-{layout}-{name}-rotary.safetensors")
                self.logits("golden, shared", f"{layout} {rotary}", load(folder), want)
        for base in sorted(self.args.golden.glob("neox*")):
            want = load_file(base / "reference.safetensors")
            plain, separate = self.folder(f"plain {base.name}"), self.folder(f"separate {base.name}")
            self.mlkv("export", base, "--out", plain)
            self.mlkv("export", base, "--format", "authors", "--out", separate)
            stock = transformers.AutoModelForCausalLM.from_pretrained(plain).eval()
            ours = self.classes().from_pretrained(separate).eval()
            greedy = json.loads((base / "generate.json").read_text())
            for kind, model in ("golden, plain by GPT-NeoX", stock), ("golden, plain by the carried code", ours):
                self.logits(kind, base.name, model, want, gradients=model is ours)
                for prompt, expected in zip(greedy["prompt"], greedy["greedy"]):
                    got = generate(model, torch.tensor([prompt]), len(expected) - len(prompt))
                    self.table.same(kind + ": greedy tokens", base.name, got[0].tolist(), expected)

    def logits(self, kind, case, model, want, gradients=True):
        ids = want["input_ids"].long()
        output = model(ids, labels=ids)
        self.table.add(kind + ": logits", case, relative(output.logits, want["logits"]), TOLERANCE)
        self.table.add(kind + ": loss", case, abs(output.loss.item() - want["loss"].item()), TOLERANCE)
        if not gradients:
            return
        output.loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters()}
        for name in want:
            if not name.startswith("grad.") or "query_key_value" in name:
                continue
            self.table.add(kind + ": gradients", f"{case} {name}", relative(grads[name[len("grad."):]], want[name]), TOLERANCE)

    def classes(self):
        """The class of causal models in the code that a shared folder carries."""
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        folder = self.work / "carrier"
        if not folder.exists():
            sizes = self.work / "carrier.yaml"
            sizes.write_text("{vocab_size: 8, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_layers: 1}")
            self.mlkv("init", sizes, "--out", folder)
        cls = get_class_from_dynamic_module("modeling_mlkv.MLKVForCausalLM", str(folder))
        cls.register_for_auto_class("AutoModelForCausalLM")  # as from_pretrained does, so that saving copies the code
        cls.config_class.register_for_auto_class()
        return cls

    # layouts

    def learn(self):
        """A text to score, and a tokenizer for it."""
        (self.work / "text.txt").write_text(" ".join(__doc__.split())[:240])
        (self.work / "learn.txt").write_text(pathlib.Path(__file__).read_text())
        self.mlkv("tokenize", "train", "--vocab", BASE["vocab_size"], "--out", self.work / "tokenizer.json", self.work / "learn.txt")

    def layouts(self):
        self.learn()
        cls = self.classes()
        for i, (case, members) in enumerate(RANDOM.items()):
            tries = (random(cls, {**BASE, **members}, seed) for seed in range(i, 1000, len(RANDOM)))
            model = next(model for model in tries if self.sensitive(model))
            self.scored(case, model, self.saved(case, model, load))
            for check in (self.definition, self.decoding, self.padding, self.attention, self.training, self.generation):
                check(case, model)

    @torch.no_grad()
    def saved(self, case, model, loaded):
        """The folder that transformers saved, once the model that loaded makes
        of it is compared."""
        folder = self.folder(f"random {case}")
        model.save_pretrained(folder)
        shutil.copy(self.work / "tokenizer.json", folder)
        tokens = self.tokens(model)
        again = loaded(folder)(tokens).logits
        self.table.add("saved and loaded: logits", case, (again - model(tokens).logits).abs().max(), 0)
        return folder

    @torch.no_grad()
    def scored(self, case, model, folder):
        """The loss that mlkv computes for a folder of the model."""
        tokens = self.tokens(model)
        out = self.folder(f"scores {case}")
        self.mlkv("eval", folder, "--tasks", "heldout", "--heldout", self.work / "text.txt", "--device", "cpu", "--out", out)
        scores = json.loads((out / "results.json").read_text())["mlkv"]["heldout"]
        if scores["tokens"] != tokens.shape[1] - 1:
            raise SystemExit(f"{case}: mlkv scored {scores['tokens']} tokens, transformers {tokens.shape[1] - 1}")
        self.table.add("loss by mlkv", case, abs(scores["loss"] - model(tokens, labels=tokens).loss.item()), LOSS_TOLERANCE)

    def tokens(self, model):
        """The text that mlkv scores, with the token that ends it."""
        tokenizer = tokenizers.Tokenizer.from_file(str(self.work / "tokenizer.json"))
        return torch.tensor([tokenizer.encode((self.work / "text.txt").read_text()).ids + [model.config.eos_token_id]])

    @torch.no_grad()
    def sensitive(self, model):
        """Whether the loss tells sharing before rotary from after, where these
        differ."""
        if model.config.owners == list(range(len(model.config.owners))) or not model.config.rotary_dims:
            return True
        other, tokens = copy.deepcopy(model), self.tokens(model)
        for attention in (layer.attention for layer in other.gpt_neox.layers):
            borrowed = model.config.owners.count(attention.layer_idx) > 1
            attention.shares_unturned = attention.owns_keys and borrowed and not attention.shares_unturned
        told = abs(other(tokens, labels=tokens).loss.item() - model(tokens, labels=tokens).loss.item())
        return told >= 10 * LOSS_TOLERANCE

    @torch.no_grad()
    def definition(self, case, model):
        ids = torch.randint(0, model.config.vocab_size, (33,))
        self.table.add("logits by the definition", case, relative(model(ids[None]).logits[0], defined(model, ids)), TOLERANCE)

    @torch.no_grad()
    def decoding(self, case, model):
        ids = torch.randint(0, model.config.vocab_size, (2, 40))
        full = model(ids).logits
        for name, lengths in ("steps", [1] * 40), ("pieces", [17, 1, 9, 13]):
            cache, at, parts = transformers.DynamicCache(), 0, []
            for n in lengths:
                parts.append(model(ids[:, at : at + n], past_key_values=cache, use_cache=True).logits)
                at += n
            self.table.add(f"decoding in {name}", case, relative(torch.cat(parts, 1), full), TOLERANCE)
        config = model.config
        keys, values = set(config.owners), set(config.value_owners)
        entries = stored(cache)
        shapes = [tuple(first.shape) for first, _ in entries]
        shape = (2, config.num_key_value_heads, 40, config.head_size)
        self.table.same("cache by owner", case, shapes, [shape] * len(keys | values))
        elements = sum(first.numel() + second.numel() for first, second in entries)
        self.table.same("cached elements", case, elements, (len(keys) + len(values)) * math.prod(shape))
        self.table.add("logits_to_keep", case, relative(model(ids, logits_to_keep=3).logits, full[:, -3:]), TOLERANCE)

    @torch.no_grad()
    def padding(self, case, model):
        ids = torch.randint(0, model.config.vocab_size, (1, 20))
        full = model(ids).logits
        filler = torch.randint(0, model.config.vocab_size, (1, 7))
        ones, zeros = torch.ones(1, 20).long(), torch.zeros(1, 7).long()
        right = model(torch.cat((ids, filler), 1), attention_mask=torch.cat((ones, zeros), 1)).logits[:, :20]
        mask = torch.cat((zeros, ones), 1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        left = model(torch.cat((filler, ids), 1), attention_mask=mask, position_ids=positions).logits[:, 7:]
        self.table.add("padding", case, max(relative(right, full), relative(left, full)), TOLERANCE)

    @torch.no_grad()
    def attention(self, case, model):
        ids = torch.randint(0, model.config.vocab_size, (2, 33))
        full = model(ids).logits
        self.table.add("eager", case, relative(with_attention(model, "eager")(ids).logits, full), TOLERANCE)
        out = with_attention(model, "eager")(ids, output_attentions=True, output_hidden_states=True)
        sums = torch.stack(out.attentions).sum(-1)
        self.table.add("weights of attention sum to 1", case, (sums - 1).abs().max(), 1e-5)
        self.table.same("hidden states", case, len(out.hidden_states), model.config.num_hidden_layers + 1)
        narrow = copy.deepcopy(model).bfloat16()(ids).logits
        self.table.add("bfloat16 (loose)", case, relative(narrow, full), 0.1)

    def training(self, case, model):
        ids = torch.randint(0, model.config.vocab_size, (2, 33))
        grads = []
        for checkpointing in False, True:
            trained = copy.deepcopy(model).train()
            if checkpointing:
                trained.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            trained(ids, labels=ids).loss.backward()
            grads.append({n: p.grad for n, p in trained.named_parameters()})
        for name, grad in grads[0].items():
            self.table.add("gradients with checkpointing", f"{case} {name}", relative(grads[1][name], grad), 1e-6)

    @torch.no_grad()
    def generation(self, case, model):
        short, long = torch.randint(1, model.config.vocab_size, (1, 9)), torch.randint(1, model.config.vocab_size, (1, 14))
        batch = torch.cat((torch.nn.functional.pad(short, (5, 0)), long))
        mask = torch.ones_like(batch)
        mask[0, :5] = 0
        for i, prompt in enumerate((short, long)):
            alone = generate(model, prompt, 20, use_cache=False)[0].tolist()
            self.table.same("generation with cache", case, generate(model, prompt, 20)[0].tolist(), alone)
            padded = generate(model, batch, 20, attention_mask=mask)[i, batch.shape[1] - prompt.shape[1] :].tolist()
            self.table.same("generation in a padded batch", case, padded, alone)
            if int(transformers.__version__.split(".")[0]) >= 5:
                static = generate(model, prompt, 20, cache_implementation="static", disable_compile=True)[0].tolist()
                self.table.same("generation with a static cache", case, static, alone)
        beams = [generate(model, long, 8, num_beams=3, use_cache=c)[0].tolist() for c in (True, False)]
        self.table.same("beam search with cache", case, *beams)

    # the authors' code

    def authors(self):
        sys.path.insert(0, str(self.args.authors))
        from gpt_neox_mlkv import GPTNeoXForCausalLM

        transformers.logging.set_verbosity_error()  # it misses buffers that it computes itself
        base = self.args.golden / "neox"
        for layout in [*LAYOUTS, "6x6"]:
            layers, heads = layout.split("x")
            folder = self.folder(f"authors {layout}")
            self.mlkv("convert", base, "--preset", "authors", "--format", "authors",
                      "--kv-layers", layers, "--kv-heads", heads, "--out", folder)
            model = GPTNeoXForCausalLM.from_pretrained(folder).eval()
            want = load_file(base / ("reference.safetensors" if layout == "6x6" else f"mlkv-{layout}-pre-rotary.safetensors"))
            self.logits("authors' code", layout, model, want)
        self.learn()
        for i, (case, members) in enumerate(AUTHORS.items()):
            model = random(GPTNeoXForCausalLM, {**AUTHORS_BASE, **members}, i)
            self.scored(case, model, self.saved(case, model, self.exported(GPTNeoXForCausalLM)))

    def exported(self, cls):
        """Loads what mlkv export makes of a folder."""

        def load(folder):
            out = folder.with_name(folder.name + "-exported")
            self.mlkv("export", folder, "--format", "authors", "--out", out)
            return cls.from_pretrained(out).eval()

        return load


def random(cls, members, seed):
    """A model of random weights."""
    model = cls(cls.config_class(**members)).eval()
    torch.manual_seed(seed)
    for name, p in model.named_parameters():
        sharp = 3 if "attention.query" in name else 1  # attention to few tokens, so that positions matter
        torch.nn.init.normal_(p, std=2.5 * sharp * model.config.hidden_size**-0.5 if p.dim() > 1 else 0.3)
    return model


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()


def stored(cache):
    """The keys and values of each entry of a cache."""
    layers = getattr(cache, "layers", None)
    return [(layer.keys, layer.values) for layer in layers] if layers is not None else list(zip(cache.key_cache, cache.value_cache))


def defined(model, ids):
    """Logits of one sequence in float64, computed layer by layer from the
    model's weights and config.json's members."""
    c, w = model.config, {name: p.double() for name, p in model.state_dict().items()}
    size, pairs = c.hidden_size // c.num_attention_heads, int(c.hidden_size // c.num_attention_heads * c.rotary_pct) // 2
    key_owner = [int(i) for i in c.layer_map.split("_")]
    value_owner = [int(i) for i in (c.value_layer_map or c.layer_map).split("_")]
    turn = torch.outer(torch.arange(len(ids)).double(), c.rotary_emb_base ** -(torch.arange(pairs).double() / max(pairs, 1)))

    def linear(name, x):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def perceptron(name, into, out, x):
        return linear(f"{name}.{out}", torch.nn.functional.gelu(linear(f"{name}.{into}", x)))

    def norm(name, x):
        return torch.nn.functional.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], c.layer_norm_eps)

    def heads(x):
        return x.unflatten(-1, (-1, size)).transpose(0, 1)

    def projected(name, x):
        return heads(perceptron(name, "dense_in", "dense_out", x) if c.use_key_value_mlp else linear(name, x))

    def rotary(x):
        turned = torch.complex(x[..., :pairs], x[..., pairs : 2 * pairs]) * torch.polar(torch.ones_like(turn), turn)
        return torch.cat((turned.real, turned.imag, x[..., 2 * pairs :]), -1)

    x, keys, values = w["gpt_neox.embed_in.weight"][ids], {}, {}
    for i in range(c.num_hidden_layers):
        layer = f"gpt_neox.layers.{i}."
        h = norm(layer + "input_layernorm", x)
        if key_owner[i] == i:
            keys[i] = projected(layer + "attention.key", h)
        if value_owner[i] == i:
            values[i] = projected(layer + "attention.value", h)
        key, value = keys[key_owner[i]], values[value_owner[i]]
        if key_owner[i] == i or c.shared_key_rotary == "after":
            key = rotary(key)
        query = rotary(heads(linear(layer + "attention.query", h)))
        key, value = (t.repeat_interleave(len(query) // len(t), 0) for t in (key, value))
        ahead = torch.ones(len(ids), len(ids)).triu(1).bool()
        weights = (query @ key.mT / size**0.5).masked_fill(ahead, -torch.inf).softmax(-1)
        attended = x + linear(layer + "attention.dense", (weights @ value).transpose(0, 1).flatten(1))
        h = norm(layer + "post_attention_layernorm", x if c.use_parallel_residual else attended)
        x = attended + perceptron(layer + "mlp", "dense_h_to_4h", "dense_4h_to_h", h)
    return norm("gpt_neox.final_layer_norm", x) @ w["embed_out.weight"].T


def with_attention(model, implementation):
    model = copy.deepcopy(model)
    model.config._attn_implementation = implementation
    return model


def generate(model, prompt, count, **options):
    """Greedy tokens after the prompt, without an end before count."""
    model.generation_config.eos_token_id = None
    options.setdefault("attention_mask", torch.ones_like(prompt))
    return model.generate(prompt, max_new_tokens=count, do_sample=False, pad_token_id=0, **options)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mlkv", default="bin/mlkv", help="the program (default bin/mlkv)")
    p.add_argument("--golden", type=pathlib.Path, default="../shared/golden", help="folder of golden results")
    p.add_argument("--authors", type=pathlib.Path, help="clone of the authors' repository")
    args = p.parse_args()
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as work:
        checks = Checks(args, pathlib.Path(work))
        if args.authors:
            checks.authors()
        else:
            if args.golden.exists():
                checks.golden()
            else:
                print(f"{args.golden} is not there: no goldens")
            checks.layouts()
    return checks.table.finish()


if __name__ == "__main__":
    sys.exit(main())
