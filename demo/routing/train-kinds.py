"""Trains variants of the table in variants.py one after the other, each into WORK/kinds/NAME: state.pt (checkpoint), log.csv.
Owns what a kind adds to training: noise and falling temperature (EvoMoE), growing pools (ReXMoE), load losses, batch norms.
Refuses wall-clock schedules: all is counted in steps, and every step draws its own seeded randomness, so that a run that was
stopped (SIGTERM, SIGINT or a crash) goes on as if it had not been. A variant that is finished is passed over.
Usage: train-kinds.py WORK [RUN ...] [--tokens 1500000] [--stop-after STEPS]
"""
import argparse
import copy
import csv
import math
import os
import signal
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch

import routed_model      # first: demo/train's modules are found through it
import bpe
import fused
import heldout
import planted
from batches import Batches
from optimiser import muon_step
from variants import DOMAINS, GROUPS, GROUP_OF, of_run, RUNS

SEED, ROWS, LENGTH = 7, 8, 256
TOKENS, WARMUP_TOKENS, DECAY_SHARE = 1_500_000, 100_000, 0.5
ROUTER_LR, OTHER_LR, BETAS, EPS = 0.002, 0.004, (0.9, 0.95), 1e-10
BALANCE, ROUTER_Z, MONET, CLIP, NORM_MOMENTUM, NULL_BIAS_RATE = 0.01, 0.001, 0.001, 1.0, 0.1, 0.4
EVAL_STEPS, EVAL_TOKENS, CHECKPOINT_SECONDS = 100, 2048, 120
ROUTERS = ("router", "taskRouter", "routerHidden", "w1", "w2")
CONDITIONS = "conditions"      # [groups, size]: vectors of the requests, trained with the model but no tensor of it


def last_part(name):
    return name.rsplit(".", 1)[-1]


class Variant:
    """Tensors of a variant, and the form its passes have while it is trained."""

    def __init__(self, run):
        variant, seed = of_run(run)
        self.config, self.extra = copy.deepcopy(variant["config"]), variant.get("training", {})
        c = self.config
        derived = ("router", "routerSpread") if c["router"].get("gate", {}).get("kind") == "sparsity" else ()
        shapes = {n: s for n, s in routed_model.shapes(c).items() if last_part(n) not in derived}
        if c["router"].get("scope", {}).get("kind") == "condition":
            shapes[CONDITIONS] = (len(GROUPS), c["router"]["scope"]["size"])
        self.params = {n: initial(n, s, c["nLayers"], seed) for n, s in shapes.items()}
        steered = ("mean", "variance") + (("routerBias",) if "trueExperts" in self.extra else ())
        self.trained = {n: p.requires_grad_() for n, p in self.params.items() if not last_part(n).startswith(steered)}

    def request(self, groups):
        """What requests say: the group of their row's domain, as a number and, where there are such, as its vector."""
        return {"task": groups, **({"condition": self.params[CONDITIONS][groups]} if CONDITIONS in self.params else {})}

    def hold_true_experts(self, active, trace):
        """One bias of the null experts' logits, the same in all layers, follows the mean of true experts to what is aimed at; its
        steps are measured in the logits' own spread."""
        spread = sum(float(t["logits"].detach().std()) for t in trace) / len(trace)
        for n in range(self.config["nLayers"]):
            self.params[f"layers.{n}.routerBias"][-self.config["router"]["nullExperts"]:] += NULL_BIAS_RATE * spread * (active - self.extra["trueExperts"])

    def training_run(self, groups, step, progress, trace):
        noise = allowed = statistics = None
        if "temperature" in self.extra:
            start, end = self.extra["temperature"]
            self.config["router"]["threshold"]["temperature"] = start * (end / start) ** min(1.0, progress / 0.7)
            g = torch.Generator().manual_seed(SEED * 1_000_003 + step)
            noise = lambda shape: -(-(torch.rand(shape, generator=g) + 1e-9).log() + 1e-9).log()
        if "progressive" in self.extra:
            allowed = lambda layer: candidates(self.config, layer, progress / self.extra["progressive"])
        if "productExperts" in self.config:
            statistics = batch_statistics
        return routed_model.Run(self.request(groups), noise, allowed, statistics, trace=trace)


def initial(name, shape, n_layers, seed):
    """Every name has a generator of its own, so the trunk begins as the same numbers in all variants."""
    last = last_part(name)
    if last.endswith(("norm", "Norm")) or last.startswith("variance"):
        return torch.ones(shape)
    if len(shape) == 1 or last.endswith("Bias"):
        return torch.zeros(shape)
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed + int.from_bytes(name.encode(), "big") % (2 ** 61 - 1)))
    if last in ("embed", "router", "taskRouter"):
        return numbers * 0.02
    if last in ("routerHidden", CONDITIONS, "w1", "w2"):
        return numbers * (1 if last == CONDITIONS else shape[-1] ** -0.5)
    writes = last in ("o", "down", "v11", "v12", "v21", "v22")      # into the residual stream
    return numbers * 0.5 * shape[-1] ** -0.5 / (math.sqrt(2 * n_layers) if writes else 1)


def candidates(c, layer, share):
    """ReXMoE's growing pool: a layer's own experts, and of the others as many as `share` says, in an order of the layer's own."""
    own, r = c["nExperts"] // c["expertPool"]["layers"], c["expertPool"]["layers"]
    mask = torch.zeros(c["nExperts"], dtype=torch.bool)
    mask[layer % r * own:(layer % r + 1) * own] = True
    others = (~mask).nonzero()[:, 0]
    order = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(layer))]
    mask[order[:round(min(1.0, share) * len(others))]] = True
    return mask


def batch_statistics(w, codebook, z):
    """Mean and variance per head of scores [B, T, heads, keys]; the running ones follow them."""
    mean, variance = z.mean((0, 1, 3)), z.var((0, 1, 3), unbiased=False)
    w("mean" + codebook).lerp_(mean, NORM_MOMENTUM)
    w("variance" + codebook).lerp_(variance, NORM_MOMENTUM)
    return mean, variance


def router_losses(v, trace):
    """What is added to the cross-entropy, the balance in it, and experts (or keys of a head) that a token has in a layer."""
    c, balance, added, active = v.config, 0.0, 0.0, 0.0
    nulls = c["router"].get("nullExperts", 0)
    for t in trace:
        if "normal" in t:       # Monet: all keys are used, and each head decides clearly
            g = t["weights"]
            added = added + MONET * ((1 - g.amax(-1)).mean() - g.mean((0, 1)).clamp_min(1e-9).log().mean()) / len(trace)
            active += float(t["chosen"].float().sum(-1).mean()) / len(trace)
            continue
        z, chosen = t["logits"].flatten(0, -2), t["chosen"].flatten(0, -2).float()
        probability, share = z.softmax(-1).mean(0), chosen.mean(0)
        if nulls:               # AdaMoE: which of the null experts is taken does not matter
            share = torch.cat([share[:-nulls], share[-nulls:].mean().expand(nulls)])
        n = int((probability.detach() > 1e-8).sum())
        balance = balance + n * (share / share.sum() * probability).sum() / len(trace)
        if c["router"].get("gate", {}).get("kind") != "sparsity":
            added = added + ROUTER_Z * z.logsumexp(-1).square().mean() / len(trace)
        active += float((t["weights"] != 0).float().sum(-1).mean()) / c["nLayers"]
    return added + BALANCE * balance, float(balance), active


def learning_rate(step, n_steps):
    up = min(1.0, (step + 1) * ROWS * LENGTH / WARMUP_TOKENS)
    return up * min(1.0, (n_steps - step) / (DECAY_SHARE * n_steps))


class Training:
    def __init__(self, args, name):
        self.args, self.name, self.v = args, name, Variant(name)
        self.folder = args.work / "kinds" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.n_steps, self.step = args.tokens // (ROWS * LENGTH), 0
        trained = self.v.trained
        self.matrices = {n: torch.zeros_like(p) for n, p in trained.items() if p.dim() > 1 and n not in ("embed", CONDITIONS)
                         and not last_part(n).endswith("Bias") and last_part(n) not in ROUTERS}
        groups = {True: [], False: []}
        for n, p in trained.items():
            if n not in self.matrices:
                groups[last_part(n) in ROUTERS].append(p)
        self.adam = torch.optim.Adam([{"params": ps, "rate": ROUTER_LR if is_router else OTHER_LR} for is_router, ps in groups.items() if ps],
                                     betas=BETAS, eps=EPS)
        self.data = Batches(args.work, DOMAINS, 0, 1, SEED)
        self.rows = heldout.rows(args.work, EVAL_TOKENS)
        self.pair = planted.ids_of(bpe.Tokenizer(args.work / "tokenizer.json"))
        if (self.folder / "state.pt").exists():
            self.restore(torch.load(self.folder / "state.pt"))

    def restore(self, state):
        if state["steps"] != self.n_steps:
            raise SystemExit(f"{self.folder}/state.pt is of a run of {state['steps']} steps, expected {self.n_steps}: "
                             "give the same --tokens, or remove the folder")
        self.step = state["step"]
        with torch.no_grad():
            for n, p in state["params"].items():
                self.v.params[n].copy_(p)
        self.matrices = state["matrices"]
        self.adam.load_state_dict(state["adam"])
        self.data.restore(state["data"])
        self.forget_rows()

    def forget_rows(self):
        """Rows of the log behind the checkpoint: those steps are done again."""
        path = self.folder / "log.csv"
        if path.exists():
            lines = path.read_text().splitlines(keepends=True)
            path.write_text("".join(line for line in lines if line.startswith("step") or int(line.split(",")[0]) <= self.step))

    def checkpoint(self):
        torch.save({"step": self.step, "steps": self.n_steps, "tokens": self.step * ROWS * LENGTH, "params": {n: p.detach() for n, p in self.v.params.items()},
                    "matrices": self.matrices, "adam": self.adam.state_dict(), "data": self.data.state()}, self.folder / "state.pt.new")
        os.replace(self.folder / "state.pt.new", self.folder / "state.pt")

    def one_step(self):
        v, trace = self.v, []
        ids = torch.from_numpy(self.data.next(ROWS, LENGTH))
        groups = torch.tensor([GROUP_OF[d] for d in self.data.picks])
        if "plant" in v.extra:
            ids = planted.plant(ids, v.extra["plant"], SEED * 1_000_003 + self.step, self.pair)
        run = v.training_run(groups, self.step, self.step / self.n_steps, trace)
        h = routed_model.hidden_states(v.params, v.config, ids[:, :-1], run)
        loss = routed_model.trunk.TiedCrossEntropy.apply(h.reshape(-1, h.shape[-1]), v.params["embed"], ids[:, 1:].reshape(-1))
        added, balance, active = router_losses(v, trace)
        (loss + added).backward()
        scale = learning_rate(self.step, self.n_steps)
        norm = torch.nn.utils.clip_grad_norm_(v.trained.values(), CLIP)
        with torch.no_grad():
            for n, momentum in self.matrices.items():
                if v.trained[n].grad is not None:
                    muon_step(v.trained[n].data, v.trained[n].grad, momentum, scale)
        for g in self.adam.param_groups:
            g["lr"] = g["rate"] * scale
        self.adam.step()
        if "trueExperts" in v.extra:
            v.hold_true_experts(active, trace)
        for p in v.trained.values():
            p.grad = None
        self.step += 1
        return {"step": self.step, "tokens": self.step * ROWS * LENGTH, "loss": float(loss), "balance": balance, "experts": active,
                "gradNorm": float(norm), "rate": scale}

    def log(self, row):
        path = self.folder / "log.csv"
        fields = ["step", "tokens", "loss", "balance", "experts", "gradNorm", "rate", "tokensPerSecond", "heldoutBits"]
        new = not path.exists()
        with path.open("a", newline="") as f:
            out = csv.DictWriter(f, fields)
            if new:
                out.writeheader()
            out.writerow({k: f"{x:.6g}" if isinstance(x, float) else x for k, x in row.items()})
        print(self.name, *(f"{k} {x:.5g}" for k, x in row.items()), flush=True)

    def run(self, stopping):
        saved = clock = time.monotonic()
        since, last = self.step, min(self.n_steps, self.step + self.args.stop_after)
        while self.step < last and not stopping:
            row = self.one_step()
            evaluated = self.step % EVAL_STEPS == 0 or self.step == self.n_steps
            if self.step % 10 == 0 or evaluated:
                row["tokensPerSecond"] = (self.step - since) * ROWS * LENGTH / (time.monotonic() - clock)
                if evaluated:
                    bits = heldout.evaluate(self.v.params, self.v.config, self.rows, self.v.request)
                    row["heldoutBits"] = sum(bits.values()) / len(bits)
                self.log(row)
                clock, since = time.monotonic(), self.step
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.checkpoint()
                saved = time.monotonic()
        self.checkpoint()
        return self.step == self.n_steps


def main():
    args = argparse.ArgumentParser()
    args.add_argument("work", type=Path)
    args.add_argument("names", nargs="*")
    args.add_argument("--tokens", type=int, default=TOKENS)
    args.add_argument("--stop-after", type=int, default=1 << 60, help="steps, then checkpoint and end")
    args = args.parse_args()
    for name in args.names:
        of_run(name)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    names = args.names or RUNS
    own = args.work / "kinds" / names[0]      # two runs may start at a time: each builds kernels of its own
    own.mkdir(parents=True, exist_ok=True)
    fused.install(own)
    stopping = []
    for s in (signal.SIGTERM, signal.SIGINT):
        signal.signal(s, lambda *_: stopping.append(True))
    for name in names:
        training = Training(args, name)
        if training.step < training.n_steps:
            n = sum(p.numel() for p in training.v.params.values())
            print(f"{name}: {n / 1e6:.2f}M parameters, step {training.step} of {training.n_steps}", flush=True)
            training.run(stopping)
        if stopping:
            raise SystemExit(f"stopped at step {training.step} of {name}")


if __name__ == "__main__":
    main()
