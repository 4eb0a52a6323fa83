"""Owns the demo corpus: which source files make up which domain, how they are cut into
documents, and which documents are held out.
Refuses texts whose licence does not allow a published model (WikiText-2 is never read), and
refuses random line-level splits: held-out text is whole documents, chapters, folders or blocks.
"""
import gzip
import hashlib
import json
import os
import re
import zipfile
from pathlib import Path

DOMAINS = ["novel", "drama", "stories", "math", "speeches", "docs-en", "docs-fr", "docs-es", "docs-zh",
           "code-ts", "code-py", "code-c"]

SOURCES = {
    "novel": ["text/en_novel/war-and-peace.txt.gz"],
    "drama": ["text/en_shakespeare/tinyshakespeare.txt.gz"],
    "stories": ["text/en_tinystories/tinystories_sample.txt.gz"],
    "math": ["text/math_gsm8k/train.jsonl.gz"],
    "speeches": ["text/nltk/inaugural.zip", "text/nltk/state_union.zip"],
    "docs-en": ["text/parallel_pydocs/aligned4.train.jsonl.gz"],
    "docs-fr": ["text/parallel_pydocs/aligned4.train.jsonl.gz"],
    "docs-es": ["text/parallel_pydocs/aligned4.train.jsonl.gz"],
    "docs-zh": ["text/parallel_pydocs/aligned4.train.jsonl.gz"],
    "code-ts": ["text/code_ts/hono.ts.txt.gz", "text/code_ts/workers-sdk.ts.txt.gz"],
    "code-py": ["text/code_py/tinygrad.py.txt.gz"],
    "code-c": ["text/code_c/ggml.c.txt.gz"],
}

HELDOUT_SHARE = 0.04      # of each domain's bytes
UNIT_SHARE_MAX = 0.015    # a unit larger than this stays in training
DUPLICATE_MAX = 0.5       # a held-out document with more repeated long lines than this is dropped


def data_root():
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    return Path(os.environ.get("WORKERS_MOE_DATA", default))


def read_text(path):
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    return data.decode("utf-8", errors="replace").replace("\r\n", "\n")


def chapters(text):
    parts = re.split(r"(?m)^(?=CHAPTER [IVXLC]+\s*$)", text)
    return [(f"chapter {i}", p.strip()) for i, p in enumerate(parts) if p.strip()]


def blocks(text, size):
    """Contiguous blocks of about `size` characters, cut at blank lines."""
    out, start = [], 0
    while start < len(text):
        end = text.find("\n\n", start + size)
        end = len(text) if end < 0 else end
        out.append((f"block {len(out)}", text[start:end].strip()))
        start = end
    return [(n, t) for n, t in out if t]


def gsm8k(text):
    for i, line in enumerate(text.splitlines()):
        row = json.loads(line)
        answer = re.sub(r"<<.*?>>", "", row["answer"]).strip()
        yield f"problem {i}", f"{row['question'].strip()}\n{answer}"


def source_files(text, label):
    """Concatenated repositories: every file opens with a line '=== path'. The unit is the folder."""
    for part in re.split(r"(?m)^=== (?=\S+$)", text):
        name, _, body = part.partition("\n")
        digits = sum(c.isdigit() for c in body) / max(1, len(body))
        if body.strip() and digits < 0.3:     # numeric tables are not prose of any language
            yield f"{label}:{os.path.dirname(name)}", body.strip("\n")


def zipped(path):
    with zipfile.ZipFile(path) as z:
        for name in sorted(z.namelist()):
            if name.endswith(".txt"):
                yield name, z.read(name).decode("utf-8", errors="replace").replace("\r\n", "\n").strip()


def documents(domain, root):
    """All (unit, text) pairs of a domain; a unit is never divided between training and held-out."""
    paths = [root / p for p in SOURCES[domain]]
    if domain == "novel":
        return chapters(read_text(paths[0]))
    if domain == "drama":
        return blocks(read_text(paths[0]), 9000)
    if domain == "stories":
        stories = read_text(paths[0]).split("<|endoftext|>")[:-1]   # the last one is cut off
        return [(f"story {i}", s.strip()) for i, s in enumerate(stories) if s.strip()]
    if domain == "math":
        return list(gsm8k(read_text(paths[0])))
    if domain == "speeches":
        return [d for p in paths for d in zipped(p)]
    if domain.startswith("docs-"):
        files = {}
        for line in read_text(paths[0]).splitlines():
            row = json.loads(line)
            files.setdefault(row["f"], []).append(row[domain[5:]].strip())
        return [(name, "\n\n".join(strings)) for name, strings in files.items()]
    return [d for p in paths for d in source_files(read_text(p), p.name)]


def unit_order(unit):
    return hashlib.sha1(f"heldout/{unit}".encode()).digest()


def split(docs, units_held=None):
    """Returns (train texts, held-out texts, held-out units). Units go to held-out in hash order."""
    seen, unique = set(), []
    for unit, text in docs:
        if text not in seen:
            seen.add(text)
            unique.append((unit, text))
    size = {}
    for unit, text in unique:
        size[unit] = size.get(unit, 0) + len(text.encode())
    total = sum(size.values())
    if units_held is None:
        units_held, held = set(), 0
        for unit in sorted(size, key=unit_order):
            if size[unit] <= UNIT_SHARE_MAX * total and held + size[unit] <= 1.2 * HELDOUT_SHARE * total:
                units_held.add(unit)
                held += size[unit]
            if held >= HELDOUT_SHARE * total:
                break
    train = [t for u, t in unique if u not in units_held]
    held = [t for u, t in unique if u in units_held]
    lines = long_lines(train)
    return train, [t for t in held if repeated_share(t, lines) <= DUPLICATE_MAX], units_held


def long_lines(texts):
    return {l for t in texts for l in map(str.strip, t.splitlines()) if len(l) >= 30}


def repeated_lines(parts):
    """Share of a domain's held-out long-line characters whose line also stands in its training text."""
    return repeated_share("\n".join(parts["heldout"]), long_lines(parts["train"]))


def repeated_share(text, lines):
    long = [l for l in map(str.strip, text.splitlines()) if len(l) >= 30]
    return sum(len(l) for l in long if l in lines) / max(1, sum(len(l) for l in long))


def load_split(root):
    """{domain: {"train": [...], "heldout": [...]}}. The four docs languages hold out the same files."""
    out, docs_units = {}, None
    for domain in DOMAINS:
        train, held, units = split(documents(domain, root), docs_units if domain.startswith("docs-") else None)
        if domain == "docs-en":
            docs_units = units
        out[domain] = {"train": train, "heldout": held}
    return out
