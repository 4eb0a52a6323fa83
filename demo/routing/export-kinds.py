"""Writes the trained variants as canonical models (docs/formats.md): OUT/NAME/config.json, model.safetensors, tokenizer files; of the
variant with conditions also conditions.json, of the planted one prompts.
Refuses unfinished checkpoints, unless --unfinished, and half-written folders: each is written beside its name and renamed.
Usage: export-kinds.py WORK OUT [RUN ...] [--unfinished]
"""
import argparse
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch

import routed_model      # first: demo/train's modules are found through it
import bpe
import planted
import safetensors_file
from variants import CONTEXT, DOMAINS, GROUPS, of_run, RUNS, TOP_K

CONDITIONS = "conditions"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
MODEL = Path(__file__).resolve().parents[1] / "model"


def document(name, c):
    """config.json. What it was made from is itself: its checksum is that of the config."""
    text = json.dumps(c, separators=(",", ":"), sort_keys=True)
    source = {"kind": "huggingface", "name": f"routing-{name}", "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return {"model_type": "workers-moe", "version": 1, "source": source, "passes": [], "config": c}


def stored(name, t):
    """BF16 for matrices, F32 for what decides routes and for vectors."""
    is_matrix = t.dim() == 2 and "router" not in name.lower() and not name.endswith(("product.w1", "product.w2"))
    return t.detach().to(torch.bfloat16 if is_matrix else torch.float32)


def training_rows(work, windows=8):
    """Rows from all over every domain's training text."""
    rows = []
    for d in DOMAINS:
        stream = np.fromfile(work / f"{d}.train.u16", dtype=np.uint16).astype(np.int64)
        rows += [stream[at:at + CONTEXT] for at in np.linspace(0, len(stream) - CONTEXT, windows).astype(int)]
    return torch.from_numpy(np.stack(rows))


def with_least(c, params, rows, experts):
    """EvoMoE's config with the threshold at which a token of training text has so many experts on average: training's own is for
    scores with noise. Three rounds, since later layers see what earlier ones left out."""
    for _ in range(3):
        trace = []
        with torch.no_grad():
            routed_model.hidden_states(params, c, rows, routed_model.Run(trace=trace))
        scores = torch.stack([(t["logits"] / c["router"]["threshold"]["temperature"]).softmax(-1) for t in trace]).flatten()
        last, next_one = scores.topk(experts * rows.numel() * c["nLayers"] + 1).values[-2:].tolist()
        c = {**c, "router": {**c["router"], "threshold": {**c["router"]["threshold"], "least": float(f"{(last + next_one) / 2:.6g}")}}}
    return c


def with_null_bias(c, params, rows, experts):
    """AdaMoE's tensors with the null experts' bias at which a token of training text has so many true experts on average; training
    ends close to it."""
    names = [f"layers.{n}.routerBias" for n in range(c["nLayers"])]
    low, high, begun = -4.0, 4.0, {n: params[n].clone() for n in names}
    for _ in range(14):
        middle, trace = (low + high) / 2, []
        for n in names:
            params[n] = begun[n].clone()
            params[n][c["nExperts"]:] += middle
        with torch.no_grad():
            routed_model.hidden_states(params, c, rows, routed_model.Run(trace=trace))
        mean = sum(float((t["weights"] != 0).double().sum(-1).mean()) for t in trace) / len(trace)
        low, high = (middle, high) if mean > experts else (low, middle)
    print(f"null experts' bias moved by {middle:+.4f}: {mean:.3f} true experts")
    return params


def export(work, out, name, unfinished):
    variant, _ = of_run(name)
    c = variant["config"]
    state = torch.load(work / "kinds" / name / "state.pt")
    if state["step"] < state["steps"] and not unfinished:
        raise SystemExit(f"{name} is at step {state['step']} of {state['steps']}; expected a finished checkpoint, or --unfinished")
    params = dict(state["params"])
    conditions = params.pop(CONDITIONS, None)
    if c["router"]["select"] == "threshold":
        c = with_least(c, params, training_rows(work), TOP_K)
    if "trueExperts" in variant.get("training", {}):
        params = with_null_bias(c, params, training_rows(work), variant["training"]["trueExperts"])
    folder, new = out / name, out / f".{name}.unfinished"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    tensors = {n: stored(n, t) for n, t in routed_model.canonical_tensors(params, c).items()}
    safetensors_file.write(new / "model.safetensors", tensors)
    (new / "config.json").write_text(json.dumps(document(name, c), indent=1) + "\n")
    for file in TOKENIZER_FILES:
        shutil.copy(MODEL / file, new / file)
    if conditions is not None:
        (new / "conditions.json").write_text(json.dumps({g: row for g, row in zip(GROUPS, conditions.tolist())}, indent=1) + "\n")
    if "plant" in variant.get("training", {}):
        planted.write_prompts(work, new)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    size = (folder / "model.safetensors").stat().st_size
    print(f"{name}: {sum(t.numel() for t in tensors.values()) / 1e6:.2f}M parameters, {size / 1e6:.1f} MB, {state['tokens']} tokens")


def main():
    args = argparse.ArgumentParser()
    args.add_argument("work", type=Path)
    args.add_argument("out", type=Path)
    args.add_argument("names", nargs="*")
    args.add_argument("--unfinished", action="store_true")
    args = args.parse_args()
    done = [n for n in RUNS if (args.work / "kinds" / n / "state.pt").exists()]
    for name in args.names or done:
        export(args.work, args.out, name, args.unfinished)


if __name__ == "__main__":
    main()
