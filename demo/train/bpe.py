"""Owns the byte-level BPE: pre-tokenisation, merge training, encoding, decoding and the
Hugging Face tokenizer.json that the npm package reads.
Refuses unknown input by construction: all 256 bytes are in the vocabulary. Special tokens
are matched only where the caller asks for it.
"""
import heapq
import json
from collections import Counter, defaultdict

import regex

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIALS = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
END_OF_TEXT, USER, ASSISTANT, SYSTEM, END = range(5)


def byte_alphabet():
    """GPT-2's printable stand-in character for every byte."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {}, 0
    for b in range(256):
        if b in keep:
            table[b] = chr(b)
        else:
            table[b] = chr(256 + extra)
            extra += 1
    return table


BYTE_TO_CHAR = byte_alphabet()
CHAR_TO_BYTE = {c: b for b, c in BYTE_TO_CHAR.items()}
SPLIT = regex.compile(PATTERN)


def count_words(texts):
    counts = Counter()
    for text in texts:
        counts.update(SPLIT.findall(text))
    return counts


def merge_word(word, pair, joined):
    out, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and word[i] == pair[0] and word[i + 1] == pair[1]:
            out.append(joined)
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out


def train(counts, vocab_size, progress=None):
    """Learns merges from {word: count}; returns them in order as pairs of stand-in strings."""
    words = [[BYTE_TO_CHAR[b] for b in w.encode()] for w in counts]
    freqs = list(counts.values())
    pairs, where = Counter(), defaultdict(set)
    for i, word in enumerate(words):
        for p in zip(word, word[1:]):
            pairs[p] += freqs[i]
            where[p].add(i)
    heap = [(-n, p) for p, n in pairs.items()]
    heapq.heapify(heap)
    merges = []
    while heap and len(merges) < vocab_size - 256 - len(SPECIALS):
        n, pair = heapq.heappop(heap)
        if pairs[pair] != -n:
            if pairs[pair] > 0:
                heapq.heappush(heap, (-pairs[pair], pair))
            continue
        joined = pair[0] + pair[1]
        merges.append(pair)
        touched = set()
        for i in where.pop(pair):
            old = words[i]
            new = merge_word(old, pair, joined)
            if len(new) == len(old):
                continue
            for p in zip(old, old[1:]):
                pairs[p] -= freqs[i]
            for p in zip(new, new[1:]):
                pairs[p] += freqs[i]
                where[p].add(i)
                touched.add(p)
            words[i] = new
        del pairs[pair]
        for p in touched:
            if pairs[p] > 0:
                heapq.heappush(heap, (-pairs[p], p))
        if progress and len(merges) % 1000 == 0:
            progress(len(merges))
    return merges


def tokenizer_json(merges):
    pieces = SPECIALS + [BYTE_TO_CHAR[b] for b in range(256)] + [a + b for a, b in merges]
    vocab = {}
    for piece in pieces:
        vocab.setdefault(piece, len(vocab))
    added = [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i, s in enumerate(SPECIALS)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}, byte_level]},
        "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": [f"{a} {b}" for a, b in merges]},
    }


class Tokenizer:
    def __init__(self, path):
        with open(path, encoding="utf-8") as f:
            model = json.load(f)["model"]
        self.vocab = model["vocab"]
        self.ranks = {tuple(m.split(" ")): i for i, m in enumerate(model["merges"])}
        self.pieces = {i: p for p, i in self.vocab.items()}
        self.cache = {}

    def word(self, text):
        ids = self.cache.get(text)
        if ids is None:
            parts = [BYTE_TO_CHAR[b] for b in text.encode()]
            while len(parts) > 1:
                best = min(zip(parts, parts[1:]), key=lambda p: self.ranks.get(p, 1 << 30))
                if best not in self.ranks:
                    break
                parts = merge_word(parts, best, best[0] + best[1])
            ids = self.cache[text] = [self.vocab[p] for p in parts]
        return ids

    def encode(self, text):
        """Plain text only: special tokens in the text are encoded as ordinary characters."""
        return [i for w in SPLIT.findall(text) for i in self.word(w)]

    def encode_specials(self, text):
        parts = regex.split("(" + "|".join(map(regex.escape, SPECIALS)) + ")", text)
        return [i for p in parts if p for i in ([SPECIALS.index(p)] if p in SPECIALS else self.encode(p))]

    def token_bytes(self, token):
        piece = self.pieces[token]
        return piece.encode() if token < len(SPECIALS) else bytes(CHAR_TO_BYTE[c] for c in piece)

    def decode(self, ids):
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")
