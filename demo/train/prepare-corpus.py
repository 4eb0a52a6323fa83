"""Cuts the corpus, trains the tokenizer and writes token streams into the work folder.
Refuses to retrain a tokenizer that is already there unless --retrain is given, because ids in
an older checkpoint would change their meaning.
Usage: prepare-corpus.py WORK [--vocab 6144] [--retrain]
"""
import argparse
import json
import random
import time
from pathlib import Path

import numpy as np

import bpe
import chat_form
import corpus

BPE_BYTES_PER_DOMAIN = 1_200_000
CHAT_TOKENS_PER_DOMAIN = 500_000


def bpe_sample(texts, rng):
    order, size, out = list(texts), 0, []
    rng.shuffle(order)
    for text in order:
        out.append(text[:60_000])
        size += len(out[-1].encode())
        if size >= BPE_BYTES_PER_DOMAIN:
            break
    return out


def stream(tokenizer, texts):
    ids = []
    for text in texts:
        ids.extend(tokenizer.encode(text))
        ids.append(bpe.END_OF_TEXT)
    return ids


def main():
    args = argparse.ArgumentParser()
    args.add_argument("work", type=Path)
    args.add_argument("--vocab", type=int, default=6144)
    args.add_argument("--retrain", action="store_true")
    args = args.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    started = time.time()
    split = corpus.load_split(corpus.data_root())
    (args.work / "heldout.json").write_text(json.dumps({d: s["heldout"] for d, s in split.items()}, ensure_ascii=False))

    path = args.work / "tokenizer.json"
    if args.retrain or not path.exists():
        rng = random.Random(1)
        counts = {}
        for domain in corpus.DOMAINS:
            for word, n in bpe.count_words(bpe_sample(split[domain]["train"], rng)).items():
                counts[word] = counts.get(word, 0) + n
        counts = {w: n for w, n in counts.items() if n > 1}
        print(f"{len(counts)} distinct words, {time.time() - started:.0f} s", flush=True)
        merges = bpe.train(counts, args.vocab, lambda n: print(f"{n} merges, {time.time() - started:.0f} s", flush=True))
        path.write_text(json.dumps(bpe.tokenizer_json(merges), ensure_ascii=False, indent=0))
    tokenizer = bpe.Tokenizer(path)

    report = {}
    for domain, parts in split.items():
        rows = {f"{domain}.train": stream(tokenizer, parts["train"]),
                f"{domain}.chat": chat_form.chat_stream(tokenizer, domain, parts["train"], CHAT_TOKENS_PER_DOMAIN, 1)}
        for name, ids in rows.items():
            np.array(ids, dtype=np.uint16).tofile(args.work / f"{name}.u16")
        held = [tokenizer.encode(t) for t in parts["heldout"]]
        report[domain] = {
            "trainDocuments": len(parts["train"]), "trainBytes": sum(len(t.encode()) for t in parts["train"]),
            "trainTokens": len(rows[f"{domain}.train"]), "chatTokens": len(rows[f"{domain}.chat"]),
            "heldoutDocuments": len(held), "heldoutBytes": sum(len(t.encode()) for t in parts["heldout"]),
            "heldoutTokens": sum(map(len, held)), "heldoutRepeatedLines": corpus.repeated_lines(parts)}
        print(domain, report[domain], f"{time.time() - started:.0f} s", flush=True)
    (args.work / "corpus.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
