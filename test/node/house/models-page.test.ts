// docs/models.md shows the architectures, cells and deviations of the code, and has a measured error of every cell.

import { expect, it } from "vitest";
import { allCells, measuredCells, parts } from "../../models-table.ts";

it.each(parts().map(({ name, written, computed }) => [name, written, computed] as const))("%s as it is computed", (_, written, computed) => {
  expect(written, "`node test/models-table.ts --write` brings the page up to date").toBe(computed);
});

it("measured errors of every cell and no other", () => {
  expect(measuredCells(), "`npm run bench models`, then `node test/models-table.ts --write --measured build/bench/models.json`").toEqual(allCells());
});
