// Makes what is on the screen equal to what was built anew, touching only what differs: figures that live keep focus, selection, scrolling and transitions.
// Elements with a `data-key` are found again wherever they moved. Owns that comparison. Refuses listeners and inputs: they belong into parts that are built once.

/** Whether a folded part is open is its reader's choice. */
const isReaders = (element: Element, name: string): boolean => name === "open" && element.localName === "details";

const keyOf = (node: Node | null): string | undefined => (node instanceof HTMLElement ? node.dataset["key"] : undefined);

const isSame = (old: Node | null, wanted: Node): boolean => old !== null && old.nodeName === wanted.nodeName && keyOf(old) === keyOf(wanted);

/** The children of `host` become these. */
export function patch(host: Element, wanted: readonly Node[]): void {
  wanted.forEach((node, i) => {
    const at = host.childNodes[i] ?? null;
    const key = keyOf(node);
    const old = isSame(at, node) || key === undefined ? at : [...host.childNodes].find((other) => isSame(other, node)) ?? at;
    if (!isSame(old, node)) host.insertBefore(node, at);
    else {
      if (old !== at) host.insertBefore(old!, at);
      update(old!, node);
    }
  });
  while (host.childNodes.length > wanted.length) host.lastChild!.remove();
}

function update(old: Node, wanted: Node): void {
  if (!(old instanceof Element) || !(wanted instanceof Element)) {
    if (old.nodeValue !== wanted.nodeValue) old.nodeValue = wanted.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) if (!wanted.hasAttribute(name) && !isReaders(old, name)) old.removeAttribute(name);
  for (const { name, value } of wanted.attributes) {
    if (old.getAttribute(name) === value) continue;
    // The page's policy lets no style attribute be written as one.
    if (name === "style") (old as HTMLElement).style.cssText = value;
    else old.setAttribute(name, value);
  }
  patch(old, [...wanted.childNodes]);
}
