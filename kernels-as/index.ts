// Entry of every variant: the operations of model/kernels.ts, and the probe. The matrix products behind matmul are generated per variant.

export { quantizeRows } from "./quantize";
export { matmul, expertFfn } from "./matmul";
export { rmsNormRows, rmsNormQuantizeRows, layerNormRows, softmaxRows } from "./norm-softmax";
export { topKRows, topLogits } from "./top-k";
export { ropeRows } from "./rope";
export { attention } from "./attention";
export { kvWrite } from "./kv-cache";
export { addRows, copyRows, addBiasRows, scaleRows, clampRows, combine } from "./rows";
export { readRow } from "./read-row";
export { checksum } from "./checksum";
export { probeDot } from "./products";
