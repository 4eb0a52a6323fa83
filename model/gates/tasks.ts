// A router's matrix for each task; the request names its own (`moe.task`). H. Liang et al., *M3ViT*, 2022 (multi_gate).
// Owns the choice of the matrix: all of them are resident, so a switch of the task loads nothing.

import { gateInputSize, logitsOf } from "../router-config.ts";
import { type Gate, settingsOf } from "./gate.ts";

export const tasks: Gate = {
  tensors: (c) => [{ name: "taskRouter", kind: "matrices", count: settingsOf(c, "tasks").nTasks, nRows: logitsOf(c), nCols: gateInputSize(c) }],
  ownColumns: () => 0,
  wideColumns: () => 0,
  takes: ({ taskRouters }) => [taskRouters!.takes],
  run: ({ w, products, rows, first, nTokens, logits, stride, tasks: of }) => {
    const { ptr, eachBytes, ...matrix } = w.taskRouters!;
    for (let t = 0; t < nTokens;) {
      let end = t + 1;
      while (end < nTokens && of[end] === of[t]) end++;
      products.product({ ...matrix, ptr: ptr + of[t]! * eachBytes }, rows, first + t, end - t, logits + t * stride, stride);
      t = end;
    }
  },
};
