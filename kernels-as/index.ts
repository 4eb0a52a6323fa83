// Entry of every variant: the operations of model/kernels.ts, and the probe. The matrix products behind matmul are generated per variant.

export { quantizeRows } from "./quantize";
export { matmul, expertFfn } from "./matmul";
export { rmsNormRows, softmaxRows, topKRows } from "./norm-softmax";
export { ropeRows } from "./rope";
export { kvWrite, attention } from "./attention";
export { addRows, addBiasRows, scaleRows, clampRows, combine } from "./rows";
export { readRow } from "./read-row";
export { probeDot } from "./products";
