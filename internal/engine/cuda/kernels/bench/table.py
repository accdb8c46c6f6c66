"""Prints one table of the kernels' rates beside the ceilings of the same run, and of
attention beside PyTorch's flash attention:

    python3 table.py [--skip attention|operators]"""
import argparse

import attention, operators

# Head size, rows, query heads, key/value heads; every row has 2048 tokens.
SHAPES = [(64, 32, 12, kv) for kv in (12, 6, 4, 3, 2, 1)] + [(64, 12, 12, 12), (32, 32, 16, 16), (80, 4, 32, 32), (128, 8, 16, 16), (256, 8, 8, 8)]
FORM = "{:44s} {:>9s} {:>14s} {:>8s} {:>9s} {:>7s}"


def row(name, ms, rate, unit, ceiling, peer=None):
    text = f"{rate / 1e12:.2f} {unit}" if unit == "TB/s" else f"{rate / 1e12:.0f} {unit}"
    print(FORM.format(name, f"{ms:.3f}", text, f"{100 * rate / ceiling:.0f} %", f"{peer:.3f}" if peer else "", f"{peer / ms:.2f}" if peer else ""), flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--skip", action="append", default=[])
    skip = p.parse_args().skip
    copy, product = attention.ceilings()
    print(f"ceilings: copy {copy / 1e12:.2f} TB/s, bf16 product 8192^3 {product / 1e12:.0f} TFLOP/s")
    print(FORM.format("kernel", "ms", "rate", "ceiling", "PyTorch", "ratio"))
    if "attention" not in skip:
        for d, batch, heads, kv in SHAPES:
            t = attention.compare(d, batch, 2048, heads, kv, rounds=2, quiet=True)
            peer = t.get("torch flash", {})
            flops = attention.flops(d, batch, 2048, heads)
            for run, products in (("forward", 1), ("backward", 2.5)):
                ms = t["ours"][run]
                row(f"attention {run}, size {d}, {heads}/{kv} heads x {batch}", ms, 1e3 * products * flops / ms, "TFLOP/s", product, peer.get(run))
    if "operators" not in skip:
        operators.times(lambda name, ms, size: row(name, ms, 1e3 * size / ms, "TB/s", copy))


if __name__ == "__main__":
    main()
