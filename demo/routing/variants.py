"""Owns the table of variants: one record each, made of the engine's ModelConfig record (model/config.ts) and of what training
adds. Refuses anything else that could tell variants apart: trunk, data, order of rows and schedule are the same for all.
"""
HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, EXPERTS, TOP_K, WIDTH, VOCABULARY, CONTEXT = 128, 4, 4, 2, 32, 16, 4, 64, 6144, 512

GROUPS = {"prose": ["novel", "stories", "speeches"], "math": ["math"], "docs": ["docs-en", "docs-fr"], "code": ["code-ts", "code-c"]}
DOMAINS = [d for domains in GROUPS.values() for d in domains]

PLAIN_ROUTER = {"score": "softmax", "select": "top-k", "sparsemixerEpsilon": 0, "weigh": "renormalize", "scale": 1, "topK": TOP_K,
                "logitBias": False, "selectionBias": False, "nGroups": 1, "topKGroups": 1, "groupScore": "max"}


def inverse_frequencies(dim, theta):
    return [theta ** (-2 * i / dim) for i in range(dim // 2)]


def config(router=None, **changes):
    """A ModelConfig: the common trunk with the router's and other fields replaced or added."""
    c = {"architecture": "routing", "vocabSize": VOCABULARY, "hiddenSize": HIDDEN, "nLayers": LAYERS, "nHeads": HEADS, "nKvHeads": KV_HEADS,
         "headDim": HEAD_DIM, "mla": None, "maxPositions": CONTEXT, "norm": "rms", "normEps": 1e-6, "rope": None, "qkNorm": "per-head",
         "qkvBias": False, "oBias": False, "attentionSinks": False, "clipQkv": None, "attentionScale": None, "slidingWindows": None,
         "layerFfns": None, "denseIntermediateSize": 0, "nExperts": EXPERTS, "expertKind": "swiglu", "swigluLimit": 0,
         "expertIntermediateSize": WIDTH, "sharedIntermediateSize": 0, "sharedGate": False, "router": {**PLAIN_ROUTER, **(router or {})},
         "tieWordEmbeddings": True, "headBias": False, "embeddingMultiplier": 1, "residualMultiplier": 1, "logitsScaling": 1,
         "eosTokenIds": [0, 4], "bosTokenId": None, **changes}
    c["rope"] = {"style": "half", "dim": c["headDim"], "theta": 10000, "magnitude": 1, "long": None,
                 "inverseFrequencies": inverse_frequencies(c["headDim"], 10000)}
    c["attentionScale"] = c["headDim"] ** -0.5
    c["slidingWindows"], c["layerFfns"] = [0] * c["nLayers"], c["layerFfns"] or ["moe"] * c["nLayers"]
    return c
