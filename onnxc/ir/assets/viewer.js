"use strict";
// Builds the columns from the data block. Text only ever becomes text nodes and attribute values, never markup.
(() => {
  const CHUNK = 100;          // lines that are turned into elements together, when they come into view
  const LINE_HEIGHT = 18;     // pixels, as in viewer.css
  const RELATED = 0.1;        // share of common lines below which two columns are not compared
  const NAME = /[%@](?:"(?:[^"\\]|\\.)*"|[A-Za-z0-9_$.\/:-]*[A-Za-z0-9_$.\/-])/g;
  const HUES = [48, 200, 120, 320, 20, 260, 90, 170, 350, 230, 70, 290];

  const data = JSON.parse(document.getElementById("data").textContent);
  const main = document.getElementById("columns");

  function element(tag, className, text) {
    const e = document.createElement(tag);
    if (className) e.className = className;
    if (text !== undefined) e.textContent = text;
    return e;
  }

  // ---- colours of names --------------------------------------------------------------------------------------------
  const coloured = new Map();       // name -> hue
  const sheet = document.getElementById("colours").sheet;

  function recolour() {
    while (sheet.cssRules.length) sheet.deleteRule(0);
    for (const [name, hue] of coloured) {
      sheet.insertRule(`.name[data-name="${CSS.escape(name)}"] { background: hsl(${hue} 85% 60% / .75); }`);
    }
  }

  function toggleColour(name) {
    if (!coloured.delete(name)) {
      const used = new Set(coloured.values());
      coloured.set(name, HUES.find(h => !used.has(h)) ?? HUES[coloured.size % HUES.length]);
    }
    recolour();
  }

  // ---- lines -------------------------------------------------------------------------------------------------------
  function lineElement(text, className) {
    const line = element("div", className);
    let at = 0;
    for (const m of text.matchAll(NAME)) {
      line.append(text.slice(at, m.index));
      const name = element("span", "name", m[0]);
      name.dataset.name = m[0];
      line.append(name);
      at = m.index + m[0].length;
    }
    line.append(text.slice(at));
    return line;
  }

  // A chunk is plain text (which the browser's search finds) until it is seen; then each line is an element.
  const observer = new IntersectionObserver(entries => {
    for (const entry of entries) if (entry.isIntersecting) entry.target.build();
  });

  function chunkElement(column, start) {
    const numbers = column.lines.slice(start, start + CHUNK);
    const chunk = element("div", "chunk", numbers.map(n => data.lines[n]).join("\n"));
    chunk.style.containIntrinsicSize = `auto 40em auto ${numbers.length * LINE_HEIGHT}px`;
    chunk.style.height = `${numbers.length * LINE_HEIGHT}px`;
    chunk.built = false;
    chunk.build = () => {
      if (chunk.built) return;
      chunk.built = true;
      observer.unobserve(chunk);
      chunk.replaceChildren(...numbers.map(n => lineElement(data.lines[n], "")));
      chunk.shade();
    };
    chunk.shade = () => {
      if (!chunk.built) return;
      numbers.forEach((n, i) => { chunk.children[i].className = column.mark(n); });
    };
    observer.observe(chunk);
    return chunk;
  }

  // ---- columns -----------------------------------------------------------------------------------------------------
  function related(a, b) {
    let common = 0;
    for (const n of a) if (b.has(n)) common++;
    return common >= RELATED * Math.max(a.size, b.size);
  }

  // Shade every shown column against its shown neighbours: lines that are new in it, and lines that the next one lacks.
  function shade() {
    const shown = columns.filter(c => c.isShown());
    shown.forEach((column, i) => {
      const [before, after] = [shown[i - 1], shown[i + 1]].map(c => c && related(column.set, c.set) ? c.set : null);
      column.mark = n => before && !before.has(n) ? "new" : after && !after.has(n) ? "gone" : "";
      for (const chunk of column.chunks) chunk.shade();
    });
  }

  function logElement(rows) {
    const log = element("details", "log");
    const applied = rows.reduce((sum, row) => sum + row.applied, 0);
    const refused = rows.reduce((sum, row) => sum + row.refused.reduce((s, [n]) => s + n, 0), 0);
    log.append(element("summary", "", `${applied} rewrites, ${refused} refused`));
    const table = element("table");
    const head = element("tr");
    for (const text of ["rule", "applied", "numbers", "refused", "place"]) head.append(element("th", "", text));
    table.append(head);
    for (const row of rows) {
      const tr = element("tr");
      const reasons = element("td");
      for (const [n, reason] of row.refused) reasons.append(element("div", "", `${n} \u00d7 ${reason}`));
      tr.append(element("td", "", row.rule), element("td", "", row.applied), element("td", "", row.serials), reasons,
                element("td", "", row.place));
      table.append(tr);
    }
    log.append(table);
    return log;
  }

  class Column {
    constructor({titles, lines, log}) {
      this.lines = lines;
      this.set = new Set(lines);
      this.chunks = [];
      this.mark = () => "";
      this.section = element("section", "column hidden");
      this.heading = element("h2");
      for (const title of titles) this.heading.append(element("span", "", title));
      this.heading.append(element("small", "", `${lines.length} lines`));
      this.heading.tabIndex = 0;
      this.heading.setAttribute("role", "button");
      this.heading.addEventListener("click", () => { this.show(!this.isShown()); shade(); });
      this.heading.addEventListener("keydown", e => { if (e.key === "Enter") this.heading.click(); });
      this.section.append(this.heading);
      if (log.length) this.section.append(logElement(log));
      main.append(this.section);
      this.show(false);
    }

    isShown() { return !this.section.classList.contains("hidden"); }

    show(on) {
      this.section.classList.toggle("hidden", !on);
      this.heading.setAttribute("aria-expanded", on);
      if (on && !this.chunks.length) {
        const code = element("div", "code");
        for (let i = 0; i < this.lines.length; i += CHUNK) this.chunks.push(chunkElement(this, i));
        code.append(...this.chunks);
        this.section.append(code);
      }
    }
  }

  const columns = data.columns.map(c => new Column(c));
  const all = on => { columns.forEach(c => c.show(on)); shade(); };
  columns.forEach((c, i) => c.show(columns.length <= 3 || i === 0 || i >= columns.length - 2));
  shade();

  main.addEventListener("click", e => {
    if (e.target.classList.contains("name")) toggleColour(e.target.dataset.name);
  });
  document.addEventListener("keydown", e => {
    if (e.key === "Escape") { coloured.clear(); recolour(); }
  });
  document.getElementById("show-all").addEventListener("click", () => all(true));
  document.getElementById("hide-all").addEventListener("click", () => all(false));
})();
