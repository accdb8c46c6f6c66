#!/usr/bin/env python3
"""Scores a checkpoint with lm-evaluation-harness itself and compares every
log-likelihood with those of mlkv.

  pip install "lm-eval[hf]"       # a test tool, not a dependency
  mlkv eval MODEL --data DATA --tasks sciq,piqa --limit 50 --log-samples --out OUT
  tools/compare_harness.py MODEL OUT --data DATA

The harness runs its own task files on transformers' model (float32, CPU by
default; --trust-remote-code for checkpoints with shared keys and values, which
carry their model's code); only the data sets are read from DATA, in their
official forms, instead of from a hub. Tasks, limit and few-shot examples are
those of OUT/results.json.

Where the harness is not installed, its answers can come from a file:

  tools/compare_harness.py MODEL OUT --data DATA --save answers.json      # here
  tools/compare_harness.py MODEL OUT --answers answers.json               # there

Exits with 1 where a prompt differs, a log-likelihood is further off than the
tolerance, or an answer or a figure differs other than by a tie: by choices that
the harness itself holds no further apart than twice the tolerance. The tolerance
is 0.001 where OUT was computed in float32, as on every CPU, and 0.02 where it was
computed in bf16; the harness's answers should be those in float32 for both.
"""
import argparse
import hashlib
import importlib.metadata
import json
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


# Greatest differences of a log-likelihood, by the precision of `mlkv eval`.
TOLERANCES = {"float32": 1e-3, "bf16": 0.02}


def precision(result):
    """What a result was computed in."""
    ran = result["mlkv"]["provenance"]
    return ran["config"]["Eval"]["Precision"] if ran["device"].startswith("cuda") else "float32"


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
    answers = {}
    for task, name in local.items():
        samples = [
            {
                "doc_id": s["doc_id"],
                "arguments": digest(s["arguments"]),
                "prompt_hash": s["prompt_hash"],
                "target_hash": s["target_hash"],
                "answers": [answer(a) for a in s["filtered_resps"]],
            }
            for s in sorted(out["samples"][task], key=lambda s: s["doc_id"])
        ]
        answers[name] = {"figures": out["results"][task], "shots": shots(configs[name]), "samples": samples}
    return {
        "harness": importlib.metadata.version("lm_eval"),
        "transformers": importlib.metadata.version("transformers"),
        "dtype": args.dtype, "device": args.device, "limit": limit, "tasks": answers,
    }


def shots(config):
    """The number of examples before each document."""
    return config.get("num_fewshot") or 0


def answer(a):
    """Log-likelihood and greedy match, None for the latter where a whole text is
    scored."""
    if isinstance(a, (str, float)):
        return float(a), None
    return float(a[0]), a[1] in (True, "True")


def apart(ours, theirs):
    """The difference of two answers' log-likelihoods; that of whole texts as if
    they were of 10,000 nats, since the harness adds up in float32."""
    scale = max(1, abs(theirs[0]) / 1e4) if theirs[1] is None else 1
    return abs(ours[0] - theirs[0]) / scale


def digest(requests):
    """Names the requests of a document: context and continuation, or a text."""
    return hashlib.sha256(json.dumps([list(r) for r in requests]).encode()).hexdigest()


def paired(ours, theirs):
    """Yields (document, its requests, our answers, theirs)."""
    if [o["doc_id"] for o in ours] != [t["doc_id"] for t in theirs]:
        raise SystemExit(f"{len(ours)} documents of ours, {len(theirs)} of the harness, or in another order")
    for o, t in zip(ours, theirs):
        requests = [tuple(a.values()) for a in o["arguments"].values()]
        if digest(requests) != t["arguments"]:
            raise SystemExit(f"document {o['doc_id']}: the harness asks other requests than {requests}")
        if o["prompt_hash"] != t["prompt_hash"] or o["target_hash"] != t["target_hash"]:
            raise SystemExit(f"document {o['doc_id']}: prompt or target hash differs")
        answers = [answer(a) for a in o["filtered_resps"]]
        if len(answers) != len(t["answers"]):
            raise SystemExit(f"document {o['doc_id']}: {len(answers)} answers, the harness has {len(t['answers'])}")
        yield o["doc_id"], requests, answers, [tuple(a) for a in t["answers"]]


def other_choice(requests, ours, theirs, tolerance):
    """Says whether another choice is best, by sum or by length, and whether
    each such difference is a tie."""
    differs, tie = False, True
    if len(ours) == 1:
        return differs, tie
    for lengths in [1] * len(ours), [max(1, len(r[1]) - 1) for r in requests]:
        a, b = ([ll / n for (ll, _), n in zip(answers, lengths)] for answers in (ours, theirs))
        i, j = a.index(max(a)), b.index(max(b))
        if i != j:
            differs = True
            tie &= b[j] - b[i] <= tolerance * (1 / lengths[i] + 1 / lengths[j])
    return differs, tie


def compare(task, figures, theirs, ours, tolerance):
    """Prints one line for a task and what is wrong; returns whether anything is."""
    rows, greedy, others, bad = [], 0, 0, False
    for doc, requests, a, b in paired(ours, theirs["samples"]):
        rows += [(apart(x, y), doc, k) for k, (x, y) in enumerate(zip(a, b))]
        flips = sum(x[1] != y[1] for x, y in zip(a, b))
        greedy += flips
        differs, tie = other_choice(requests, a, b, tolerance)
        others += differs or flips > 0
        if not tie:
            print(f"  {task}: document {doc}: another choice is best, and it is no tie: {a}, the harness has {b}")
            bad = True
    worst, doc, choice = max(rows)
    mean = sum(r[0] for r in rows) / len(rows)
    print(f"{task:15} {len(rows):8}  {worst:19.3g}  {doc:>11}/{choice:<6}  {mean:15.3g}  {greedy:14}  {others:13}")
    for key, value in figures.items():
        other = theirs["figures"].get(key)
        if not isinstance(value, float):
            continue
        slack = others / len(ours) if key.startswith("acc") else tolerance * abs(other)
        if not abs(value - other) <= slack + 1e-9:
            print(f"  {task}: {key}: {value}, the harness has {other}")
            bad = True
    # NaN compares false; greedy answers have no tie that log-likelihoods could show
    return bad or not worst <= tolerance or (greedy > 0 and tolerance <= 1e-3)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", help="checkpoint folder")
    p.add_argument("out", type=pathlib.Path, help="output folder of mlkv eval --log-samples")
    p.add_argument("--data", type=pathlib.Path, help="folder of the official task files")
    p.add_argument("--tolerance", type=float, help="greatest difference of a log-likelihood (default: by OUT's precision)")
    p.add_argument("--device", default="cpu")
    p.add_argument("--dtype", default="float32")
    p.add_argument("--batch-size", type=int, default=8)
    p.add_argument("--trust-remote-code", action="store_true", help="for checkpoints that carry their model's code")
    p.add_argument("--save", type=pathlib.Path, help="write the harness's answers to this file, too")
    p.add_argument("--answers", type=pathlib.Path, help="take the harness's answers from this file")
    args = p.parse_args()
    if (args.data is None) == (args.answers is None):
        p.error("give either --data or --answers")

    result = json.loads((args.out / "results.json").read_text())
    computed = precision(result)
    tolerance = TOLERANCES[computed] if args.tolerance is None else args.tolerance
    names = [n for n in result["results"] if n in TASKS]
    limit = int(result["config"]["limit"]) if result["config"]["limit"] else None
    configs = {n: result["configs"][n] for n in names}
    if args.answers:
        answers = json.loads(args.answers.read_text())
        if answers["limit"] != limit or not set(names) <= set(answers["tasks"]):
            raise SystemExit(f"{args.answers} holds {list(answers['tasks'])} with limit {answers['limit']}, {args.out} {names} with {limit}")
    else:
        answers = run_harness(args, configs, limit)
    if args.save:
        args.save.write_text(json.dumps(answers))

    print(f"lm-evaluation-harness {answers['harness']}, transformers {answers['transformers']}, {answers['dtype']}, {answers['device']}")
    print(f"mlkv on {result['mlkv']['provenance']['device']} in {computed}, at most {tolerance:g} apart")
    print("task            requests  greatest difference  at document/choice  mean difference  greedy differs  other answers")
    bad = False
    for name in names:
        if answers["tasks"][name].get("shots", 0) != shots(configs[name]):
            raise SystemExit(f"{name}: {args.answers} has answers with {answers['tasks'][name]['shots']} examples, {args.out} with {shots(configs[name])}")
        ours = sorted(lines(args.out / f"samples_{name}.jsonl"), key=lambda s: s["doc_id"])
        bad |= compare(name, result["results"][name], answers["tasks"][name], ours, tolerance)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
