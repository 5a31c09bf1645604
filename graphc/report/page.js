"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const facts = JSON.parse(find("facts").textContent);

  // Text goes in as text, never as markup: names are the user's.
  const make = (tag, text = "", attributes = {}) => {
    const element = document.createElement(tag);
    if (text) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const anchor = (address, text) => make("a", text, { href: `#${address}` });
  const named = (kind, name) => `${kind}/${encodeURIComponent(name)}`;

  const unpack = async (id) => {
    const bytes = Uint8Array.from(atob(find(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  };

  // -- tabs --

  const tabs = all('[role="tab"]');
  const panels = tabs.map((tab) => find(tab.getAttribute("aria-controls")));

  const open = (key) => {
    tabs.forEach((tab, i) => {
      const chosen = panels[i].id === key;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      panels[i].classList.toggle("open", chosen);
    });
    if (key === "graph") showGraph();
    if (key === "passes") showPass();
    if (key === "kernels" && !shownKernel) showKernel(costliest(), false);
  };
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => { location.hash = `part/${panels[i].id}`; });
    tab.addEventListener("keydown", (event) => {
      const moves = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 };
      if (!(event.key in moves)) return;
      event.preventDefault();
      const next = (moves[event.key] + tabs.length) % tabs.length;
      tabs[next].focus();
      location.hash = `part/${panels[next].id}`;
    });
  });

  // -- light and dark --

  const theme = find("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = (isDark) => theme.setAttribute("aria-pressed", String(isDark));
  paint(dark.matches);
  dark.addEventListener("change", () => {
    if (!document.documentElement.dataset.theme) paint(dark.matches);
  });
  theme.addEventListener("click", () => {
    const isDark = theme.getAttribute("aria-pressed") !== "true";
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
    paint(isDark);
  });

  // -- tables --

  const sort = (head) => {
    const column = [...head.parentElement.children].indexOf(head);
    const up = head.getAttribute("aria-sort") === "descending";
    const body = head.closest("table").tBodies[0];
    const numeric = body.rows.length > 0 && "value" in body.rows[0].cells[column].dataset;
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const compare = numeric
      ? (a, b) => Number(key(a)) - Number(key(b))
      : (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
    const ascending = numeric ? up : head.getAttribute("aria-sort") !== "ascending";
    const rows = [...body.rows].sort(compare);
    body.append(...(ascending ? rows : rows.reverse()));
    for (const other of head.parentElement.children) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  };
  all("thead button").forEach((button) => {
    button.addEventListener("click", () => sort(button.parentElement));
  });
  all("input[data-rows]").forEach((input) => {
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase();
      for (const row of find(input.dataset.rows).tBodies[0].rows) {
        row.hidden = !row.textContent.toLowerCase().includes(wanted);
      }
    });
  });
  const chooseRow = (key) => {
    all("tr.chosen").forEach((row) => row.classList.remove("chosen"));
    const row = all("tr[data-key]").find((each) => each.dataset.key === key);
    if (!row) return;
    row.hidden = false;
    row.classList.add("chosen");
    row.scrollIntoView({ block: "center" });
    row.focus({ preventScroll: true });
  };

  // -- the graph --

  const links = all(".net a[data-box]");
  const edges = all(".net path[data-from]");
  const boxOfValue = new Map();
  const boxOfStep = new Map();
  for (const [key, box] of Object.entries(facts.boxes)) {
    box.steps.forEach((number) => boxOfStep.set(`step-${number}`, key));
    box.values.flat().forEach((name) => boxOfValue.set(name, key));
  }
  const place = (link) => link.transform.baseVal[0].matrix;
  const rove = (chosen = links.find((link) => link.tabIndex === 0) ?? links[0]) => {
    links.forEach((link) => { link.setAttribute("tabindex", link === chosen ? "0" : "-1"); });
  };
  const towards = (from, key) => {
    const way = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[key];
    let best, least = Infinity;
    for (const link of links) {
      const dx = place(link).e - place(from).e, dy = place(link).f - place(from).f;
      const along = dx * way[0] + dy * way[1], aside = Math.abs(dx * way[1] + dy * way[0]);
      if (along > 1 && along + 2 * aside < least) [best, least] = [link, along + 2 * aside];
    }
    return best;
  };
  links.forEach((link) => link.addEventListener("keydown", (event) => {
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    const next = towards(link, event.key);
    if (!next) return;
    rove(next);
    next.focus();
    next.scrollIntoView({ block: "nearest", inline: "nearest" });
  }));

  const picture = document.querySelector(".net");
  const full = [Number(picture.getAttribute("width")), Number(picture.getAttribute("height"))];
  let scale = 1;
  const zoom = (to) => {
    scale = Math.min(3, Math.max(0.1, to));
    picture.setAttribute("width", full[0] * scale);
    picture.setAttribute("height", full[1] * scale);
  };
  const fitting = () => (picture.parentElement.clientWidth - 4) / full[0];
  all("[data-zoom]").forEach((button) => button.addEventListener("click", () => {
    const by = button.dataset.zoom;
    zoom(by === "fit" ? fitting() : scale * Number(by));
  }));
  let isFitted = false;
  const showGraph = () => {
    rove();
    if (!isFitted) zoom(Math.min(1, Math.max(0.6, fitting())));
    isFitted = true;
  };

  const list = (title, items) => {
    if (!items.length) return [];
    const held = make("ul");
    for (const item of items) {
      const line = make("li");
      line.append(item);
      held.append(line);
    }
    return [make("h4", title), held];
  };
  const remarks = all("#remarks tbody tr").map((row) => (
    { subject: row.cells[0].textContent, sentence: row.cells[1].textContent }));
  const concerns = (remark, box) => {
    const about = remark.subject.replace(/^(layer|blob) /, "").split(", ");
    return about.some((name) => box.layers.includes(name.split("/").slice(0, -1).join("/")) ||
      box.layers.includes(name.replace(/\.diff$/, "")) || box.layers.includes(name));
  };
  const buffers = new Set(facts.buffers);
  const bufferItem = (name) => buffers.has(name) ? anchor(named("buffer", name), name) : name;
  const first = (items, most = 24) =>
    items.length > most ? [...items.slice(0, most), `${items.length - most} more`] : items;
  const showBox = (key) => {
    const box = facts.boxes[key];
    const link = links.find((each) => each.dataset.box === key);
    if (!box || !link) return;
    links.forEach((each) => {
      each.classList.toggle("chosen", each === link);
      if (each === link) each.setAttribute("aria-current", "true");
      else each.removeAttribute("aria-current");
    });
    edges.forEach((edge) => edge.classList.toggle(
      "near", edge.dataset.from === key || edge.dataset.to === key));
    rove(link);
    link.scrollIntoView({ block: "center", inline: "center" });
    link.focus({ preventScroll: true });
    const steps = box.steps.map((number) => facts.steps[number]);
    const shown = [make("h3", box.title), make("p", `${box.subtitle}; ${box.shape}`)];
    shown.push(...list("Operators", first(box.operators.map((text, i) =>
      box.values[i].length ? anchor(named("ir", box.values[i][0]), text) : text))));
    const kernels = new Map(steps.map((step) => [step.kernel, step.kernel_name]));
    shown.push(...list("Code", first([
      ...[...kernels].map(([key, name]) => anchor(`kernel-${key}`, `kernel ${key} (${name})`)),
      ...steps.map((step) => anchor(`run-${step.step}`, `step ${step.step}: costs`)),
    ])));
    if (steps.length === 1) {
      shown.push(...list("Reads", steps[0].reads.map(bufferItem)));
      shown.push(...list("Writes", steps[0].writes.map(bufferItem)));
    }
    const said = remarks.filter((remark) => concerns(remark, box));
    shown.push(...list("Decisions", said.map((r) => `${r.subject}: ${r.sentence}.`)));
    find("box").replaceChildren(...shown);
  };

  // -- passes --

  let lines, shownPass = -1;
  const passButtons = all("[data-pass]");
  const valueOf = (text) => {
    const found = /^%("(?:[^"\\]|\\.)*"|\S+): /.exec(text);
    if (!found) return "";
    return found[1].startsWith('"') ? JSON.parse(found[1]) : found[1];
  };
  const irLine = ([mark, number], isLast) => {
    const text = lines.table[number];
    const line = make(mark > 0 ? "ins" : mark < 0 ? "del" : "span");
    const key = isLast && mark >= 0 ? boxOfValue.get(valueOf(text)) : undefined;
    line.append(mark > 0 ? "+ " : mark < 0 ? "- " : "  ", key ? anchor(key, text) : text);
    if (mark >= 0) line.dataset.value = valueOf(text);
    return line;
  };
  const showPass = async (number = shownPass < 0 ? passButtons.length - 1 : shownPass) => {
    if (!passButtons.length) return;
    lines ??= await unpack("lines");
    shownPass = number;
    passButtons.forEach((b, i) => b.setAttribute("aria-pressed", String(i === number)));
    const isLast = number === passButtons.length - 1;
    const onlyChanges = find("changes").checked;
    const shown = [];
    let skipped = 0;
    const close = () => {
      if (skipped) shown.push(make("span", `  ... ${skipped} lines as before`, { class: "gap" }));
      skipped = 0;
    };
    for (const line of lines.passes[number][1]) {
      if (onlyChanges && line[0] === 0) { skipped += 1; continue; }
      close();
      shown.push(irLine(line, isLast));
    }
    close();
    find("ir").replaceChildren(...shown);
  };
  passButtons.forEach((button, i) => button.addEventListener("click", () => showPass(i)));
  find("changes").addEventListener("change", () => showPass());
  const showLine = async (name) => {
    find("changes").checked = false;
    await showPass(passButtons.length - 1);
    const line = [...find("ir").children].find((each) => each.dataset.value === name);
    if (!line) return;
    line.classList.add("chosen");
    line.tabIndex = -1;
    line.scrollIntoView({ block: "center" });
    line.focus({ preventScroll: true });
  };

  // -- memory --

  const said = find("buffer");
  all("[data-buffer]").forEach((shape) => shape.addEventListener("mouseenter", () => {
    said.textContent = shape.querySelector("title").textContent;
  }));
  const showBuffer = (name) => {
    all("[data-buffer]").forEach((s) => s.classList.toggle("chosen", s.dataset.buffer === name));
    chooseRow(`buffer/${name}`);
  };

  // -- kernels --

  let shownKernel = "";
  const costliest = () => {
    const cost = (step) => step.seconds ?? step.flops;
    const most = facts.steps.reduce((a, b) => (cost(b) > cost(a) ? b : a), facts.steps[0]);
    return most?.kernel;
  };
  const showKernel = async (key, focus = true) => {
    const kernel = facts.kernels[key];
    if (!kernel) return;
    shownKernel = key;
    const code = await unpack(`code-${key}`);
    if (shownKernel !== key) return;
    const head = make("h3", `Kernel ${key}: ${kernel.name}`, { tabindex: "-1" });
    const users = make("p", "Run by ");
    kernel.steps.slice(0, 12).forEach((number, i) => {
      if (i) users.append(", ");
      users.append(anchor(`step-${number}`, `step ${number} (${facts.steps[number].layer || "net"})`));
    });
    if (kernel.steps.length > 12) users.append(` and ${kernel.steps.length - 12} more`);
    const panes = make("div", "", { class: "panes" });
    for (const [language, title] of facts.languages) {
      const text = code.texts[language], missing = code.missing[language];
      if (text === undefined && missing === undefined) continue;
      const pane = make("div");
      pane.append(make("h4", title));
      if (text === undefined) pane.append(make("p", missing, { class: "note" }));
      else pane.append(make("pre", text, { tabindex: "0", role: "region", "aria-label": title }));
      const left = code.left_out[language];
      if (left) {
        const verb = language === "schedule" ? "explain NET LAYER" : `show NET --as ${language}`;
        pane.append(make("p", `${left} more lines are left out here; graphc ${verb} prints them.`,
          { class: "note" }));
      }
      panes.append(pane);
    }
    find("kernel").replaceChildren(head, users, panes);
    if (focus) {
      head.scrollIntoView({ block: "start" });
      head.focus({ preventScroll: true });
    }
  };

  // -- links --

  const go = async () => {
    const address = decodeURIComponent(location.hash.slice(1)) || "overview";
    const [kind, ...rest] = address.split("/");
    const name = rest.join("/");
    if (kind === "part" && panels.some((panel) => panel.id === name)) {
      open(name);
    } else if (address in facts.boxes || boxOfStep.has(address)) {
      open("graph");
      showBox(boxOfStep.get(address) ?? address);
    } else if (/^step-\d+$/.test(address) || /^run-\d+$/.test(address)) {
      open("kernels");
      chooseRow(address.replace("step", "run"));
    } else if (address.startsWith("kernel-")) {
      shownKernel ||= "none";
      open("kernels");
      await showKernel(address.slice("kernel-".length));
    } else if (kind === "ir") {
      open("passes");
      await showLine(name);
    } else if (kind === "buffer") {
      open("memory");
      showBuffer(name);
    } else {
      open("overview");
    }
  };
  addEventListener("hashchange", go);
  go();
})();
