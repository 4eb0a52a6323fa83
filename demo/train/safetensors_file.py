"""Owns the safetensors container and the mapping between stacked experts and Hugging Face names.
Refuses dtypes other than F32 and BF16; tensors are written in name order, 8-byte aligned header.
"""
import json
import os
import struct

import torch

STACKED = (".mlp.experts.gate_proj", ".mlp.experts.up_proj", ".mlp.experts.down_proj")
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}


def hf_tensors(params):
    """Stacked training tensors -> Hugging Face names, one matrix per expert."""
    out = {}
    for name, p in params.items():
        if name.endswith(STACKED):
            head, kind = name.rsplit(".", 1)
            out.update({f"{head}.{e}.{kind}.weight": w for e, w in enumerate(p)})
        else:
            out[name] = p
    return out


def write(path, tensors, dtype=None):
    """All in one dtype, or each in its own."""
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name in sorted(tensors):
        t = tensors[name].detach().to(dtype or tensors[name].dtype).contiguous()
        blob = (t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy().tobytes()
        header[name] = {"dtype": DTYPES[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = f"{path}.new"
    with open(temporary, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.writelines(blobs)
    os.replace(temporary, path)


def read(path):
    """Name -> float32 tensor."""
    with open(path, "rb") as f:
        data = f.read()
    size = struct.unpack("<Q", data[:8])[0]
    out = {}
    for name, info in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        a, b = info["data_offsets"]
        raw = bytearray(data[8 + size + a:8 + size + b])
        if info["dtype"] == "BF16":
            t = torch.frombuffer(raw, dtype=torch.bfloat16).float()
        elif info["dtype"] == "F32":
            t = torch.frombuffer(raw, dtype=torch.float32)
        else:
            raise ValueError(f"dtype {info['dtype']} is not read here")
        out[name] = t.view(info["shape"])
    return out


def stacked(tensors, spec):
    """Hugging Face names -> the stacked tensors that model.py takes."""
    out = {}
    for name, shape in spec.items():
        if name.endswith(STACKED):
            head, kind = name.rsplit(".", 1)
            out[name] = torch.stack([tensors[f"{head}.{e}.{kind}.weight"] for e in range(shape[0])])
        else:
            out[name] = tensors[name]
        if tuple(out[name].shape) != tuple(shape):
            raise ValueError(f"{name} has shape {tuple(out[name].shape)}, expected {shape}")
    return out


def load_model(folder, spec):
    return stacked(read(os.path.join(folder, "model.safetensors")), spec)
