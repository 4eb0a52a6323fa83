"""Owns the loss-curve drawing: training loss and held-out bits per byte against tokens, as SVG.
Refuses smoothing beyond the plain mean of neighbouring log rows that it states in its legend.
"""

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 460, 60, 130, 40, 50
COLOURS = ["#1b6ca8", "#c0392b", "#27864a", "#8e44ad", "#d68910", "#117a8b", "#7f8c8d", "#b03a78", "#5d6d1e",
           "#34495e", "#a0522d", "#e74c8b"]
SMOOTHING = 5


def smooth(values):
    return [sum(values[max(0, i - SMOOTHING + 1):i + 1]) / len(values[max(0, i - SMOOTHING + 1):i + 1])
            for i in range(len(values))]


def panel(x0, width, title, series, x_max, y_min, y_max):
    """series: [(label, colour, [(x, y)...])]"""
    px = lambda x: x0 + x / x_max * width
    py = lambda y: HEIGHT - BOTTOM - (min(y, y_max) - y_min) / (y_max - y_min) * (HEIGHT - TOP - BOTTOM)
    out = [f'<text x="{x0}" y="{TOP - 14}" font-size="13">{title}</text>']
    for i in range(6):
        y = y_min + (y_max - y_min) * i / 5
        out.append(f'<line x1="{x0}" x2="{x0 + width}" y1="{py(y):.1f}" y2="{py(y):.1f}" stroke="#ddd"/>'
                   f'<text x="{x0 - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{y:.2f}</text>')
        x = x_max * i / 5
        out.append(f'<text x="{px(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x / 1e6:.1f}M</text>')
    for label, colour, points in series:
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>')
    placed = []
    for label, colour, points in sorted(series, key=lambda s: -s[2][-1][1]):
        y = py(points[-1][1])
        y = max(y, placed[-1] + 12) if placed else y
        placed.append(y)
        if label:
            out.append(f'<text x="{x0 + width + 4}" y="{y + 4:.1f}" fill="{colour}">{label}</text>')
    return out


def svg(log, evaluations, domains):
    tokens = [float(r["tokens"]) for r in log]
    x_max = tokens[-1]
    losses = smooth([float(r["loss"]) for r in log])
    half = (WIDTH - LEFT - RIGHT - 70) / 2
    bits = [(d, c, [(float(r["tokens"]), float(r[d])) for r in evaluations]) for d, c in zip(domains, COLOURS)]
    values = [y for _, _, p in bits for _, y in p[1:]]
    body = panel(LEFT, half, f"training loss, nats per token (mean of {SMOOTHING} log rows)",
                 [("", COLOURS[0], list(zip(tokens, losses)))], x_max, float(int(min(losses) * 2)) / 2, 7.0)
    body += panel(LEFT + half + 70, half, "held-out bits per byte (subset, while training)", bits, x_max,
                  float(int(min(values) * 5)) / 5, float(int(max(values) * 5) + 1) / 5)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">'
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>' + "".join(body) +
            f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">training tokens</text></svg>\n')
