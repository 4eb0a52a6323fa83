// The order in which passes that work layer by layer write tensors: the embedding, each layer's, then what comes behind the last, so that a layer is made when its first tensor is asked for.
// Owns that order by canonical names. Refuses other names: they come last.

/** -1 for the embedding, nLayers for what stands behind the layers. */
export const layerOfTensor = (name: string, nLayers: number): number => Number(/^layers\.(\d+)\./.exec(name)?.[1] ?? (name === "embed" ? -1 : nLayers));

/** In order of layers; those of one layer stay as they were. */
export const inLayerOrder = <Tensor extends { readonly name: string }>(tensors: Iterable<Tensor>, nLayers: number): Tensor[] =>
  [...tensors].sort((a, b) => layerOfTensor(a.name, nLayers) - layerOfTensor(b.name, nLayers));
