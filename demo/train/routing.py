"""Owns telling the domain of a passage from its routing histogram alone (layers x experts counts).
Refuses to see tokens or hidden states: the classifier's only input is the counts.
"""
import numpy as np
import torch

import bpe
import model

PASSAGE, SHORTEST = 160, 100


def passages(tokenizer, texts, limit):
    """Token lists of SHORTEST..PASSAGE tokens, taken evenly over the documents."""
    pieces = []
    for text in texts:
        ids = tokenizer.encode(text[:40_000])
        pieces.extend(p for p in (ids[s:s + PASSAGE] for s in range(0, len(ids), PASSAGE)) if len(p) >= SHORTEST)
    if len(pieces) > limit:
        pieces = [pieces[i * len(pieces) // limit] for i in range(limit)]
    return pieces


def histogram(params, c, ids):
    trace = []
    with torch.no_grad():
        model.hidden_states(params, c, torch.tensor([[bpe.END_OF_TEXT] + ids]), trace)
    return np.concatenate([np.bincount(index.reshape(-1).numpy(), minlength=c["num_experts"]) for _, index, _ in trace])


def features(counts):
    share = np.array(counts, dtype=np.float32)
    return torch.from_numpy(np.sqrt(share / share.sum(-1, keepdims=True)))


class LogisticRegression:
    def __init__(self, counts, labels, classes, decay=1e-4, steps=200):
        x, y = features(counts), torch.tensor(labels)
        self.mean, self.std = x.mean(0), x.std(0) + 1e-4
        x = (x - self.mean) / self.std
        self.w = torch.zeros(x.shape[1], classes, requires_grad=True)
        self.b = torch.zeros(classes, requires_grad=True)
        lbfgs = torch.optim.LBFGS([self.w, self.b], max_iter=steps, line_search_fn="strong_wolfe")

        def closure():
            lbfgs.zero_grad()
            loss = torch.nn.functional.cross_entropy(x @ self.w + self.b, y) + decay * self.w.square().sum()
            loss.backward()
            return loss

        lbfgs.step(closure)

    def predict(self, counts):
        with torch.no_grad():
            return (((features(counts) - self.mean) / self.std) @ self.w + self.b).argmax(-1).numpy()


class NaiveBayes:
    def __init__(self, counts, labels, classes):
        totals = np.stack([np.array(counts)[np.array(labels) == k].sum(0) for k in range(classes)]) + 1.0
        self.log = np.log(totals / totals.sum(-1, keepdims=True))

    def predict(self, counts):
        return (np.array(counts) @ self.log.T).argmax(-1)
