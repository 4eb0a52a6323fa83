"""Trains the model with data-parallel processes that share parameters, gradients and optimiser
state in anonymous shared memory; each process updates its own part of the parameters.
Refuses wall-clock schedules: progress is counted in tokens and WORK/control.json (re-read
every step) may move the end, so that the run survives pauses of any length.
Usage: train-model.py WORK [--config demo] [--resume] [--processes 2] [--rows 8]
"""
import argparse
import ctypes
import json
import math
import mmap
import multiprocessing
import os
import shutil
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch

import bpe
import fused
import model
import optimiser
from batches import Batches
from corpus import DOMAINS

CONTROL = {"total_tokens": 28_000_000, "decay_tokens": 9_000_000, "warmup_tokens": 600_000, "seq_len": 512,
           "peak": 1.0, "eval_seconds": 360, "checkpoint_seconds": 600, "stop": False, "factors": {}}
AUX, ZLOSS, CLIP, SEED = 0.03, 0.001, 1.0, 7
EVAL_TOKENS, EVAL_LENGTH = 8192, 512


def shared(n, dtype=torch.float32):
    size = torch.empty((), dtype=dtype).element_size()
    return torch.frombuffer(mmap.mmap(-1, n * size), dtype=dtype)


def views(flat, spec):
    out, at = {}, 0
    for name, shape in spec.items():
        n = math.prod(shape)
        out[name] = flat[at:at + n].view(shape)
        at += n
    return out


def schedule(tokens, c):
    up = min(1.0, (tokens + 1) / c["warmup_tokens"])
    down = min(1.0, max(0.0, (c["total_tokens"] - tokens) / max(1, c["decay_tokens"])))
    return c["peak"] * up * down


def owner(name, c, world):
    """Layers are divided evenly; the embedding goes to the first process, the last norm to the last."""
    if "layers." not in name:
        return 0 if "embed" in name else world - 1
    return int(name.split(".")[2]) * world // c["num_hidden_layers"]


def keep_memory():
    """glibc gives large blocks back after every use; keeping them saves the page faults of each step."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)             # no separate mappings
        libc.mallopt(-1, 2 ** 31 - 1)   # no trimming
        libc.mallopt(-2, 256 << 20)     # grow in large pieces
    except (OSError, AttributeError):
        pass


def use_fused_kernels(work, c):
    """Switches to the fused kernels after comparing loss and gradients with the plain forms."""
    params = {n: torch.zeros(s).requires_grad_() for n, s in model.shapes(c).items()}
    model.initialise(params, c, SEED)
    ids = torch.randint(0, c["vocab_size"], (2, 201), generator=torch.Generator().manual_seed(SEED))

    def gradients():
        h = model.hidden_states(params, c, ids[:, :-1])
        loss = model.TiedCrossEntropy.apply(h.reshape(-1, h.shape[-1]), params["model.embed_tokens.weight"],
                                            ids[:, 1:].reshape(-1))
        return [loss.detach(), *torch.autograd.grad(loss, list(params.values()))]

    plain = gradients()
    fused.install(work)
    worst = max(float((a - b).norm() / (a.norm() + 1e-12)) for a, b in zip(plain, gradients()))
    print(f"fused kernels, largest relative difference {worst:.1e}", flush=True)
    if worst > 1e-4:
        raise SystemExit("fused kernels disagree with the plain forms")


def heldout_rows(work, domain):
    tokenizer = bpe.Tokenizer(work / "tokenizer.json")
    texts = json.loads((work / "heldout.json").read_text())[domain]
    share, rows, size = EVAL_TOKENS // len(texts) + 1, [], 0
    for text in texts:
        ids = [bpe.END_OF_TEXT] + tokenizer.encode(text)[:max(share, 256)]
        for s in range(0, len(ids) - 1, EVAL_LENGTH):
            rows.append(ids[s:s + EVAL_LENGTH + 1])
            size += len(rows[-1]) - 1
        if size >= EVAL_TOKENS:
            break
    count = sum(len(tokenizer.token_bytes(i)) for r in rows for i in r[1:])
    return rows, count


def bits_per_byte(params, c, rows, count):
    nats = 0.0
    for row in rows:
        ids = torch.tensor(row)[None]
        nats += float(model.token_nll(params, c, ids[:, :-1], ids[:, 1:]).sum())
    return nats / math.log(2) / count


def append_csv(path, row):
    new = not path.exists()
    with path.open("a") as f:
        if new:
            f.write(",".join(row) + "\n")
        f.write(",".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in row.values()) + "\n")


class Worker:
    def __init__(self, rank, args, memory, barrier):
        self.rank, self.args, self.memory, self.barrier = rank, args, memory, barrier
        self.c = dict(args.model)
        spec = model.shapes(self.c)
        self.params = {n: p.requires_grad_() for n, p in views(memory["params"], spec).items()}
        for n, g in views(memory["grads"][rank], spec).items():
            self.params[n].grad = g
        self.grads = [views(g, spec) for g in memory["grads"]]
        self.first, self.second = views(memory["first"], spec), views(memory["second"], spec)
        self.own = [n for n in spec if owner(n, self.c, args.processes) == rank]
        self.data = Batches(args.work, DOMAINS, rank, args.processes, SEED)
        self.heldout = {d: heldout_rows(args.work, d) for d in DOMAINS[rank::args.processes]}
        if args.resume:
            self.data.restore(json.loads((args.work / "ckpt" / f"data-{rank}.json").read_text()))

    def loss(self, ids):
        """Cross-entropy, balance and router losses; expert counts are summed over all processes."""
        trace, m, c = [], self.memory, self.c
        h = model.hidden_states(self.params, c, ids[:, :-1], trace)
        ce = model.TiedCrossEntropy.apply(h.reshape(-1, h.shape[-1]), self.params["model.embed_tokens.weight"],
                                          ids[:, 1:].reshape(-1))
        for n, (_, index, _) in enumerate(trace):
            m["counts"][self.rank, n] = torch.bincount(index.reshape(-1), minlength=c["num_experts"]).float()
        self.barrier.wait()
        counts = m["counts"].sum(0)
        share = counts / counts.sum(-1, keepdim=True)
        balance = sum(c["num_experts"] * (s * p.mean(0)).sum() for s, (p, _, _) in zip(share, trace)) / len(trace)
        z = sum(r.logsumexp(-1).square().mean() for _, _, r in trace) / len(trace)
        m["losses"][self.rank] = torch.stack([ce.detach(), balance.detach(), z.detach()])
        return ce + AUX * balance + ZLOSS * z, share

    def update(self, step, scale):
        m, grads = self.memory, {}
        with torch.no_grad():
            self.barrier.wait()
            for n in self.own:
                grads[n] = sum(g[n] for g in self.grads) / self.args.processes
            m["norms"][self.rank] = sum(float(g.square().sum()) for g in grads.values())
            self.barrier.wait()
            norm = math.sqrt(float(m["norms"].sum()))
            clip = min(1.0, CLIP / (norm + 1e-6))
            for n in self.own:
                p, g = self.params[n].data, grads[n] * clip
                if optimiser.is_matrix(n):
                    optimiser.muon_step(p, g, self.first[n], scale)
                else:
                    optimiser.adam_step(n, p, g, self.first[n], self.second[n], step, scale)
            m["grads"][self.rank].zero_()
            self.barrier.wait()
        return norm

    def evaluate(self, tokens, step):
        for d, (rows, count) in self.heldout.items():
            self.memory["eval"][DOMAINS.index(d)] = bits_per_byte(self.params, self.c, rows, count)
        self.barrier.wait()
        if self.rank == 0:
            values = dict(zip(DOMAINS, self.memory["eval"].tolist()))
            append_csv(self.args.work / "eval.csv", {"step": step, "tokens": tokens,
                                                     "mean": sum(values.values()) / len(values), **values})

    def checkpoint(self, tokens, step):
        new, final, old = (self.args.work / n for n in ("ckpt.new", "ckpt", "ckpt.old"))
        if self.rank == 0:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
        self.barrier.wait()
        (new / f"data-{self.rank}.json").write_text(json.dumps(self.data.state()))
        self.barrier.wait()
        if self.rank == 0:
            torch.save({k: self.memory[k] for k in ("params", "first", "second")}, new / "state.pt")
            (new / "progress.json").write_text(json.dumps({"tokens": tokens, "step": step, "config": self.c}))
            shutil.rmtree(old, ignore_errors=True)
            if final.exists():
                final.rename(old)
            new.rename(final)
        self.barrier.wait()

    def control(self, tokens, last):
        """The first process reads control.json and the clock and publishes what this step does."""
        path, board = self.args.work / "control.json", self.memory["board"]
        if self.rank == 0:
            try:
                asked = json.loads(path.read_text())
            except (OSError, ValueError):
                asked = {}
            if asked and asked != last.get("control"):
                CONTROL.update(asked)
                last["control"] = asked
                with (self.args.work / "control-history.jsonl").open("a") as f:
                    f.write(json.dumps({"tokens": tokens, **asked}) + "\n")
            now = time.monotonic()
            done = CONTROL["stop"] or tokens >= CONTROL["total_tokens"]
            evaluate = done or now - last["eval"] >= CONTROL["eval_seconds"]
            save = done or now - last["save"] >= CONTROL["checkpoint_seconds"]
            last.update({k: now for k, due in (("eval", evaluate), ("save", save)) if due})
            factors = [CONTROL["factors"].get(d, 1.0) for d in DOMAINS]
            for i, v in enumerate((done, evaluate, save, CONTROL["seq_len"], schedule(tokens, CONTROL), *factors)):
                board[i] = float(v)
        self.barrier.wait()
        done, evaluate, save, length, scale, *factors = board.tolist()
        self.data.weigh(factors)
        return bool(done), bool(evaluate), bool(save), int(length), scale

    def run(self, tokens, step):
        last = {"eval": time.monotonic(), "save": time.monotonic()}
        a, clock, since = self.args, time.monotonic(), tokens
        while True:
            done, evaluate, save, length, scale = self.control(tokens, last)
            if evaluate:
                self.evaluate(tokens, step)
            if save:
                self.checkpoint(tokens, step)
            if done:
                return
            if evaluate or save:
                clock, since = time.monotonic(), tokens
            rows = max(1, a.rows * 512 // length)
            loss, share = self.loss(torch.from_numpy(self.data.next(rows, length)))
            loss.backward()
            step += 1
            norm = self.update(step, scale)
            tokens += rows * length * a.processes
            if self.rank == 0 and (step % 10 == 0 or step < 10):
                ce, balance, z = self.memory["losses"].mean(0).tolist()
                cv = (share.std(-1, unbiased=False) / share.mean(-1)).tolist()
                row = {"step": step, "tokens": tokens, "loss": ce, "balance": balance, "z": z, "grad_norm": norm,
                       "lr_scale": scale, "seq_len": length,
                       "tokens_per_second": (tokens - since) / (time.monotonic() - clock)}
                append_csv(a.work / "log.csv", {**row, **{f"cv{i}": v for i, v in enumerate(cv)}})
                print(row, flush=True)
                clock, since = time.monotonic(), tokens


def main():
    args = argparse.ArgumentParser()
    args.add_argument("work", type=Path)
    args.add_argument("--config", choices=model.CONFIGS, default="demo")
    args.add_argument("--resume", action="store_true")
    args.add_argument("--processes", type=int, default=2)
    args.add_argument("--rows", type=int, default=8, help="rows of 512 tokens per process and step")
    args = args.parse_args()
    c, tokens, step = model.CONFIGS[args.config], 0, 0
    if args.resume:
        progress = json.loads((args.work / "ckpt" / "progress.json").read_text())
        c, tokens, step = progress["config"], progress["tokens"], progress["step"]
    args.model = c
    keep_memory()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    use_fused_kernels(args.work, c)
    spec = model.shapes(c)
    n = sum(math.prod(s) for s in spec.values())
    memory = {"params": shared(n), "first": shared(n), "second": shared(n),
              "grads": [shared(n) for _ in range(args.processes)],
              "counts": shared(args.processes * c["num_hidden_layers"] * c["num_experts"]).view(
                  args.processes, c["num_hidden_layers"], c["num_experts"]),
              "losses": shared(args.processes * 3).view(args.processes, 3), "norms": shared(args.processes, torch.float64),
              "eval": shared(len(DOMAINS)), "board": shared(5 + len(DOMAINS), torch.float64)}
    if args.resume:
        state = torch.load(args.work / "ckpt" / "state.pt")
        for k, v in state.items():
            memory[k].copy_(v)
    else:
        model.initialise(views(memory["params"], spec), c, SEED)
    print(f"{n / 1e6:.2f}M parameters, {args.processes} processes, from {tokens} tokens", flush=True)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(args.processes)

    def work(rank):
        Worker(rank, args, memory, barrier).run(tokens, step)

    processes = [context.Process(target=work, args=(r,)) for r in range(args.processes)]
    for p in processes:
        p.start()
    for p in processes:
        p.join()
    raise SystemExit(max(abs(p.exitcode or 0) for p in processes))


if __name__ == "__main__":
    main()
