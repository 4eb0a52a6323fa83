"""Draws samples from an exported folder: 5 continuations per domain after held-out beginnings,
and a few chat turns. Stores them unedited in WORK/samples.json.
Refuses training text as a prompt. Usage: sample-model.py WORK MODEL_FOLDER [--seed 20]
"""
import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import bpe
import model
import safetensors_file
from corpus import DOMAINS

PREFIX, LENGTH, TEMPERATURE, TOP_P, COUNT = 40, 96, 0.8, 0.95, 5
CHATS = ["Tell me a story about Lily.", "Tell me a short story.",
         "Tom has 5 apples. He buys 3 more and gives 2 to Anna. How many apples does Tom have?",
         "My fellow citizens, today we", "import { Hono } from 'hono'"]


def draw(z, generator):
    p, order = (z / TEMPERATURE).softmax(-1).sort(-1, descending=True)
    p[p.cumsum(-1) - p > TOP_P] = 0
    return order.gather(-1, torch.multinomial(p / p.sum(-1, keepdim=True), 1, generator=generator))


def complete(params, c, prompts, length, generator):
    """Prompts of equal length; returns the continuations, each cut at a stop token."""
    ids = torch.tensor(prompts)
    start = ids.shape[1]
    for _ in range(length):
        with torch.no_grad():
            h = model.hidden_states(params, c, ids[:, -c["max_position_embeddings"]:])[:, -1]
        ids = torch.cat([ids, draw(h @ params["model.embed_tokens.weight"].t(), generator)], 1)
    out = []
    for row in ids[:, start:].tolist():
        stops = [i for i, t in enumerate(row) if t in (bpe.END_OF_TEXT, bpe.END)]
        out.append(row[:stops[0]] if stops else row)
    return out


def main():
    args = argparse.ArgumentParser()
    args.add_argument("work", type=Path)
    args.add_argument("folder", type=Path)
    args.add_argument("--seed", type=int, default=20)
    args = args.parse_args()
    torch.set_num_threads(1)
    config = json.loads((args.folder / "config.json").read_text())
    params = safetensors_file.load_model(args.folder, model.shapes(config))
    tokenizer = bpe.Tokenizer(args.folder / "tokenizer.json")
    heldout = json.loads((args.work / "heldout.json").read_text())
    generator = torch.Generator().manual_seed(args.seed)
    result = {"settings": {"temperature": TEMPERATURE, "topP": TOP_P, "seed": args.seed, "prefixTokens": PREFIX,
                           "maxTokens": LENGTH}, "domains": {}, "chat": []}
    for domain in DOMAINS:
        rows = [r for r in (tokenizer.encode(t[:4000])[:PREFIX] for t in heldout[domain]) if len(r) == PREFIX]
        step = max(1, len(rows) // COUNT)
        rows = rows[::step][:COUNT]
        texts = complete(params, config, [[bpe.END_OF_TEXT] + r for r in rows], LENGTH, generator)
        result["domains"][domain] = [{"prefix": tokenizer.decode(r), "continuation": tokenizer.decode(t)}
                                     for r, t in zip(rows, texts)]
        print(domain, repr(result["domains"][domain][0]), flush=True)
    for text in CHATS:
        prompt = tokenizer.encode_specials(f"<|user|>\n{text}<|end|>\n<|assistant|>\n")
        reply = complete(params, config, [prompt], LENGTH + 32, generator)[0]
        result["chat"].append({"user": text, "assistant": tokenizer.decode(reply)})
        print(repr(result["chat"][-1]), flush=True)
    (args.work / "samples.json").write_text(json.dumps(result, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
