"""Writes short pieces of the demo corpus for measuring compression: per domain one held-out text
and several calibration texts of other training documents each, and mixes of all domains.
Refuses to mix training and held-out text: the split is corpus.py's. Needs Python only.
Usage: evaluation-texts.py OUT [--samples 5] [--calibration-bytes 12000] [--heldout-bytes 9000]
"""
import argparse
import random
from pathlib import Path

import corpus


def pieces(texts, size, rng):
    """Whole documents in a drawn order, the last one cut, about `size` bytes of UTF-8."""
    order, out, left = list(texts), [], size
    rng.shuffle(order)
    for text in order:
        cut = text.encode()[:left].decode("utf-8", errors="ignore").strip()
        if cut:
            out.append(cut)
        left -= len(cut.encode()) + 2
        if left <= 0:
            break
    return "\n\n".join(out)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("out", type=Path)
    args.add_argument("--samples", type=int, default=5)
    args.add_argument("--calibration-bytes", type=int, default=12000)
    args.add_argument("--heldout-bytes", type=int, default=9000)
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    mixes = {}
    for domain, texts in corpus.load_split(corpus.data_root()).items():
        files = {"heldout": pieces(texts["heldout"], args.heldout_bytes, random.Random(f"{domain}/heldout"))}
        for sample in range(1, args.samples + 1):
            files[f"calibration-{sample}"] = pieces(texts["train"], args.calibration_bytes, random.Random(f"{domain}/{sample}"))
        for name, text in files.items():
            (args.out / f"{domain}.{name}.txt").write_text(text, encoding="utf-8")
            mixes.setdefault(name, []).append(text)
    for name, texts in mixes.items():
        (args.out / f"mix.{name}.txt").write_text("\n\n".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
