"""Independent check of model.py: a plain token-by-token float64 forward pass in numpy that follows
the Qwen3-MoE definition, compared with the stored golden logits.
Refuses to import model.py. Usage: check-model.py MODEL_FOLDER GOLDEN_JSON
"""
import json
import sys
from pathlib import Path

import numpy as np

import safetensors_file


def rms(x, w, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def rotate(x, position, theta):
    half = x.shape[-1] // 2
    angle = position * theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


def last_logits(w, c, ids):
    eps, d, group = c["rms_norm_eps"], c["head_dim"], c["num_attention_heads"] // c["num_key_value_heads"]
    cache = [([], []) for _ in range(c["num_hidden_layers"])]
    for position, token in enumerate(ids):
        x = w["model.embed_tokens.weight"][token]
        for n, (keys, values) in enumerate(cache):
            p = f"model.layers.{n}."
            h = rms(x, w[p + "input_layernorm.weight"], eps)
            q, k, v = ((w[p + f"self_attn.{s}_proj.weight"] @ h).reshape(-1, d) for s in "qkv")
            q = rotate(rms(q, w[p + "self_attn.q_norm.weight"], eps), position, c["rope_theta"])
            keys.append(rotate(rms(k, w[p + "self_attn.k_norm.weight"], eps), position, c["rope_theta"]))
            values.append(v)
            out = []
            for head in range(c["num_attention_heads"]):
                s = np.array([q[head] @ k[head // group] for k in keys]) / np.sqrt(d)
                s = np.exp(s - s.max())
                out.append(sum(a * v[head // group] for a, v in zip(s / s.sum(), values)))
            x = x + w[p + "self_attn.o_proj.weight"] @ np.concatenate(out)
            h = rms(x, w[p + "post_attention_layernorm.weight"], eps)
            r = np.exp(w[p + "mlp.gate.weight"] @ h)
            r /= r.sum()
            chosen = np.argsort(-r)[:c["num_experts_per_tok"]]
            y = np.zeros_like(x)
            for e in chosen:
                g, u, down = (w[p + f"mlp.experts.{e}.{s}_proj.weight"] for s in ("gate", "up", "down"))
                a = g @ h
                y += r[e] / r[chosen].sum() * (down @ (a / (1 + np.exp(-a)) * (u @ h)))
            x = x + y
    return w["model.embed_tokens.weight"] @ rms(x, w["model.norm.weight"], eps)


def main():
    folder, golden = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    c = json.loads((folder / "config.json").read_text())
    w = {n: t.double().numpy() for n, t in safetensors_file.read(folder / "model.safetensors").items()}
    worst = 0.0
    for s in golden["sequences"]:
        difference = np.abs(last_logits(w, c, s["ids"]) - np.array(s["lastLogits"])).max()
        worst = max(worst, difference)
        print(f"{len(s['ids'])} tokens, largest logit difference {difference:.2e}")
    if worst > 1e-3:
        raise SystemExit("golden logits do not agree")


if __name__ == "__main__":
    main()
