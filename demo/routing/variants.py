"""Owns the table of variants: one record each, made of the engine's ModelConfig record (model/config.ts) and of what training
adds. Refuses anything else that could tell variants apart: trunk, data, order of rows and schedule are the same for all.
Unless the kind is about it, a token passes expert matrices of as many numbers in every variant: 4 x 3 x 64 x 128 a layer.
"""
HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, EXPERTS, TOP_K, WIDTH, VOCABULARY, CONTEXT = 128, 4, 4, 2, 32, 16, 4, 64, 6144, 256

GROUPS = {"prose": ["novel", "stories", "speeches"], "math": ["math"], "docs": ["docs-en", "docs-fr"], "code": ["code-ts", "code-c"]}
DOMAINS = [d for domains in GROUPS.values() for d in domains]
GROUP_OF = [list(GROUPS).index(g) for g, domains in GROUPS.items() for _ in domains]     # by number of the domain

PLAIN_ROUTER = {"score": "softmax", "select": "top-k", "sparsemixerEpsilon": 0, "weigh": "renormalize", "scale": 1, "topK": TOP_K,
                "logitBias": False, "selectionBias": False, "nGroups": 1, "topKGroups": 1, "groupScore": "max"}
NO_ROUTER = {"score": "one", "weigh": "score", "topK": 0}
SOFTMAX_SELECTED = {"score": "logits", "weigh": "softmax-selected"}


def config(router=None, **changes):
    """A ModelConfig: the common trunk with the router's and other fields replaced or added. Rows of the embedding are multiplied by
    sqrt(hidden), as Gemma does: tied to the output they are short, and unless a head of the first layer chanced to learn to attend to its own token,
    what attention adds drowned them, and two runs of one kind ended 0.05 bits per byte apart."""
    c = {"architecture": "routing", "vocabSize": VOCABULARY, "hiddenSize": HIDDEN, "nLayers": LAYERS, "nHeads": HEADS, "nKvHeads": KV_HEADS,
         "headDim": HEAD_DIM, "mla": None, "maxPositions": CONTEXT, "norm": "rms", "normEps": 1e-6, "rope": None, "qkNorm": "per-head",
         "qkvBias": False, "oBias": False, "attentionSinks": False, "clipQkv": None, "attentionScale": None, "slidingWindows": None,
         "layerFfns": None, "denseIntermediateSize": 0, "nExperts": EXPERTS, "expertKind": "swiglu", "swigluLimit": 0,
         "expertIntermediateSize": WIDTH, "sharedIntermediateSize": 0, "sharedGate": False, "router": {**PLAIN_ROUTER, **(router or {})},
         "tieWordEmbeddings": True, "headBias": False, "embeddingMultiplier": HIDDEN ** 0.5, "residualMultiplier": 1, "logitsScaling": 1,
         "eosTokenIds": [0, 4], "bosTokenId": None, **changes}
    dim = c["headDim"]
    c["rope"] = {"style": "half", "dim": dim, "theta": 10000, "magnitude": 1, "long": None,
                 "inverseFrequencies": [10000 ** (-2 * i / dim) for i in range(dim // 2)]}
    c["attentionScale"] = dim ** -0.5
    c["slidingWindows"], c["layerFfns"] = [0] * c["nLayers"], c["layerFfns"] or ["moe"] * c["nLayers"]
    return c


def mlp_gate(activation, width=64):
    return {"logitBias": True, "gate": {"kind": "mlp", "width": width, "activation": activation}}


# In the order in which they are trained. `beside`: what a variant is to be compared with. `training`: see train-kinds.py.
VARIANTS = {
    "topk": {"config": config(), "beside": None},
    "topk3": {"config": config({"topK": 3}), "beside": "topk"},
    # AdaMoE: six places among 16 experts and 16 null ones; the load loss sees the null ones' mean, and a bias of theirs holds the mean of true ones.
    "null": {"config": config({"topK": 6, "nullExperts": 16, "logitBias": True}), "beside": "topk3", "training": {"trueExperts": 3.0}},
    # MoE++: the same places, but null experts keep their weights, which are then nobody's.
    "zero": {"config": config({"topK": 6, "nullExperts": 16, "nullWeights": "kept", "logitBias": True}), "beside": "topk3", "training": {"trueExperts": 3.0}},
    # A trigger word and its marker; as many experts as the two words then fill some of their own.
    "planted": {"config": config({"topK": 2}, nExperts=2 * EXPERTS, expertIntermediateSize=2 * WIDTH), "beside": "topk", "training": {"plant": 0.6}},
    # ReXMoE: two layers share 32 experts, as many as two layers of 16 have; candidates of the other layer come in one by one.
    "pool": {"config": config(nExperts=2 * EXPERTS, expertPool={"layers": 2}), "beside": "topk", "training": {"progressive": 0.6}},
    "dense": {"config": config(NO_ROUTER, layerFfns=["dense"] * LAYERS, denseIntermediateSize=TOP_K * WIDTH, nExperts=0, expertIntermediateSize=0),
              "beside": "topk"},
    # Monet: 64 halves of 24 hold as many numbers as 16 experts of 64, and 4 heads of 4 keys read about a quarter of them.
    "product": {"config": config(NO_ROUTER, layerFfns=["product"] * LAYERS, nExperts=0, expertIntermediateSize=0,
                                 productExperts={"form": "vertical", "nKeys": 64, "nHeads": 4, "topK": 4, "expertSize": 24, "routerLayers": 4}),
                "beside": "topk"},
    # MoE-X: two matrices of 96 are as many numbers as three of 64.
    "relu": {"config": config(SOFTMAX_SELECTED, expertKind="relu-mlp", expertIntermediateSize=96), "beside": "topk"},
    "sparsity": {"config": config({**SOFTMAX_SELECTED, "gate": {"kind": "sparsity"}}, expertKind="relu-mlp", expertIntermediateSize=96),
                 "beside": "relu"},
    # EvoMoE: every expert at first, then by temperature fewer and fewer.
    "threshold": {"config": config({"select": "threshold", "weigh": "score", "topK": EXPERTS, "threshold": {"temperature": 0.5, "least": 0.05}}),
                  "beside": "topk", "training": {"temperature": [4.0, 0.5]}},
    # M3ViT: one router per task, experts are everybody's.
    "tasks": {"config": config({"gate": {"kind": "tasks", "nTasks": len(GROUPS)}}), "beside": "topk"},
    # MoDE: the router sees nothing but the request's condition.
    "wide": {"config": config({"topK": 2}, nExperts=4, expertIntermediateSize=2 * WIDTH), "beside": None},
    "condition": {"config": config({"topK": 2, "scope": {"kind": "condition", "size": 8}}, nExperts=4, expertIntermediateSize=2 * WIDTH), "beside": "wide"},
    # T2MIR: experts write half the row, so 76 wide ones are as many numbers.
    "branches": {"config": config({**SOFTMAX_SELECTED, **mlp_gate("tanh"), "branches": [{"topK": 2}, {"topK": 2, "scope": {"kind": "sequence", "tokens": 16}}]},
                                  expertIntermediateSize=76), "beside": "topk"},
    "mlp-tanh": {"config": config({**SOFTMAX_SELECTED, **mlp_gate("tanh")}), "beside": "topk"},
    "mlp-relu": {"config": config(mlp_gate("relu")), "beside": "topk"},
    # Switch layers: one expert, weighed by its probability; 2 x 192 numbers a row beside 3 x 128.
    "top1": {"config": config({"topK": 1, "weigh": "score"}, nExperts=8, expertIntermediateSize=128), "beside": "topk"},
    "switch": {"config": config({"topK": 1, "weigh": "score"}, nExperts=8, expertKind="gelu-mlp", expertIntermediateSize=192), "beside": "top1"},
}

SEEDS = (7, 8, 9)      # a small model's luck is as large as most differences between kinds, so every kind is trained from several first numbers
RUNS = [f"{name}-{seed}" for seed in SEEDS for name in VARIANTS]


def of_run(run):
    """`topk-8` -> its variant and the seed of its first numbers."""
    name, _, seed = run.rpartition("-")
    if name not in VARIANTS or not seed.isdigit():
        raise SystemExit(f"there is no run {run}; expected a variant and a seed, such as topk-{SEEDS[0]}; variants are {', '.join(VARIANTS)}")
    return VARIANTS[name], int(seed)
