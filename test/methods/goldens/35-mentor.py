#!/usr/bin/python3
"""Writes 35-mentor.json: MENTOR's layer of experts by PyTorch. Experts are Linear-ReLU-Linear; the gate is Linear-ReLU-Linear, softmax over 32, the top 4 divided by
their sum + 1e-9. All 32 experts run, as in the authors' code; float32. Inputs and weights are drawn.py's."""

import json
from pathlib import Path

import torch
from drawn import drawn

TOKENS, SIZE, WIDTH, EXPERTS, TOP = 6, 40, 48, 32, 4
tensor = lambda seed, scale, *shape: torch.from_numpy(drawn(seed, *shape) * scale)


def linear(seed: int, scale: float, n_in: int, n_out: int) -> torch.nn.Linear:
    layer = torch.nn.Linear(n_in, n_out)
    layer.weight.data, layer.bias.data = tensor(seed, scale, n_out, n_in), tensor(seed + 1, 0.5, n_out)
    return layer


x = tensor(1, 2, TOKENS, SIZE)
gate = torch.nn.Sequential(linear(10, 0.25, SIZE, WIDTH), torch.nn.ReLU(), linear(12, 0.5, WIDTH, EXPERTS))
experts = [torch.nn.Sequential(linear(100 + 4 * e, 0.25, SIZE, WIDTH), torch.nn.ReLU(), linear(102 + 4 * e, 0.25, WIDTH, SIZE)) for e in range(EXPERTS)]

with torch.no_grad():
    outputs = torch.stack([expert(x) for expert in experts], dim=1)  # [tokens, experts, size]
    weights, ids = torch.softmax(gate(x), dim=-1).topk(TOP, dim=-1)
    weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-9)
    y = (torch.gather(outputs, 1, ids[..., None].expand(-1, -1, SIZE)) * weights[..., None]).sum(dim=1)

numbers = lambda t: [float(f"{v:.9g}") for v in t.flatten().tolist()]
document = {"torch": torch.__version__, "ids": ids.flatten().tolist(), "weights": numbers(weights), "outputs": numbers(outputs[0]), "y": numbers(y)}
Path(__file__).with_suffix(".json").write_text(json.dumps(document) + "\n")
