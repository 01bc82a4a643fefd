// What a reader would trip over on a laid-out page: texts on top of each other, text cut off or too small or too pale,
// boxes outside the window, charts without a mark. Returns sentences, none for a sound page.
() => {
  const faults = [];
  const seen = (e) => e.checkVisibility({ checkVisibilityCSS: true, contentVisibilityAuto: true });
  const named = (e) => {
    const place = e.closest("section, header, nav, footer");
    const own = typeof e.className === "string" ? e.className : e.className.baseVal;
    return `${(place && (place.id || place.tagName)) || ""} ${e.tagName.toLowerCase()}.${own} "${e.textContent.trim().slice(0, 30)}"`;
  };
  const hiddenOnPurpose = (e) => e.closest(".hidden, .skip, .browse > input, defs");
  const clippedOnPurpose = (e) => e.closest(".preview, .bar");
  const width = document.documentElement.clientWidth;

  if (document.documentElement.scrollWidth > width) faults.push(`the page is ${document.documentElement.scrollWidth} wide`);
  const all = [...document.body.querySelectorAll("*")].filter((e) => seen(e) && !hiddenOnPurpose(e));
  for (const e of all) {
    const box = e.getBoundingClientRect();
    if (!box.width || e.closest(".scroll table") || clippedOnPurpose(e)) continue;
    if (box.left < -1 || box.right > width + 1) faults.push(`outside the window: ${named(e)}`);
  }

  for (const s of document.querySelectorAll(".scroll"))
    if (seen(s) && s.scrollWidth > s.clientWidth && (s.tabIndex < 0 || !s.getAttribute("aria-label")))
      faults.push(`scrolls without the keyboard: ${named(s)}`);
  for (const c of document.querySelectorAll("td, th"))
    if (seen(c) && !hiddenOnPurpose(c) && c.scrollWidth > c.clientWidth + 1) faults.push(`cut off: ${named(c)}`);

  // Text by lines: the middle of each line's box, so that close lines are not taken for overlapping ones.
  const lines = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const e = node.parentElement;
    if (!node.data.trim() || e.closest("title, style") || hiddenOnPurpose(e) || !seen(e)) continue;
    const svg = e.closest("svg text");
    const size = parseFloat(getComputedStyle(e).fontSize) * (svg ? svg.getScreenCTM().a : 1);
    if (size < 10.99 && !e.closest("i")) faults.push(`text of ${size.toFixed(1)} px: ${named(e)}`);
    range.selectNodeContents(node);
    if (clippedOnPurpose(e)) continue;
    for (const r of range.getClientRects())
      if (r.width > 1) lines.push({ e, l: r.left + 1, r: r.right - 1, t: r.top + r.height * 0.22, b: r.bottom - r.height * 0.22 });
  }
  lines.sort((a, b) => a.t - b.t);
  lines.forEach((a, i) => {
    for (let j = i + 1; j < lines.length && lines[j].t < a.b; j++) {
      const b = lines[j];
      if (a.l < b.r && b.l < a.r && a.e !== b.e && a.e.closest(".scroll") === b.e.closest(".scroll"))
        faults.push(`texts overlap: ${named(a.e)} and ${named(b.e)}`);
    }
  });
  for (const { e, l, r } of lines) {
    if (!e.closest(".scroll table") && (l < -1 || r > width + 1)) faults.push(`text outside the window: ${named(e)}`);
    const card = e.closest(".chart") && e.closest(".panel, .body");
    const box = card && card.getBoundingClientRect();
    if (box && (l < box.left || r > box.right)) faults.push(`text of a chart leaves its card: ${named(e)}`);
  }

  for (const chart of document.querySelectorAll(".chart")) {
    if (!seen(chart)) continue;
    if (!chart.getAttribute("aria-label")) faults.push(`a chart without a description: ${named(chart)}`);
    const marks = [...chart.querySelectorAll(".plot use, .curve path")];
    if (!marks.length) faults.push(`a chart without a mark: ${chart.getAttribute("aria-label").slice(0, 60)}`);
    for (const mark of marks) {
      const plot = mark.closest(".plot").getBoundingClientRect();
      const box = mark.getBoundingClientRect();
      if (box.left < plot.left - 1 || box.right > plot.right + 1 || box.top < plot.top - 9 || box.bottom > plot.bottom + 9)
        faults.push(`a mark leaves its chart: ${chart.getAttribute("aria-label").slice(0, 60)}`);
    }
  }
  for (const e of document.querySelectorAll("figure.panel"))
    if (seen(e) && !e.innerText.trim()) faults.push(`an empty figure: ${named(e)}`);

  let level = 0;
  for (const h of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
    const next = Number(h.tagName[1]);
    if (next > level + 1) faults.push(`h${next} after h${level}: ${named(h)}`);
    level = next;
  }

  const channels = (text) => {
    const [, kind, values] = text.match(/^(rgba?|color\(srgb)\s*\(?([^)]*)\)/) || [];
    const n = (values || "0 0 0 0").split(/[\s,/]+/).filter(Boolean).map(Number);
    return [...n.slice(0, 3).map((v) => (kind === "color(srgb" ? 255 * v : v)), n.length > 3 ? n[3] : 1];
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
  const behind = (e) => {
    const layers = [];
    for (let at = e; at; at = at.parentElement) {
      const layer = channels(getComputedStyle(at).backgroundColor);
      if (layer[3] > 0) layers.push(layer);
      if (layer[3] === 1) break;
    }
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]);
  };
  const luminance = (c) => {
    const [r, g, b] = c.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  for (const e of new Set(lines.map((line) => line.e))) {
    const style = getComputedStyle(e);
    const under = behind(e);
    const ink = over(channels(e.closest("svg") ? style.fill : style.color), under);
    const [dark, light] = [luminance(ink), luminance(under)].sort((a, b) => a - b);
    const big = e.matches("[role=img]") || parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < (big ? 3 : 4.5) && !e.closest("[aria-hidden]")) faults.push(`contrast of ${ratio.toFixed(2)}: ${named(e)}`);
  }
  return [...new Set(faults)];
}
