// Tables of the fleet view: rows with a name, which become cards on a phone (table.css). Owns their markup. Refuses to know what is in them.

import { element } from "./figures.ts";

export interface Cell {
  readonly text: string;
  /** Below it, softly. */
  readonly detail?: string;
  /** For a dot before it. */
  readonly state?: string;
  /** What follows it. */
  readonly more?: readonly Node[];
}

export interface Row {
  /** By which it is found again. */
  readonly key: string;
  /** One for each column; the first names the row. */
  readonly cells: readonly Cell[];
}

export function table(label: string, columns: readonly string[], rows: readonly Row[], className = ""): HTMLElement {
  const made = element("table");
  made.setAttribute("aria-label", label);
  const head = made.createTHead().insertRow();
  for (const column of columns) {
    const cell = element("th", "", column);
    cell.scope = "col";
    head.append(cell);
  }
  const body = made.createTBody();
  for (const { key, cells } of rows) {
    const row = body.insertRow();
    row.dataset["key"] = key;
    cells.forEach(({ text, detail = "", state, more = [] }, i) => {
      const cell = i === 0 ? element("th") : element("td");
      if (i === 0) (cell as HTMLTableCellElement).scope = "row";
      cell.dataset["name"] = columns[i]!;
      if (state !== undefined) cell.dataset["state"] = state;
      cell.append(element("span", "value", text), ...more);
      if (detail !== "") cell.append(element("span", "hint", detail));
      row.append(cell);
    });
  }
  const scroller = element("div", `table ${className}`.trim());
  scroller.append(made);
  return scroller;
}
