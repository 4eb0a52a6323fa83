"""Writes the Hugging Face folder (bf16 weights, config, tokenizer, chat template) from the
latest checkpoint.
Refuses to leave a half-written folder: each file is written beside its name and renamed.
Usage: export-model.py WORK OUT_FOLDER
"""
import argparse
import json
import math
import os
from pathlib import Path

import torch

import bpe
import chat_form
import model
import safetensors_file


def put(path, text):
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("work", type=Path)
    args.add_argument("out", type=Path)
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    progress = json.loads((args.work / "ckpt" / "progress.json").read_text())
    flat = torch.load(args.work / "ckpt" / "state.pt")["params"]
    config, params, at = progress["config"], {}, 0
    for name, shape in model.shapes(config).items():
        n = math.prod(shape)
        params[name] = flat[at:at + n].view(shape)
        at += n
    safetensors_file.write(args.out / "model.safetensors", safetensors_file.hf_tensors(params), torch.bfloat16)
    put(args.out / "config.json", json.dumps(config, indent=2) + "\n")
    put(args.out / "generation_config.json", json.dumps({
        "eos_token_id": [bpe.END_OF_TEXT, bpe.END], "pad_token_id": bpe.END_OF_TEXT,
        "do_sample": True, "temperature": 0.8, "top_p": 0.95}, indent=2) + "\n")
    put(args.out / "tokenizer.json", (args.work / "tokenizer.json").read_text(encoding="utf-8"))
    added = {str(i): {"content": s, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                      "special": True} for i, s in enumerate(bpe.SPECIALS)}
    put(args.out / "tokenizer_config.json", json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "add_prefix_space": False,
        "added_tokens_decoder": added, "bos_token": None, "eos_token": bpe.SPECIALS[bpe.END],
        "pad_token": bpe.SPECIALS[bpe.END_OF_TEXT], "unk_token": None, "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"], "chat_template": chat_form.CHAT_TEMPLATE},
        indent=2, ensure_ascii=False) + "\n")
    print(f"exported after {progress['tokens']} tokens, step {progress['step']}")


if __name__ == "__main__":
    main()
