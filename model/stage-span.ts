// What of a model one engine holds: rows of the embedding, layers, rows of the head. One engine may hold everything; a ring of them holds everything once.
// Owns the rules of a cut: whole layers, the vocabulary at multiples of 512 rows, a tied head where the embedding's rows are, the last norm beside the last
// layer. Refuses where engines live and how they talk (durable/, docs/protocol.md). What a ring computes: docs/arithmetic.md section 10.

import { ModelError, type ModelConfig } from "./config.ts";

/** From the first to before the last. */
export type Span = readonly [from: number, to: number];

export interface StageSpan {
  readonly embeddingRows: Span;
  readonly layers: Span;
  /** Of a tied head, too: the same as embeddingRows, since its rows are those. */
  readonly headRows: Span;
}

/** The vocabulary is cut only at multiples of so many rows: what the head's kernel takes at a time (kernels.ts topLogits), and whole row blocks of any format. */
export const VOCABULARY_BLOCK_ROWS = 512;

export const wholeModel = ({ nLayers, vocabSize }: Pick<ModelConfig, "nLayers" | "vocabSize">): StageSpan =>
  ({ embeddingRows: [0, vocabSize], layers: [0, nLayers], headRows: [0, vocabSize] });

export const isEmpty = ([from, to]: Span): boolean => from === to;

/** The first stage of a ring, where tokens begin, draws the next ones, too: it puts rows of logits together. */
export const drawsTokens = ({ embeddingRows }: StageSpan): boolean => embeddingRows[0] === 0 && !isEmpty(embeddingRows);

/** Whether residual rows come out of it as final rows: the last norm lies with the last layer. */
export const endsLayers = ({ nLayers }: Pick<ModelConfig, "nLayers">, { layers }: StageSpan): boolean => !isEmpty(layers) && layers[1] === nLayers;

export const holdsAll = ({ nLayers, vocabSize }: Pick<ModelConfig, "nLayers" | "vocabSize">, { embeddingRows, layers, headRows }: StageSpan): boolean =>
  embeddingRows[1] - embeddingRows[0] === vocabSize && layers[1] - layers[0] === nLayers && headRows[1] - headRows[0] === vocabSize;

const show = ([from, to]: Span): string => `${from} to ${to}`;

/** Throws ModelError where no engine can hold this and nothing else of the model. */
export function checkStage({ nLayers, vocabSize, tieWordEmbeddings }: Pick<ModelConfig, "nLayers" | "vocabSize" | "tieWordEmbeddings">, { embeddingRows, layers, headRows }: StageSpan): void {
  const within = (what: string, span: Span, end: number): void => {
    if (!(Number.isInteger(span[0]) && Number.isInteger(span[1]) && span[0] >= 0 && span[0] <= span[1] && span[1] <= end))
      throw new ModelError(`A stage was given ${what} ${show(span)}; a span within 0 to ${end} was expected.`);
  };
  within("layers", layers, nLayers);
  for (const [what, span] of [["embedding rows", embeddingRows], ["head rows", headRows]] as const) {
    within(what, span, vocabSize);
    for (const row of span) if (row % VOCABULARY_BLOCK_ROWS !== 0 && row !== vocabSize)
      throw new ModelError(`A stage was given ${what} ${show(span)}; they are cut at multiples of ${VOCABULARY_BLOCK_ROWS} rows.`);
  }
  if (isEmpty(layers) && isEmpty(embeddingRows) && isEmpty(headRows)) throw new ModelError("A stage was given no layer and no row; it needs something to hold.");
  if (tieWordEmbeddings && (isEmpty(embeddingRows) ? !isEmpty(headRows) : embeddingRows[0] !== headRows[0] || embeddingRows[1] !== headRows[1]))
    throw new ModelError(`A stage was given embedding rows ${show(embeddingRows)} and head rows ${show(headRows)}; this model's head is its embedding, so they must be the same.`);
  if (!isEmpty(layers) && !isEmpty(embeddingRows) && embeddingRows[1] !== vocabSize)
    throw new ModelError(`A stage was given layers ${show(layers)} and embedding rows ${show(embeddingRows)}; rows up to ${vocabSize} were expected, since every token is embedded before the first layer.`);
}

/** Throws ModelError unless the stages, in this order, hold every row and layer once, ascending, and all of the embedding before the first layer. */
export function checkRing(config: Pick<ModelConfig, "nLayers" | "vocabSize" | "tieWordEmbeddings">, stages: readonly StageSpan[]): void {
  const at = { embeddingRows: 0, layers: 0, headRows: 0 };
  for (const [number, stage] of stages.entries()) {
    checkStage(config, stage);
    for (const what of ["embeddingRows", "layers", "headRows"] as const) {
      const [from, to] = stage[what];
      if (from === to) continue;
      if (from !== at[what]) throw new ModelError(`Stage ${number} of a ring was given ${what} ${show(stage[what])}; they were expected to begin at ${at[what]}.`);
      at[what] = to;
      if (what === "layers" && at.embeddingRows !== config.vocabSize) throw new ModelError(`Stage ${number} of a ring has layers, but only ${at.embeddingRows} of ${config.vocabSize} embedding rows come before it.`);
    }
  }
  if (stages.length === 0 || !drawsTokens(stages[0]!)) throw new ModelError("The first stage of a ring was expected to hold the first embedding rows: tokens begin and end there.");
  const [rows, layers, headRows] = [at.embeddingRows, at.layers, at.headRows];
  if (rows !== config.vocabSize || layers !== config.nLayers || headRows !== config.vocabSize)
    throw new ModelError(`A ring holds ${rows} embedding rows, ${layers} layers and ${headRows} head rows; ${config.vocabSize}, ${config.nLayers} and ${config.vocabSize} were expected.`);
}
