// Figure 2: layers upwards, heads and an MLP column as cells, coloured on one fixed scale.
const layerCount = d3.max(data.nodes, (node) => node.layer) + 1;
const headCount = d3.max(data.nodes, (node) => node.head) + 1;

const diverging = {
  light: ["#7f3b08", "#b35806", "#e08214", "#fdb863", "#fee0b6", "#f4f4f2",
    "#d1e5f0", "#92c5de", "#4393c3", "#2166ac", "#053061"],
  dark: ["#ffe0b0", "#fdb863", "#e08a2c", "#a8641f", "#5c4023", "#2a2d31",
    "#24465f", "#2a70a3", "#4a9bd0", "#86c4ec", "#d3ecff"],
};

function isDark() {
  const forced = document.documentElement.dataset.theme;
  return forced ? forced === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

let toColour; // effect → colour
function chooseColours() {
  const ramp = d3.interpolateRgbBasis(diverging[isDark() ? "dark" : "light"]);
  toColour = (effect) => ramp(0.5 + 0.5 * colourPlace(effect));
}

// The signed square root of an effect relative to the largest of any head, in [-1, 1].
function colourPlace(effect) {
  return Math.sign(effect) * Math.sqrt(Math.min(1, Math.abs(effect) / largestEffect));
}

const mlpIndices = d3.range(data.nodes.length).filter((index) => !isHead(data.nodes[index]));

function beyondScale(effect) {
  return effect !== null && Math.abs(effect) > largestEffect ? d3.format(".2~r")(effect) : "";
}

function inkOn(colour) {
  return d3.lab(colour).l > 58 ? "#15171a" : "#ffffff";
}

const circuitMap = (() => {
  const kinds = [
    { id: "old", title: () => `Old task: ${roles.old.title}`, value: (i) => effectAt("old", i)?.[0] },
    { id: "new", title: () => `New task: ${roles.new.title}`, value: (i) => effectAt("new", i)?.[0] },
    { id: "difference", title: () => "Difference: new − old", value: (i) => difference(i) },
  ];
  let cells = [];
  let focused = 0; // the one cell of each map that Tab reaches

  function draw() {
    chooseColours();
    const roots = kinds.map((kind) => document.getElementById(`map-${kind.id}`));
    roots.forEach((root) => root.replaceChildren());
    cells = kinds.map((kind, place) => drawMap(kind, roots[place]));
    drawLegend();
    step();
  }

  function drawMap(kind, root) {
    const left = 34, top = 30, bottom = 22;
    const room = root.clientWidth - left - 2;
    const size = Math.max(9, Math.min(40, Math.floor(room / (headCount + 1.7))));
    const inset = size > 16 ? 1.5 : 0.5;
    const gap = size * 0.45;
    const wide = size * 1.2;
    const width = left + headCount * size + gap + wide + 4;
    const height = top + layerCount * size + bottom;
    const columnOf = (node) => (isHead(node) ? left + node.head * size
      : left + headCount * size + gap);
    const rowOf = (node) => top + (layerCount - 1 - node.layer) * size;
    const fateOf = new Map(fates().map((row) => [row.node, row.fate]));
    const svg = d3.select(root).append("svg").attr("width", width).attr("height", height)
      .attr("viewBox", [0, 0, width, height]).attr("role", "group").attr("class", "map")
      .attr("aria-label", `${kind.title()}: heads by layer. Arrow keys move, Enter pins.`);
    svg.append("text").attr("class", `map-title text-${kind.id}`).attr("x", left).attr("y", 15)
      .text(kind.title());
    const every = size < 14 ? 4 : 1;
    for (let layer = 0; layer < layerCount; layer += 1) {
      if (layer % every) continue;
      svg.append("text").attr("class", "tick-label").attr("x", left - 7).attr("text-anchor", "end")
        .attr("y", top + (layerCount - 0.5 - layer) * size).attr("dy", "0.35em")
        .text(layer === layerCount - 1 || layer === 0 ? `L${layer}` : layer);
    }
    for (let head = 0; head < headCount; head += every) {
      svg.append("text").attr("class", "tick-label").attr("text-anchor", "middle")
        .attr("x", left + (head + 0.5) * size).attr("y", height - 7)
        .text(head === 0 ? "H0" : head);
    }
    svg.append("text").attr("class", "tick-label").attr("text-anchor", "middle")
      .attr("x", left + headCount * size + gap + wide / 2).attr("y", height - 7).text("MLP");
    const cell = svg.selectAll("g.cell").data(data.nodes).join("g").attr("class", "cell")
      .attr("role", "button")
      .attr("transform", (node) => `translate(${columnOf(node)},${rowOf(node)})`);
    cell.append("rect").attr("x", inset).attr("y", inset).attr("rx", Math.min(3, size / 10))
      .attr("width", (node) => (isHead(node) ? size : wide) - 2 * inset)
      .attr("height", size - 2 * inset);
    cell.append("text").attr("class", "sign").attr("text-anchor", "middle").attr("dy", "0.36em")
      .attr("x", (node) => (isHead(node) ? size : wide) / 2).attr("y", size / 2)
      .attr("font-size", Math.round(size * 0.48))
      .text((node) => (kind.id === "difference" ? "" : fateSign(fateOf.get(node.id) ?? "")));
    cell.on("click", (_, node) => togglePin(node.id))
      .on("pointerenter focus", (event, node) => hover(event.currentTarget, node))
      .on("pointerleave blur", leave)
      .on("keydown", (event, node) => cellKey(event, node, kind));
    const nothing = svg.append("text").attr("class", "nothing").attr("text-anchor", "middle")
      .attr("x", left + headCount * size / 2).attr("y", top + layerCount * size / 2);
    return { kind, cell, nothing };
  }

  function hover(element, node) {
    for (const { cell } of cells) cell.classed("hover", (other) => other.id === node.id);
    const index = nodeIndex.get(node.id);
    const rows = roleNames.map((role) =>
      [roles[role].title, interval(effectAt(role, index)), role]);
    rows.push(["new − old", number(difference(index))]);
    for (const role of roleNames) {
      const at = effectAt(role, index)?.[3];
      if (at !== null && at !== undefined)
        rows.push([`edge scores, ${role} task`, number(at)]);
    }
    const fate = fates().find((row) => row.node === node.id)?.fate;
    showTooltip(element, fate ? `${nodeName(node)}: ${fate}` : nodeName(node), rows,
      `step ${data.steps[state.step]}, corruption ${state.family}`, element.ownerSVGElement);
  }

  function leave() {
    for (const { cell } of cells) cell.classed("hover", false);
    hideTooltip();
  }

  function cellKey(event, node, kind) {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      togglePin(node.id);
      return;
    }
    if (event.key === "Escape") { choose({ head: null }); return; }
    const column = isHead(node) ? node.head : headCount;
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1],
      ArrowDown: [0, -1] }[event.key] ?? [0, 0];
    if (!dx && !dy) return;
    event.preventDefault();
    const to = data.nodes.findIndex((other) => other.layer === node.layer + dy
      && (isHead(other) ? other.head : headCount) === column + dx);
    if (to < 0) return;
    focused = to;
    reachable();
    cells.find((each) => each.kind === kind).cell.nodes()[to].focus();
  }

  function reachable() {
    for (const { cell } of cells)
      cell.attr("tabindex", (_, index) => (index === focused ? 0 : -1));
  }

  function step() {
    const fateOf = new Map(fates().map((row) => [row.node, row.fate]));
    for (const { kind, cell, nothing } of cells) {
      const values = data.nodes.map((_, index) => kind.value(index) ?? null);
      const colours = values.map((value) => (value === null ? null : toColour(value)));
      cell.classed("missing", (_, index) => values[index] === null)
        .attr("aria-label", (node, index) => `${nodeName(node)}, ${kind.title()}: `
          + `${number(values[index])} logits, ${fateOf.get(node.id) ?? "no fate"}`);
      cell.select("rect").attr("fill", (_, index) => colours[index] ?? "none");
      cell.select("text").style("fill", (_, index) => (colours[index] ? inkOn(colours[index]) : null))
        .filter((node) => !isHead(node)) // beyond the scale's end the colour says no more
        .text((_, place) => beyondScale(values[mlpIndices[place]]));
      nothing.text(values.some((value) => value !== null) ? ""
        : kind.id !== "difference" && effects(kind.id) ? "not patched exactly at this step"
          : `no corruption “${state.family}”`);
    }
    reachable();
    pin();
  }

  function pin() {
    for (const { cell } of cells)
      cell.classed("pinned", (node) => node.id === state.head)
        .attr("aria-pressed", (node) => String(node.id === state.head));
    drawPinned();
  }

  return { draw, step, pin, redrawsOn: ["run", "family"] };
})();

function togglePin(id) {
  choose({ head: state.head === id ? null : id });
}

function drawLegend() {
  const root = document.getElementById("legend");
  root.replaceChildren();
  const width = 380, left = 12, right = width - 12;
  const place = (value) => left + (right - left) * (0.5 + 0.5 * colourPlace(value));
  const svg = drawing(root, width, 46, `Colour scale from ${number(-largestEffect)} to `
    + `${number(largestEffect)} logits, neutral at zero`);
  const parts = 120;
  svg.selectAll("rect").data(d3.range(parts)).join("rect")
    .attr("x", (part) => left + (right - left) * part / parts)
    .attr("y", 4).attr("height", 11).attr("width", (right - left) / parts + 0.5)
    .attr("fill", (part) => {
      const t = 2 * (part + 0.5) / parts - 1;
      return toColour(Math.sign(t) * t * t * largestEffect);
    });
  let last = place(0);
  const kept = [0];
  for (const size of [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50]) {
    if (size > largestEffect || place(size) - last < 30) continue;
    kept.push(size, -size);
    last = place(size);
  }
  if (place(largestEffect) - last > 24) kept.push(largestEffect, -largestEffect);
  const tick = svg.selectAll("g").data(kept).join("g")
    .attr("transform", (value) => `translate(${place(value)},15)`);
  tick.append("line").attr("class", "tick-line").attr("y2", 4);
  tick.append("text").attr("class", "tick-label").attr("text-anchor", "middle").attr("y", 14)
    .text((value) => d3.format(".2~r")(value));
  svg.append("text").attr("class", "tick-label").attr("x", left).attr("y", 43)
    .text("works against the answer");
  svg.append("text").attr("class", "tick-label").attr("x", right).attr("y", 43)
    .attr("text-anchor", "end").text("needed for the answer (logits)");

  const present = new Set(Object.values(data.fates).flat().map((row) => row.fate));
  d3.select("#fate-key").selectAll("span").data(
    Object.entries(data.names.fates).filter(([fate, [sign]]) => sign && present.has(fate)))
    .join("span").attr("title", ([, [, meaning]]) => meaning).html("")
    .call((span) => span.append("b").text(([, [sign]]) => sign))
    .call((span) => span.append("i").text(([fate]) => ` ${fate}`));
}

function drawPinned() {
  const root = d3.select("#pinned").html("");
  const node = data.nodes.find((each) => each.id === state.head);
  if (!node) {
    root.append("p").attr("class", "hint").text("Pin a head to keep its numbers here.");
    return;
  }
  const index = nodeIndex.get(node.id);
  const fate = fates().find((row) => row.node === node.id)?.fate;
  const meaning = data.names.fates[fate]?.[1];
  const line = root.append("p");
  line.append("b").text(nodeName(node));
  line.append("span").text(fate ? ` ${fate}${meaning ? ` (${meaning})` : ""}` : "");
  line.append("button").attr("type", "button").text("Unpin")
    .on("click", () => choose({ head: null }));
  const places = [...new Set([0, state.step, data.steps.length - 1])];
  const table = root.append("table");
  const header = table.append("thead").append("tr");
  header.append("th").text("Patching effect, logits");
  header.selectAll("th.num").data(places).join("th").attr("class", "num")
    .text((place) => (place === 0 ? `base (step ${data.steps[0]})` : `step ${data.steps[place]}`));
  const rows = table.append("tbody").selectAll("tr").data(roleNames).join("tr");
  rows.append("th").attr("scope", "row").attr("class", (role) => `key-${role}`)
    .text((role) => roles[role].title);
  rows.selectAll("td").data((role) => places.map((place) => effectAt(role, index, place)))
    .join("td").attr("class", "num").text((triple) => interval(triple?.slice(0, 3)));
}
