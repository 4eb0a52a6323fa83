"""Order-5 interpolated modified Kneser-Ney over bytes and over tokens, trained on the same
training text as the model; prints and stores held-out bits per byte per domain.
Refuses unnormalised results: it checks that probabilities sum to one over the vocabulary.
Usage: ngram-baseline.py WORK
"""
import argparse
import json
import math
from pathlib import Path

import numpy as np

import bpe
import corpus

ORDER = 5


def windows(documents, order, base):
    """int64 keys of the `order`-gram that ends at every symbol, each document padded on the left."""
    pad = np.zeros(ORDER - 1, dtype=np.int64)
    flat = np.concatenate([np.concatenate([pad, d]) for d in documents])
    keep = np.concatenate([np.concatenate([np.zeros(ORDER - 1, bool), np.ones(len(d), bool)]) for d in documents])
    key = np.zeros(len(flat) - ORDER + 1, dtype=np.int64)
    for i in range(ORDER - order, ORDER):
        key = key * base + flat[i:len(flat) - ORDER + 1 + i]
    return key[keep[ORDER - 1:]]


def runs(sorted_keys):
    starts = np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]))
    return sorted_keys[starts], np.diff(np.append(starts, len(sorted_keys)))


class KneserNey:
    def __init__(self, documents, base):
        self.base, self.levels = base, []
        keys, counts = runs(np.sort(windows(documents, ORDER, base)))
        for order in range(ORDER, 0, -1):
            n = [int((counts == i).sum()) for i in range(1, 5)]
            discount = np.array([0.0, 0.5, 1.0, 1.5])     # only where the counts of counts do not suffice
            if all(n):
                y = n[0] / (n[0] + 2 * n[1])
                discount[1:] = [max(0.0, i - (i + 1) * y * n[i] / n[i - 1]) for i in (1, 2, 3)]
            taken = discount[np.minimum(counts, 3)]
            contexts, sizes = runs(keys // base)
            at = np.concatenate([[0], np.cumsum(sizes)[:-1]])
            total = np.add.reduceat(counts, at)
            self.levels.insert(0, {"keys": keys, "value": counts - taken, "contexts": contexts, "total": total,
                                   "backoff": np.add.reduceat(taken, at) / total})
            if order > 1:      # the next lower order counts distinct left neighbours
                keys, counts = runs(np.sort(keys % base ** (order - 1)))

    def probability(self, keys):
        """Probability of the last symbol of each ORDER-gram key."""
        p = np.full(len(keys), 1.0 / self.base)
        for order, level in enumerate(self.levels, 1):
            key = keys % self.base ** order if order < ORDER else keys
            c = np.minimum(np.searchsorted(level["contexts"], key // self.base), len(level["contexts"]) - 1)
            known = level["contexts"][c] == key // self.base
            g = np.minimum(np.searchsorted(level["keys"], key), len(level["keys"]) - 1)
            value = np.where(level["keys"][g] == key, level["value"][g], 0.0)
            p = np.where(known, value / level["total"][c] + level["backoff"][c] * p, p)
        return p

    def check(self, keys):
        for key in keys:
            total = self.probability(key // self.base * self.base + np.arange(self.base, dtype=np.int64)).sum()
            if abs(total - 1) > 1e-6:
                raise ArithmeticError(f"probabilities sum to {total}")


def main():
    args = argparse.ArgumentParser()
    args.add_argument("work", type=Path)
    args = args.parse_args()
    split = corpus.load_split(corpus.data_root())
    tokenizer = bpe.Tokenizer(args.work / "tokenizer.json")
    as_bytes = lambda t: np.frombuffer(t.encode(), dtype=np.uint8).astype(np.int64) + 1
    as_tokens = lambda t: np.array(tokenizer.encode(t), dtype=np.int64)
    result = {}
    for name, convert, base in (("byte", as_bytes, 257), ("token", as_tokens, len(tokenizer.vocab))):
        training = [convert(t) for d in corpus.DOMAINS for t in split[d]["train"]]
        lm = KneserNey(training, base)
        print(name, "n-grams per order", [len(l["keys"]) for l in lm.levels], flush=True)
        for domain in corpus.DOMAINS:
            texts = split[domain]["heldout"]
            keys = windows([convert(t) for t in texts], ORDER, base)
            lm.check(keys[:5])
            bits = -np.log2(lm.probability(keys)).sum() / sum(len(t.encode()) for t in texts)
            result.setdefault(domain, {})[name] = float(bits)
            print(f"{name} {domain} {bits:.4f}", flush=True)
    (args.work / "ngram.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
