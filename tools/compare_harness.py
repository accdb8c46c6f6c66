#!/usr/bin/env python3
"""Scores a checkpoint with lm-evaluation-harness itself and compares every
log-likelihood with those of mlkv.

  pip install "lm-eval[hf]"       # a test tool, not a dependency
  mlkv eval MODEL --data DATA --tasks sciq,piqa --limit 50 --log-samples --out OUT
  tools/compare_harness.py MODEL OUT --data DATA

The harness runs its own task files on its own model class (float32, CPU by
default); only the data sets are read from DATA, in their official forms,
instead of from a hub. Tasks, limit and few-shot examples are those of
OUT/results.json. Exits
with 1 where a prompt differs, a log-likelihood is further off than the
tolerance, a greedy match differs beyond a tie, or a figure does.
"""
import argparse
import importlib.metadata
import json
import math
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def arc_easy(rows):
    for r in rows:
        choices = r["question"]["choices"]
        yield {
            "id": r["id"],
            "question": r["question"]["stem"],
            "choices": {k: [c[k] for c in choices] for k in ("text", "label")},
            "answerKey": r["answerKey"],
        }


def piqa(rows, labels):
    for r, label in zip(rows, labels, strict=True):
        yield {**r, "label": int(label)}


# Files of the other splits, for few-shot examples.
SHOTS = {
    "arc_easy": {"train": "arc_easy/ARC-Easy-Train.jsonl", "validation": "arc_easy/ARC-Easy-Dev.jsonl"},
    "piqa": {"train": "piqa/train.jsonl"},
    "sciq": {"train": "sciq/train.jsonl", "validation": "sciq/valid.jsonl"},
    "boolq": {"train": "boolq/train.jsonl"},
    "lambada_openai": {},
}

# task: the harness's YAML, its split, the official file
TASKS = {
    "wikitext": ("wikitext/wikitext.yaml", "test", "wikitext/test.jsonl"),
    "arc_easy": ("arc/arc_easy.yaml", "test", "arc_easy/ARC-Easy-Test.jsonl"),
    "piqa": ("piqa/piqa.yaml", "validation", "piqa/valid.jsonl"),
    "sciq": ("sciq/sciq.yaml", "test", "sciq/test.jsonl"),
    "lambada_openai": ("lambada/lambada_openai.yaml", "test", "lambada_openai/lambada_test.jsonl"),
    "boolq": ("super_glue/boolq/default.yaml", "validation", "boolq/val.jsonl"),
}


def documents(name, file, to):
    """Writes a file of a task as the hub has it."""
    rows = lines(file)
    if name == "arc_easy":
        rows = arc_easy(rows)
    if name == "piqa":
        rows = piqa(rows, file.with_name(file.stem + "-labels.lst").read_text().split())
    to.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(to)


def local_task(name, data, folder, package, config):
    """Writes the data set as the hub has it, and a task file that is the
    harness's own but for where the data lies. Returns the task's name."""
    yaml, split, file = TASKS[name]
    files = {split: documents(name, data / file, folder / f"{name}.jsonl")}
    for other, path in SHOTS.get(name, {}).items():
        if (data / path).exists():
            files[other] = documents(name, data / path, folder / f"{name}-{other}.jsonl")
    task = {
        "include": str(package / "tasks" / yaml),
        "task": f"local_{name}",
        "tag": None,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
        "training_split": "train" if "train" in files else None,
        "validation_split": split if split == "validation" else None,
        "test_split": split if split == "test" else None,
    }
    if "fewshot_split" in config:
        task["fewshot_split"] = config["fewshot_split"]
    (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")
    return task["task"]


def run_harness(args, configs, limit):
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lm = HFLM(
        pretrained=args.model, dtype=args.dtype, device=args.device,
        batch_size=args.batch_size, trust_remote_code=args.trust_remote_code,
    )
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        package = pathlib.Path(lm_eval.__file__).parent
        local = {local_task(n, args.data, folder, package, c): n for n, c in configs.items()}
        out = lm_eval.simple_evaluate(
            model=lm, tasks=list(local), limit=limit, num_fewshot=max(c.get("num_fewshot", 0) for c in configs.values()) or None, log_samples=True,
            task_manager=TaskManager(include_path=str(folder)),
        )
    print("lm-evaluation-harness", importlib.metadata.version("lm_eval"))
    return {n: (out["results"][t], out["samples"][t]) for t, n in local.items()}


def compare_samples(ours, theirs):
    """Yields (document, choice, our log-likelihood, theirs, our greedy, theirs)."""
    if len(ours) != len(theirs):
        raise SystemExit(f"{len(ours)} documents of ours, {len(theirs)} of the harness")
    theirs = {s["doc_id"]: s for s in theirs}
    for o in ours:
        t = theirs[o["doc_id"]]
        pairs = list(o["arguments"].values())
        if [tuple(p.values()) for p in pairs] != [tuple(a) for a in t["arguments"]]:
            raise SystemExit(f"document {o['doc_id']}: requests differ:\n{pairs}\n{t['arguments']}")
        if o["prompt_hash"] != t["prompt_hash"] or o["target_hash"] != t["target_hash"]:
            raise SystemExit(f"document {o['doc_id']}: prompt or target hash differs")
        for k, (a, b) in enumerate(zip(o["filtered_resps"], t["filtered_resps"], strict=True)):
            if isinstance(a, str):  # of a whole text: as if of 10,000 nats, since the harness adds up in float32
                scale = max(1, abs(float(b)) / 1e4)
                yield o["doc_id"], k, float(a) / scale, float(b) / scale, False, False
                continue
            yield o["doc_id"], k, float(a[0]), float(b[0]), a[1] == "True", bool(b[1])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", help="checkpoint folder")
    p.add_argument("out", type=pathlib.Path, help="output folder of mlkv eval --log-samples")
    p.add_argument("--data", type=pathlib.Path, required=True, help="folder of the official task files")
    p.add_argument("--tolerance", type=float, default=1e-3, help="greatest difference of a log-likelihood")
    p.add_argument("--device", default="cpu")
    p.add_argument("--dtype", default="float32")
    p.add_argument("--batch-size", type=int, default=8)
    p.add_argument("--trust-remote-code", action="store_true", help="for checkpoints that carry their model's code")
    args = p.parse_args()

    result = json.loads((args.out / "results.json").read_text())
    names = [n for n in result["results"] if n in TASKS]
    limit = result["config"]["limit"]
    theirs = run_harness(args, {n: result["configs"][n] for n in names}, int(limit) if limit else None)

    bad = False
    print("task            requests  greatest difference  at document/choice  mean difference  greedy differs")
    for name in names:
        figures, samples = theirs[name]
        rows = list(compare_samples(lines(args.out / f"samples_{name}.jsonl"), samples))
        doc, choice, a, b, *_ = max(rows, key=lambda r: abs(r[2] - r[3]))
        mean = sum(abs(r[2] - r[3]) for r in rows) / len(rows)
        greedy = sum(r[4] != r[5] for r in rows)
        print(f"{name:15} {len(rows):8}  {abs(a - b):19.3g}  {doc:>11}/{choice:<6}  {mean:15.3g}  {greedy:14}")
        bad |= not abs(a - b) <= args.tolerance or greedy > 0
        for key, value in result["results"][name].items():
            other = figures.get(key)
            if isinstance(value, float) and not math.isclose(value, other, rel_tol=args.tolerance):
                print(f"  {key}: {value}, the harness has {other}")
                bad = True
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
