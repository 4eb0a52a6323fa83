"""Evaluates an exported folder (its bf16-rounded weights in float32): held-out bits per byte,
expert load, domain from routing, golden logits. Writes OUT/eval.json and OUT/train-golden.json.
Refuses to read a checkpoint: what is measured is what is published.
Usage: evaluate-model.py WORK MODEL_FOLDER OUT
"""
import argparse
import json
import math
import multiprocessing
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch

import bpe
import corpus
import model
import routing
import safetensors_file
from corpus import DOMAINS

EVALUATION = None
STRIDE = 512
TRAIN_PASSAGES, TEST_PASSAGES = 160, 100
GOLDEN_PROMPTS = ["\"Well, Prince, so Genoa and Lucca", "export default {\n\tasync fetch(request",
                  "<|user|>\nTell me a story.<|end|>\n<|assistant|>\n"]


def document_nats(params, c, ids, window, loads):
    """Sum of nats of ids after <|endoftext|>; every token sees up to `window` and, where the document
    allows it, at least `window - STRIDE` tokens of context."""
    ids, total, done = [bpe.END_OF_TEXT] + ids, 0.0, 0
    while done < len(ids) - 1:
        end = min(len(ids) - 1, done + (window if done == 0 else STRIDE))
        start = max(0, end - window)
        piece, trace = torch.tensor([ids[start:end + 1]]), []
        with torch.no_grad():
            h = model.hidden_states(params, c, piece[:, :-1], trace)[0, done - start:]
        for n, (_, index, _) in enumerate(trace):
            loads[n] += np.bincount(index[done - start:].reshape(-1).numpy(), minlength=c["num_experts"])
        targets = piece[0, done - start + 1:, None]
        z = h @ params["model.embed_tokens.weight"].t()
        total += float((z.logsumexp(-1) - z.gather(1, targets)[:, 0]).double().sum())
        done = end
    return total


class Evaluation:
    def __init__(self, work, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.params = safetensors_file.load_model(folder, model.shapes(self.config))
        self.tokenizer = bpe.Tokenizer(folder / "tokenizer.json")
        self.split = corpus.load_split(corpus.data_root())
        self.window = self.config["max_position_embeddings"]

    def domain(self, name):
        torch.set_num_threads(1)
        c, texts = self.config, self.split[name]["heldout"]
        loads = np.zeros((c["num_hidden_layers"], c["num_experts"]), dtype=np.int64)
        rows = [self.tokenizer.encode(t) for t in texts]
        nats = sum(document_nats(self.params, c, r, self.window, loads) for r in rows)
        count = sum(len(t.encode()) for t in texts)
        histograms = {part: [routing.histogram(self.params, c, p) for p in
                             routing.passages(self.tokenizer, self.split[name][part], limit)]
                      for part, limit in (("train", TRAIN_PASSAGES), ("heldout", TEST_PASSAGES))}
        print(name, f"{nats / math.log(2) / count:.4f} bits per byte", flush=True)
        return {"bits": nats / math.log(2) / count, "nats": nats / sum(map(len, rows)),
                "tokens": sum(map(len, rows)), "bytes": count}, loads, histograms


def classify(histograms):
    data = {part: ([h for d in histograms for h in d[part]],
                   [k for k, d in enumerate(histograms) for _ in d[part]]) for part in ("train", "heldout")}
    out = {"trainPassages": len(data["train"][1]), "heldoutPassages": len(data["heldout"][1]),
           "passageTokens": [routing.SHORTEST, routing.PASSAGE]}
    for name, kind in (("logisticRegression", routing.LogisticRegression), ("naiveBayes", routing.NaiveBayes)):
        guess = kind(*data["train"], len(DOMAINS)).predict(data["heldout"][0])
        truth = np.array(data["heldout"][1])
        confusion = np.zeros((len(DOMAINS), len(DOMAINS)), dtype=int)
        np.add.at(confusion, (truth, guess), 1)
        out[name] = {"accuracy": float((guess == truth).mean()),
                     "perDomain": {d: float((guess[truth == k] == k).mean()) for k, d in enumerate(DOMAINS)},
                     "confusion": confusion.tolist()}
    return out


def golden(e):
    sequences = []
    for text in GOLDEN_PROMPTS:
        ids, trace = e.tokenizer.encode_specials(text), []
        with torch.no_grad():
            z = model.logits(e.params, e.config, torch.tensor([ids]), trace)[0, -1]
        top = z.topk(5)
        sequences.append({"text": text, "ids": ids, "topIds": top.indices.tolist(),
                          "topLogits": [float(f"{v:.7g}") for v in top.values.tolist()],
                          "lastExperts": [sorted(index[-1].tolist()) for _, index, _ in trace],
                          "lastLogits": [float(f"{v:.7g}") for v in z.tolist()]})
    snippet = e.split["novel"]["heldout"][0][:1500].rsplit(" ", 1)[0]
    ids = [bpe.END_OF_TEXT] + e.tokenizer.encode(snippet)
    t = torch.tensor([ids])
    nll = model.token_nll(e.params, e.config, t[:, :-1], t[:, 1:]).double().mean().item()
    return {"about": "float32 evaluation of the published bf16 weights; the snippet is held-out text of "
                     "War and Peace (public domain), scored after one <|endoftext|>",
            "sequences": sequences,
            "perplexity": {"text": snippet, "ids": ids, "meanNats": nll, "perplexity": math.exp(nll)}}


def one_domain(name):
    """Forked processes inherit the evaluation instead of receiving a copy."""
    return EVALUATION.domain(name)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("work", type=Path)
    args.add_argument("folder", type=Path)
    args.add_argument("out", type=Path)
    args.add_argument("--processes", type=int, default=2)
    args = args.parse_args()
    started = time.time()
    global EVALUATION
    e = EVALUATION = Evaluation(args.work, args.folder)
    g = golden(e)
    with multiprocessing.get_context("fork").Pool(args.processes) as pool:
        results = pool.map(one_domain, DOMAINS, chunksize=1)
    ngram = json.loads((args.work / "ngram.json").read_text())
    loads = [r[1] for r in results]
    total = sum(l / l.sum() for l in loads)     # every domain counts the same
    out = {
        "model": {"parameters": sum(p.numel() for p in e.params.values()), "config": e.config,
                  "fileBytes": (args.folder / "model.safetensors").stat().st_size},
        "training": json.loads((args.work / "ckpt" / "progress.json").read_text()) | {"config": None},
        "corpus": json.loads((args.work / "corpus.json").read_text()),
        "heldout": {d: {"bitsPerByte": r[0]["bits"], "natsPerToken": r[0]["nats"], "tokens": r[0]["tokens"],
                        "bytes": r[0]["bytes"], "ngramBytesBitsPerByte": ngram[d]["byte"],
                        "ngramTokensBitsPerByte": ngram[d]["token"],
                        "beatsBoth": r[0]["bits"] < min(ngram[d].values())} for d, r in zip(DOMAINS, results)},
        "evaluation": {"window": e.window, "stride": STRIDE},
        "expertLoad": {"meanOverDomains": {"cv": [float(x.std() / x.mean()) for x in total],
                                           "maxOverMean": [float(x.max() / x.mean()) for x in total],
                                           "minOverMean": [float(x.min() / x.mean()) for x in total]},
                       "counts": {d: l.tolist() for d, l in zip(DOMAINS, loads)}},
        "domainFromRouting": classify([r[2] for r in results]),
        "golden": [{k: s[k] for k in ("text", "ids", "topIds", "topLogits")} for s in g["sequences"]],
        "perplexity": {k: g["perplexity"][k] for k in ("meanNats", "perplexity")},
        "seconds": time.time() - started,
    }
    out["training"].pop("config")
    (args.out / "eval.json").write_text(json.dumps(out, indent=1, ensure_ascii=False) + "\n")
    (args.out / "train-golden.json").write_text(json.dumps(g, ensure_ascii=False) + "\n")
    print({k: v["accuracy"] for k, v in out["domainFromRouting"].items() if isinstance(v, dict)},
          "beats both n-grams in", sum(v["beatsBoth"] for v in out["heldout"].values()), "of", len(DOMAINS))


if __name__ == "__main__":
    main()
