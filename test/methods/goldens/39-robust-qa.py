#!/usr/bin/python3
"""Writes 39-robust-qa.json: a switch layer of DistilBERT's feed-forward parts by PyTorch. Experts are lin1, GELU (the exact form with erf), lin2; each token goes to the
one of the largest probability and its output is multiplied by that; float32. Inputs and weights are drawn.py's."""

import json
from pathlib import Path

import torch
from drawn import drawn

TOKENS, SIZE, WIDTH, EXPERTS = 8, 32, 76, 4
tensor = lambda seed, scale, *shape: torch.from_numpy(drawn(seed, *shape) * scale)

x = tensor(1, 2, TOKENS, SIZE)
router = tensor(10, 0.5, EXPERTS, SIZE)
lin1 = [(tensor(100 + 4 * e, 0.5, WIDTH, SIZE), tensor(101 + 4 * e, 1, WIDTH)) for e in range(EXPERTS)]
lin2 = [(tensor(102 + 4 * e, 0.25, SIZE, WIDTH), tensor(103 + 4 * e, 0.5, SIZE)) for e in range(EXPERTS)]


def expert(e: int, rows: torch.Tensor, approximate: str) -> torch.Tensor:
    (w1, b1), (w2, b2) = lin1[e], lin2[e]
    return torch.nn.functional.linear(torch.nn.functional.gelu(torch.nn.functional.linear(rows, w1, b1), approximate=approximate), w2, b2)


probabilities = torch.softmax(x @ router.T, dim=-1)
probability, ids = probabilities.max(dim=-1)
outputs = torch.stack([expert(e, x, "none") for e in range(EXPERTS)], dim=1)  # [tokens, experts, size]
by_tanh = torch.stack([expert(e, x, "tanh") for e in range(EXPERTS)], dim=1)
y = outputs[torch.arange(TOKENS), ids] * probability[:, None]

numbers = lambda t: [float(f"{v:.9g}") for v in t.flatten().tolist()]
document = {"torch": torch.__version__, "ids": ids.tolist(), "probability": numbers(probability), "outputs": numbers(outputs), "tanhDifference": float((outputs - by_tanh).abs().max()), "y": numbers(y)}
Path(__file__).with_suffix(".json").write_text(json.dumps(document) + "\n")
