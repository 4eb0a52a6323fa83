"""Writes MODEL_CARD.md and loss-curve.svg from eval.json, the training logs, the samples and
the data manifest.
Refuses figures that are not in those files. Usage: write-card.py WORK OUT
"""
import csv
import json
import sys
from pathlib import Path

import corpus
import loss_plot
import model
import optimiser
from corpus import DOMAINS

DEFINITIONS = {
    "novel": "Tolstoy, War and Peace (English)", "drama": "Shakespeare (tinyshakespeare)",
    "stories": "TinyStories sample", "math": "GSM8K training problems with solutions, calculator marks removed",
    "speeches": "US inaugural and State of the Union addresses", "docs-en": "Python documentation, English",
    "docs-fr": "Python documentation, French", "docs-es": "Python documentation, Spanish",
    "docs-zh": "Python documentation, Chinese", "code-ts": "TypeScript (Hono, Workers SDK)",
    "code-py": "Python (tinygrad)", "code-c": "C and C++ (ggml)"}


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(str, r)) + " |" for r in rows])


def manifest():
    lines = (corpus.data_root() / "MANIFEST.tsv").read_text(encoding="utf-8").splitlines()
    return {l.split("\t")[0]: dict(zip(lines[0].split("\t"), l.split("\t"))) for l in lines[1:]}


def commit(domain, text):
    if not text.startswith("{"):
        return text[:12]
    by_language = json.loads(text)
    kept = by_language if domain == "docs-en" else {domain[5:]: by_language[domain[5:]]}
    return ", ".join(f"{k} {v[:12]}" for k, v in kept.items())


def licence(domain, text):
    """The manifest's licence, reduced to the part that concerns the domain."""
    if domain == "docs-en":
        return "PSF Documentation licence"
    if domain.startswith("docs-"):
        return "CC0 (translations of the Python documentation)"
    return {"novel": "public domain", "drama": "public domain"}.get(domain, text)


def data_table(e):
    files, rows = manifest(), []
    for d in DOMAINS:
        entries = [files[p] for p in corpus.SOURCES[d]]
        c = e["corpus"][d]
        rows.append([d, DEFINITIONS[d], "; ".join(dict.fromkeys(f["source repository"] for f in entries)),
                     "; ".join(dict.fromkeys(commit(d, f["commit"]) for f in entries)),
                     "; ".join(dict.fromkeys(licence(d, f["licence"]) for f in entries)),
                     f"{c['trainBytes'] / 1e6:.2f} MB", f"{c['trainTokens']:,}", f"{c['heldoutBytes'] / 1e3:.0f} kB",
                     c["heldoutDocuments"], f"{100 * c['heldoutRepeatedLines']:.0f} %"])
    return table(["domain", "what", "repository", "commit", "licence", "training", "tokens", "held-out",
                  "held-out documents", "repeated lines"], rows)


def fence(text):
    return text.replace("```", "'''")


def samples_section(samples):
    s, out = samples["settings"], []
    out.append(f"Temperature {s['temperature']}, top-p {s['topP']}, seed {s['seed']}; the first {s['prefixTokens']} tokens "
               f"of a held-out document are given, up to {s['maxTokens']} tokens are drawn. Unedited; `⟶` marks where "
               "the model takes over. Drawn with the training code in float32 from the published weights.")
    for d in DOMAINS:
        out.append(f"\n### {d}\n")
        for r in samples["domains"][d]:
            out.append("```text\n" + fence(r["prefix"] + "⟶" + r["continuation"]) + "\n```")
    out.append("\n### Chat form\n")
    for r in samples["chat"]:
        out.append("```text\nuser: " + fence(r["user"]) + "\nassistant: " + fence(r["assistant"]) + "\n```")
    return "\n".join(out)


def curve_table(log, evaluations):
    rows = []
    for r in evaluations:
        near = [float(l["loss"]) for l in log if abs(float(l["tokens"]) - float(r["tokens"])) < 200_000]
        rows.append([f"{float(r['tokens']) / 1e6:.2f}M", r["step"], f"{sum(near) / max(1, len(near)):.3f}",
                     f"{float(r['mean']):.4f}"])
    return table(["tokens", "step", "training loss (nats per token)", "held-out bits per byte (mean of domains, subset)"], rows)


def length_phases(log):
    out = []
    for r in log:
        if not out or out[-1][0] != r["seq_len"]:
            out.append([r["seq_len"], r["tokens"]])
    return ", ".join(f"{n} tokens{'' if i == 0 else f' from {int(t) / 1e6:.1f}M'}" for i, (n, t) in enumerate(out))


def mixture(work):
    """The factors on the domain mixture and when each set began, from the control history."""
    last, out = {}, []
    for line in (work / "control-history.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row.get("factors", {}) != last and not row.get("stop"):
            last = row.get("factors", {})
            out.append(f"  * from {row['tokens'] / 1e6:.1f}M tokens: " + ", ".join(f"{d} {v}" for d, v in last.items()))
    if not out:
        return ""
    return ("\n  While training, the shares were multiplied by factors chosen from the distance to the n-gram baseline on a"
            "\n  subset of the held-out text (domains not named: 1), so the held-out figures are not free of that choice:\n"
            + "\n".join(out))


def decay_start(log):
    flat = [int(r["tokens"]) for r in log if float(r["lr_scale"]) >= 1]
    return f"{flat[-1] / 1e6:.1f}M" if flat else "the start"


def main():
    work, out = Path(sys.argv[1]), Path(sys.argv[2])
    e = json.loads((out / "eval.json").read_text())
    samples = json.loads((work / "samples.json").read_text())
    log = list(csv.DictReader((work / "log.csv").open()))
    evaluations = list(csv.DictReader((work / "eval.csv").open()))
    (out / "loss-curve.svg").write_text(loss_plot.svg(log, evaluations, DOMAINS))
    c, h, r, load = e["model"]["config"], e["heldout"], e["domainFromRouting"], e["expertLoad"]["meanOverDomains"]
    wins = [d for d in DOMAINS if h[d]["beatsBoth"]]
    losses = [d for d in DOMAINS if not h[d]["beatsBoth"]]
    verdict = f"The model is better than both in {len(wins)} of {len(DOMAINS)} domains" + (
        "." if not losses else f"; it is **not** better in: {', '.join(losses)}.")
    mean = lambda k: sum(h[d][k] for d in DOMAINS) / len(DOMAINS)
    tokens, corpus_tokens = e["training"]["tokens"], sum(e["corpus"][d]["trainTokens"] for d in DOMAINS)
    held_rows = [[d, f"**{h[d]['bitsPerByte']:.3f}**", f"{h[d]['ngramBytesBitsPerByte']:.3f}",
                  f"{h[d]['ngramTokensBitsPerByte']:.3f}", f"{h[d]['natsPerToken']:.3f}", f"{h[d]['tokens']:,}",
                  "yes" if h[d]["beatsBoth"] else "no"] for d in DOMAINS]
    held_rows.append(["mean", f"**{mean('bitsPerByte'):.3f}**", f"{mean('ngramBytesBitsPerByte'):.3f}",
                      f"{mean('ngramTokensBitsPerByte'):.3f}", f"{mean('natsPerToken'):.3f}", "", ""])
    active = sum(p for p in (c["vocab_size"] * c["hidden_size"], c["num_hidden_layers"] * (
        c["hidden_size"] * c["head_dim"] * 2 * (c["num_attention_heads"] + c["num_key_value_heads"])
        + c["num_experts"] * c["hidden_size"]
        + 3 * c["num_experts_per_tok"] * c["moe_intermediate_size"] * c["hidden_size"])))
    text = f"""# Model card: the demo model

A very small Mixture-of-Experts language model in the exact shape of `Qwen3MoeForCausalLM`, trained from scratch
on twelve clearly different kinds of text so that its routing has something to show. It exists to run inside the
demo and to test the inference engine against.

{e['model']['parameters'] / 1e6:.2f}M parameters, of which about {active / 1e6:.2f}M work on a token; {c['num_hidden_layers']} layers, hidden size {c['hidden_size']},
{c['num_attention_heads']} query and {c['num_key_value_heads']} key-value heads of {c['head_dim']}, {c['num_experts']} experts of width {c['moe_intermediate_size']} per layer with the top {c['num_experts_per_tok']} chosen and
renormalised, {c['vocab_size']:,} byte-level BPE tokens, context {c['max_position_embeddings']:,}. `model.safetensors` is bf16, {e['model']['fileBytes'] / 2 ** 20:.1f} MiB.

## Limits

* It is tiny and saw only {tokens / 1e6:.1f}M tokens. It writes text that looks like its twelve domains; it knows nothing
  reliable, cannot calculate (its solutions to word problems are wrong far more often than right), and its code does not run.
* It is **not a chat assistant**. The chat template is real and was trained on, but mostly as "the user gives the
  beginning of a text, the assistant continues it".
* No safety training of any kind; the training text holds the views and the language of its sources and centuries.
* Held-out text is from the same books, repositories and documentation as the training text (other chapters, folders,
  files), so the figures below say how well it learned these sources, not language at large.

## Data

Only texts whose licence allows publishing a trained model. The corpus itself is not part of the repository.

{data_table(e)}

The TinyStories licence is inferred from the original data set. The four documentation languages hold out the same
files, so no held-out page was read in another language. Splits are by whole units: chapters (novel), blocks of about
9,000 characters (drama), stories, problems, speeches, documentation files, source folders (code); units go to held-out
in the order of a hash until about 4 % of a domain's bytes are reached. Exact duplicates are removed, held-out documents
with more than half of their long lines in training are dropped (neither trained on nor scored), and files that are
mostly digits are left out. "Repeated lines" is the share of held-out text in lines of 30 characters or more that stand
word for word in the training text of the domain; source code repeats itself across folders, which flatters the
n-grams and the model alike.

## Recipe

* Tokenizer: byte-level BPE trained here on about 1.2 MB of training text per domain; Qwen2-style split pattern.
  Special tokens `<|endoftext|>`, `<|user|>`, `<|assistant|>`, `<|system|>`, `<|end|>`. Documents end with
  `<|endoftext|>`; there is no begin-of-sequence token.
* Rows: domains are drawn in proportion to their token count to the power 0.6; within an epoch no chunk repeats.
  17 % of the rows are in the chat form. Row length: {length_phases(log)}. {tokens:,} tokens in {e['training']['step']:,} steps of 8,192 tokens;
  the corpus has {corpus_tokens:,} tokens. (That the two are nearly equal is chance; some domains were read more than
  once and some less.){mixture(work)}
* Muon (learning rate {optimiser.MUON_LR}, momentum {optimiser.MUON_MOMENTUM}, decay {optimiser.MUON_DECAY}) for attention and expert matrices; AdamW (0.004; router
  0.002; betas 0.9 and 0.95) for the rest. Warm-up over 0.5M tokens, constant, then falling
  to zero from {decay_start(log)} on, close to linearly (the planned end was moved while training). Gradient norm clipped at 1.
* Router: softmax over all experts in float32, top {c['num_experts_per_tok']}, renormalised. Balance loss over the whole global batch (averaged
  over layers; coefficient 0.01 for the first 1.66M tokens, 0.03 after), router z-loss 0.001.
* float32 on two CPU cores, two processes that share gradients and parameters in memory.

## Loss

![Loss curve](loss-curve.svg)

{curve_table(log, evaluations)}

Training loss also moves with the row length and the mixture. The figures while training use a
subset of the held-out text and at most 512 tokens of context; the final ones below use all of it. The full log is
`train-log.csv`; `train-control.jsonl` lists what was asked of the run and from which token on (to within a log row).

## Held-out bits per byte

The published, bf16-rounded weights evaluated in float32, window {e['evaluation']['window']} and stride {e['evaluation']['stride']}, against interpolated modified
Kneser-Ney models of order 5 over bytes and over the same tokens, trained on the same training text (all domains
together, as for the model). Every document is scored from its start after one `<|endoftext|>`.

{table(["domain", "model", "5-gram, bytes", "5-gram, tokens", "model, nats per token", "tokens", "beats both"], held_rows)}

{verdict}

## Routing tells the domain

From the counts of chosen experts alone ({c['num_hidden_layers']} layers x {c['num_experts']} experts) of a passage of {r['passageTokens'][0]} to {r['passageTokens'][1]} tokens, a logistic regression
fitted on {r['trainPassages']:,} training passages names the domain of {r['heldoutPassages']:,} held-out passages with **{100 * r['logisticRegression']['accuracy']:.1f} %** accuracy
(multinomial naive Bayes: {100 * r['naiveBayes']['accuracy']:.1f} %; chance: {100 / len(DOMAINS):.1f} %).

{table(["domain", "logistic regression", "naive Bayes"], [[d, f"{100 * r['logisticRegression']['perDomain'][d]:.0f} %", f"{100 * r['naiveBayes']['perDomain'][d]:.0f} %"] for d in DOMAINS])}

## Expert load

Share of held-out tokens per expert, every domain counted equally; 1 would be a perfectly even load.

{table(["layer", "coefficient of variation", "busiest / mean", "idlest / mean"], [[i, f"{load['cv'][i]:.2f}", f"{load['maxOverMean'][i]:.2f}", f"{load['minOverMean'][i]:.2f}"] for i in range(c['num_hidden_layers'])])}

## Reference values

`eval.json` holds all figures of this card. `train-golden.json` holds the last-position logits of three short
sequences and the perplexity of a fixed held-out snippet ({e['perplexity']['perplexity']:.2f}) for checking other implementations;
`train/check-model.py` confirms them with an independent float64 forward pass.

## Samples

{samples_section(samples)}
"""
    (out / "MODEL_CARD.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
