"""Evaluates exported variants (their weights as stored, computed in float32) on held-out text by domain: OUT/kinds.json and a table.
Owns what each kind is judged by besides bits per byte: experts run per token, load, zeros of ReLU experts, fewer experts than trained.
Refuses to read checkpoints: what is measured is what is exported. A model that was measured before is passed over.
Usage: evaluate-kinds.py WORK OUT [RUN ...] [--tokens 8192]
"""
import argparse
import hashlib
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch

import routed_model      # first: demo/train's modules are found through it
import fused
import heldout
import planted
import safetensors_file
from variants import DOMAINS, GROUPS, of_run, RUNS, SEEDS, VARIANTS


def load(folder):
    """config, stacked float32 tensors and request of an exported model."""
    c = json.loads((folder / "config.json").read_text())["config"]
    stored, params = safetensors_file.read(folder / "model.safetensors"), {}
    for name, shape in routed_model.shapes(c).items():
        names = [n for n, _ in routed_model.unstacked(name, torch.empty(shape))]
        params[name] = stored[name] if names == [name] else torch.stack([stored[n] for n in names])
        if tuple(params[name].shape) != tuple(shape):
            raise ValueError(f"{folder}: {name} has shape {tuple(params[name].shape)}, expected {tuple(shape)}")
    path = folder / "conditions.json"
    conditions = torch.tensor(list(json.loads(path.read_text()).values())) if path.exists() else None
    return c, params, lambda groups: {"task": groups, **({} if conditions is None else {"condition": conditions[groups]})}


def with_router(c, **changes):
    return {**c, "router": {**c["router"], **changes}}


def others(c):
    """The same weights otherwise routed, as a request or a pack could ask: what the kind gives up for fewer experts."""
    r = c["router"]
    if r["select"] == "threshold":
        least = r["threshold"]["least"]
        return {f"least {factor} times": with_router(c, threshold={**r["threshold"], "least": factor * least}) for factor in (0.5, 1.5, 2)}
    if "branches" in r or r["topK"] < 3 or "gate" in r:
        return {}
    return {f"top-{k}": with_router(c, topK=k) for k in range(2, r["topK"])}


def crossed(c, request):
    """Requests that say another group than the text's: what task and condition are worth."""
    if c["router"].get("gate", {}).get("kind") != "tasks" and c["router"].get("scope", {}).get("kind") != "condition":
        return {}
    return {"another group": lambda groups: request((groups + 1) % len(GROUPS))}


def measure(c, params, rows, request):
    bits, seen = heldout.evaluate(params, c, rows, request, usage=True)
    return {"bitsPerByte": bits, "mean": sum(bits.values()) / len(bits), **heldout.routing_figures(c, seen)}


def active_parameters(c, params, experts):
    """Numbers that a token meets, the tied embedding counted once: of experts (or halves) those that are run."""
    total = 0.0
    for name, p in params.items():
        part = name.rsplit(".", 1)[-1]
        if ".experts." in name:
            total += p.numel() / len(p) * experts * c.get("expertPool", {"layers": 1})["layers"]
        elif ".product." in name and part[0] in "uvb":
            total += p.numel() / c["productExperts"]["nKeys"] * experts
        else:
            total += p.numel()
    return round(total)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("work", type=Path)
    args.add_argument("out", type=Path)
    args.add_argument("names", nargs="*")
    args.add_argument("--tokens", type=int, default=8192, help="of each domain")
    args = args.parse_args()
    torch.set_num_threads(1)
    fused.install(args.work)
    rows, path = heldout.rows(args.work, args.tokens), args.out / "kinds.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in args.names or [n for n in RUNS if (args.out / n / "config.json").exists()]:
        model = hashlib.sha256((args.out / name / "config.json").read_bytes() + (args.out / name / "model.safetensors").read_bytes()).hexdigest()
        if results.get(name, {}).get("model") == model and results[name]["tokensAsked"] == args.tokens:
            continue
        c, params, request = load(args.out / name)
        result = {"model": model, "tokensAsked": args.tokens, "parameters": sum(p.numel() for p in params.values()), "heldoutTokens": sum(len(w) - 1 for ws, _ in rows.values() for w in ws),
                  **measure(c, params, rows, request)}
        result["activeParameters"] = active_parameters(c, params, result["expertsPerToken"])
        result["otherwise"] = {label: measure(other, params, rows, request) for label, other in others(c).items()}
        result["otherwise"].update({label: measure(c, params, rows, ask) for label, ask in crossed(c, request).items()})
        if "plant" in of_run(name)[0].get("training", {}):
            with torch.no_grad():
                result["planted"] = planted.measure(params, c, args.work, rows)
        results[name] = result
        path.write_text(json.dumps({n: results[n] for n in RUNS if n in results}, indent=1) + "\n")
        print(f"{name}: {result['mean']:.4f} bits per byte, {result['expertsPerToken'] or 0:.3f} experts per token"
              + (f", {result['unitsNotZero']:.3f} of hidden units not zero" if "unitsNotZero" in result else ""), flush=True)
    print(table(results))


def spread(numbers, form):
    """The mean, and the smallest and largest of several."""
    mean = form % (sum(numbers) / len(numbers))
    least, most = form % min(numbers), form % max(numbers)
    return mean if least == most else f"{mean} ({least} to {most})"


def table(results):
    """A row for each variant, mean over its runs; beside another variant, differences of runs from the same first numbers."""
    lines = ["| variant | runs | experts per token | parameters of a token | bits per byte | beside | difference |", "|---|--:|--:|--:|--:|---|--:|"]
    for name, variant in VARIANTS.items():
        runs = {seed: results[f"{name}-{seed}"] for seed in SEEDS if f"{name}-{seed}" in results}
        if not runs:
            continue
        beside = variant["beside"]
        pairs = [r["mean"] - results[f"{beside}-{seed}"]["mean"] for seed, r in runs.items() if f"{beside}-{seed}" in results]
        experts = [r["expertsPerToken"] for r in runs.values() if r["expertsPerToken"] is not None]
        cells = [f"`{name}`", str(len(runs)), "" if not experts else spread(experts, "%.2f"),
                 "%.3fM" % (sum(r["activeParameters"] for r in runs.values()) / len(runs) / 1e6), spread([r["mean"] for r in runs.values()], "%.4f"), beside or "", spread(pairs, "%+.4f") if pairs else ""]
        lines.append("| " + " | ".join(cells) + " |")
        for label in next(iter(runs.values()))["otherwise"]:
            others = [r["otherwise"][label] for r in runs.values()]
            own = [o["mean"] - r["mean"] for o, r in zip(others, runs.values())]
            lines.append(f"| {name}, {label} | {len(others)} | {spread([o['expertsPerToken'] for o in others], '%.2f')} | | {spread([o['mean'] for o in others], '%.4f')} | itself | {spread(own, '%+.4f')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
