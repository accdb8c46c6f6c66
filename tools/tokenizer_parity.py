#!/usr/bin/env python3
"""Compare mlkv's tokenizer with the `tokenizers` library: ids, and speed on one core.

    pip install tokenizers
    zstdcat corpus/train-00.jsonl.zst | tools/tokenizer_parity.py \
        --mlkv bin/mlkv --tokenizer 20B_tokenizer.json --megabytes 20

Standard input is lines of JSON with a field "text". Times are CPU seconds, so
that other work on the machine counts little. mlkv's time is that of the whole
command, which also reads the JSON, less that of the command with no input; the
library's is that of its encode_batch alone, in one thread, the better of its
turns. Exit code 1 says that ids differ or that the speed ratio is below --ratio.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
from tokenizers import Tokenizer  # noqa: E402


def read_lines(limit):
    """Return the lines of standard input whose texts reach limit bytes, and their texts."""
    lines, texts, size = [], [], 0
    for line in sys.stdin:
        text = json.loads(line)["text"]
        lines.append(line)
        texts.append(text)
        size += len(text.encode())
        if size >= limit:
            break
    return lines, texts, size


def run(command, data):
    """Return the output of a command and the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = dict(os.environ, GOMAXPROCS="1")
    done = subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def library(tokenizer, texts):
    begun = time.process_time()
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [e.ids for e in encodings], time.process_time() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlkv", default="bin/mlkv")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--ratio", type=float, default=1.5)
    args = parser.parse_args()

    lines, texts, size = read_lines(args.megabytes * 1e6)
    data = "".join(lines).encode()
    command = [args.mlkv, "tokenize", "--tokenizer", args.tokenizer, "--jsonl"]
    reference = Tokenizer.from_file(args.tokenizer)

    out, _ = run(command, data)
    ours = [[int(i) for i in line.split()] for line in out.decode().split("\n")[:-1]]
    seconds, reference_seconds = [], []
    for _ in range(args.turns):
        _, start = run(command + ["--count"], b"")
        _, whole = run(command + ["--count"], data)
        seconds.append(whole - start)
        theirs, taken = library(reference, texts)
        reference_seconds.append(taken)

    wrong = [i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b]
    for i in wrong[:5]:
        at = next((k for k, (a, b) in enumerate(zip(ours[i], theirs[i])) if a != b), min(len(ours[i]), len(theirs[i])))
        print(f"document {i} differs from token {at}: {ours[i][at:at + 5]}, library {theirs[i][at:at + 5]}")
    ratio = min(reference_seconds) / min(seconds)
    tokens = sum(map(len, theirs))
    print(f"{len(texts)} documents, {size / 1e6:.1f} MB, {tokens} tokens: {len(wrong)} documents differ")
    print(f"mlkv {size / 1e6 / min(seconds):.1f} MB/s, library {size / 1e6 / min(reference_seconds):.1f} MB/s: {ratio:.1f} times as fast")
    sys.exit(bool(wrong) or len(ours) != len(texts) or ratio < args.ratio)


if __name__ == "__main__":
    main()
