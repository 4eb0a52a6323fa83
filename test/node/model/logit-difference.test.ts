// The measure that tests and tables of models are in, by hand: error over spread, divergence, and tokens of clear choice.

import { expect, it } from "vitest";
import { logitDifference } from "../../support/logit-difference.ts";

const log = Math.log;

it("counts rows from their mean, so that logits and log-probabilities are alike", () => {
  const found = logitDifference([[[3, 1, 2], [13, 11, 12]]]);
  expect(found).toMatchObject({ rows: 1, relative: 0, worst: 0, sameToken: 1, clearTokens: 1 });
  expect(found.kl).toBeCloseTo(0, 12);
});

it("gives the error over the spread, the worst row, and the divergence in nats", () => {
  // Probabilities 1/2, 1/2 against 3/4, 1/4: half the logarithm of 4/3. The centred rows are 0, 0 and +-log(3)/2.
  const { kl, topLogprob } = logitDifference([[[0, 0], [log(3), 0]]]);
  expect(kl).toBeCloseTo(0.5 * log(4 / 3), 12);
  expect(topLogprob).toBeCloseTo(log(2), 12);
  // Spreads 2 and 8, errors 2 and 0: rows of [1, -1] against [2, -2], and of [2, -2] against itself.
  const { relative, worst } = logitDifference([[[1, -1], [2, -2]], [[2, -2], [2, -2]]]);
  expect([relative, worst]).toEqual([Math.sqrt(2 / 10), 1]);
});

it("asks for the same token only where the right row's choice is clear", () => {
  expect(logitDifference([[[1, 0.9], [0, 1]], [[1, 0], [0, 1]]])).toMatchObject({ clearTokens: 1, sameToken: 0 });
  expect(logitDifference([[[1, 0.9], [0, 1]], [[1, 0], [0, 1]]], 2)).toMatchObject({ clearTokens: 0 });
});
