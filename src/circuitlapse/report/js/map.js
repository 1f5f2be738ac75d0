// Figure 2: the circuit map. Where things stand is decided once, in Python, for exported figures too.
const circuitMap = (() => {
  const { layout } = data;
  const kinds = [
    { id: "old", title: () => `Old task: ${roles.old.title}`, value: (i) => effectAt("old", i)?.[0],
      at: (name) => positionEffect("old", name), edges: () => edgesOf("old") },
    { id: "new", title: () => `New task: ${roles.new.title}`, value: (i) => effectAt("new", i)?.[0],
      at: (name) => positionEffect("new", name), edges: () => edgesOf("new") },
    { id: "difference", title: () => "Difference: new − old", value: (i) => difference(i),
      at(name) {
        const [old, now] = roleNames.map((role) => positionEffect(role, name));
        return old === null || now === null ? null : now - old;
      },
      edges: edgeDifferences },
  ];
  const widest = 7; // of an edge with the largest score of the run
  const boxOf = (node) => layout.boxes[node.id];
  let maps = [];
  let focused = 0; // the one cell of each map that Tab reaches

  // What corrupting the input at one named position does: a patch before the first layer.
  function positionEffect(role, name) {
    if (state.family !== data.families.shared[0]) return null;
    return patchAt(role, "resid_pre", data.positions.indexOf(name))?.[0] ?? null;
  }

  function draw() {
    maps = kinds.map((kind) => drawMap(kind, document.getElementById(`map-${kind.id}`)));
    drawLegend(document.getElementById("legend"), largestEffect,
      ["works against the answer", "needed for the answer (logits)"]);
    drawKeys();
    step();
    reachable();
    pin();
  }

  function drawMap(kind, root) {
    root.replaceChildren();
    const fateOf = new Map(fates().map((row) => [row.node, row.fate]));
    const { width, height } = layout;
    const svg = d3.select(root).append("svg").attr("viewBox", [0, 0, width, height])
      .attr("role", "group").attr("class", "map")
      .attr("aria-label", `${kind.title()}: heads by layer. Arrow keys move, Enter pins.`);
    svg.append("text").attr("class", `map-title text-${kind.id}`).attr("x", layout.boxes.logits[0])
      .attr("y", 14).text(kind.title());
    const label = (x, y, text, anchor = "middle") => svg.append("text").attr("class", "tick-label")
      .attr("x", x).attr("y", y).attr("dy", "0.35em").attr("text-anchor", anchor).text(text);
    const every = layout.columns.length > 16 ? 4 : 1;
    layout.rows.forEach((y, layer) => label(layout.boxes.logits[0] - 7, y, `L${layer}`, "end"));
    layout.columns.forEach((x, head) => {
      if (head % every === 0) label(x, height - 7, head === 0 ? "H0" : head);
    });
    const bar = svg.append("g").selectAll("rect").data(["logits"]).join("rect")
      .attr("class", "end-bar");
    place(bar, (name) => layout.boxes[name]);
    boxText(svg.append("g"), layout.boxes.logits, "logits");
    const named = layout.positions[kind.id];
    const chips = svg.append("g").selectAll("g").data(Object.keys(named)).join("g")
      .attr("class", "chip");
    place(chips.append("rect"), (name) => named[name]);
    chips.append("text").attr("text-anchor", "middle").attr("dy", "0.35em")
      .attr("x", (name) => named[name][0] + named[name][2] / 2)
      .attr("y", (name) => named[name][1] + named[name][3] / 2)
      .text((name) => name);
    chips.on("pointerenter", (event, name) => hoverPosition(event.currentTarget, name))
      .on("pointerleave", hideTooltip);
    const below = svg.append("g").attr("class", "edges");
    const cell = svg.selectAll("g.cell").data(data.nodes).join("g").attr("class", "cell")
      .classed("bar", (node) => !isHead(node)).attr("role", "button");
    const rects = cell.append("rect").attr("rx", 2);
    place(rects, boxOf);
    const signs = cell.append("text").attr("class", "sign").attr("text-anchor", "middle").attr("dy", "0.36em")
      .attr("x", (node) => boxOf(node)[0] + boxOf(node)[2] / 2)
      .attr("y", (node) => boxOf(node)[1] + boxOf(node)[3] / 2)
      .attr("font-size", (node) => Math.min(14, Math.round(0.62 * d3.min(boxOf(node).slice(2)))))
      .text((node) => (kind.id === "difference" ? "" : fateSign(fateOf.get(node.id) ?? "")));
    cell.on("click", (_, node) => togglePin(node.id))
      .on("pointerenter focus", (event, node) => hover(event.currentTarget, node))
      .on("pointerleave blur", leave)
      .on("keydown", (event, node) => cellKey(event, node, kind));
    const above = svg.append("g").attr("class", "edges above");
    const nothing = svg.append("text").attr("class", "nothing").attr("text-anchor", "middle")
      .attr("x", width / 2).attr("y", height / 2);
    return { kind, cell, rects, signs, chips, below, above, nothing, found: [] };
  }

  function place(rects, box) {
    rects.attr("x", (each) => box(each)[0]).attr("y", (each) => box(each)[1])
      .attr("width", (each) => box(each)[2]).attr("height", (each) => box(each)[3]);
  }

  function boxText(group, [x, y, width, height], text) {
    group.append("text").attr("class", "tick-label").attr("text-anchor", "middle")
      .attr("x", x + width / 2).attr("y", y + height / 2).attr("dy", "0.35em").text(text);
  }

  function hover(element, node) {
    for (const map of maps) {
      map.cell.classed("hover", (other) => other.id === node.id);
      drawEdges(map, node.id);
    }
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

  function hoverPosition(element, name) {
    const column = data.positions.indexOf(name);
    showTooltip(element, `Input at ${name}, corrupted`, roleNames.map((role) =>
      [roles[role].title, interval(patchAt(role, "resid_pre", column)), role]),
    `step ${data.steps[state.step]}, a dozen prompts`);
  }

  function leave() {
    for (const map of maps) {
      map.cell.classed("hover", false);
      drawEdges(map, state.head);
    }
    hideTooltip();
  }

  function cellKey(event, node, kind) {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      togglePin(node.id);
      return;
    }
    if (event.key === "Escape") { choose({ head: null }); return; }
    const to = neighbour(node, event.key);
    if (to === undefined) return;
    event.preventDefault();
    if (to < 0) return;
    focused = to;
    reachable();
    maps.find((each) => each.kind === kind).cell.nodes()[to].focus();
  }

  // Left and right along a layer's heads; up and down through heads and MLPs in turn.
  function neighbour(node, key) {
    const find = (layer, head) =>
      data.nodes.findIndex((other) => other.layer === layer && other.head === head);
    const column = isHead(node) ? node.head : lastColumn;
    switch (key) {
      case "ArrowLeft": return isHead(node) ? find(node.layer, node.head - 1) : -1;
      case "ArrowRight": return isHead(node) ? find(node.layer, node.head + 1) : -1;
      case "ArrowUp": return isHead(node) ? find(node.layer, -1) : find(node.layer + 1, column);
      case "ArrowDown": return isHead(node) ? find(node.layer - 1, -1) : find(node.layer, column);
      default: return undefined;
    }
  }
  let lastColumn = 0;

  function reachable() {
    if (isHead(data.nodes[focused])) lastColumn = data.nodes[focused].head;
    for (const { cell } of maps)
      cell.attr("tabindex", (_, index) => (index === focused ? 0 : -1));
  }

  // A node's own edges are drawn above the cells, all others behind them.
  function drawEdges({ kind, below, above, found }, node) {
    const touches = (edge) => node !== null && (edge.writer === node || edge.reader === node);
    const shown = found.slice(0, state.edges);
    below.classed("faint", node !== null);
    paths(below, shown.filter((edge) => !touches(edge)));
    paths(above, found.filter(touches));
  }

  function paths(group, edges) {
    group.selectAll("path").data(edges, (edge) => edge.id)
      .join((enter) => enter.append("path").attr("d", (edge) => edge.path))
      .attr("class", (edge) => (edge.score < 0 ? "against" : "for"))
      .attr("stroke-width", (edge) => widest * Math.abs(edge.score) / data.edges.largest);
  }

  function step() {
    const fateOf = new Map(fates().map((row) => [row.node, row.fate]));
    for (const map of maps) {
      const { kind, cell, chips, nothing } = map;
      const values = data.nodes.map((_, index) => kind.value(index) ?? null);
      cell.classed("missing", (_, index) => values[index] === null);
      setChanged(cell, "aria-label", (node, index) => `${nodeName(node)}, ${kind.title()}: `
        + `${number(values[index])} logits, ${fateOf.get(node.id) ?? "no fate"}`);
      setChanged(map.rects, "fill", (_, index) =>
        (values[index] === null ? "none" : toColour(values[index])));
      setChanged(map.signs, "fill", (_, index) =>
        (values[index] === null ? null : inkOn(values[index])));
      map.signs.filter((node) => !isHead(node)) // beyond the scale colour says no more
        .each(function write(node) {
          const text = barText(node, values[nodeIndex.get(node.id)]);
          if (this.textContent !== text) this.textContent = text;
        });
      colourChips(kind, chips);
      nothing.text(values.some((value) => value !== null) ? ""
        : kind.id !== "difference" && effects(kind.id) ? "not patched exactly at this step"
          : `no corruption “${state.family}”`);
      map.found = kind.edges();
      drawEdges(map, state.head);
    }
  }

  function colourChips(kind, chips) {
    const values = Object.keys(layout.positions[kind.id]).map((name) => kind.at(name));
    chips.classed("missing", (_, index) => values[index] === null);
    chips.select("rect").attr("fill", (_, index) =>
      (values[index] === null ? "none" : toColour(values[index])));
    chips.select("text").attr("fill", (_, index) =>
      (values[index] === null ? null : inkOn(values[index])));
  }

  function barText(node, value) {
    const beyond = value !== null && Math.abs(value) > largestEffect;
    return `MLP ${node.layer}${beyond ? `:  ${d3.format(".2~r")(value)}` : ""}`;
  }

  function pin() {
    for (const map of maps) {
      map.cell.classed("pinned", (node) => node.id === state.head)
        .attr("aria-pressed", (node) => String(node.id === state.head));
      drawEdges(map, state.head);
    }
  }

  function drawKeys() {
    const present = new Set(Object.values(data.fates).flat().map((row) => row.fate));
    d3.select("#fate-key").selectAll("span").data(
      Object.entries(data.names.fates).filter(([fate, [sign]]) => sign && present.has(fate)))
      .join("span").attr("title", ([, [, meaning]]) => meaning).html("")
      .call((span) => span.append("b").text(([, [sign]]) => sign))
      .call((span) => span.append("i").text(([fate]) => ` ${fate}`));
    const svg = drawing(d3.select("#edge-key").html("").node(), 250, 46,
      `Width of an edge in proportion to its score, up to ${number(data.edges.largest)} logits`);
    [1, 0.5, 0.1].forEach((part, index) => {
      svg.append("path").attr("class", "for").attr("d", `M${8 + 82 * index} 10h34`)
        .attr("stroke-width", widest * part);
      svg.append("text").attr("class", "tick-label").attr("x", 46 + 82 * index).attr("y", 14)
        .text(d3.format(".2~r")(data.edges.largest * part));
    });
    svg.append("text").attr("class", "tick-label").attr("x", 8).attr("y", 43)
      .text("edge score, logits");
  }

  function csv() {
    return data.nodes.flatMap((node, index) => roleNames.flatMap((role) =>
      data.steps.map((now, at) => ({ node: node.id, task: roles[role].name,
        corruption: state.family, step: now, ...asColumns("effect", effectAt(role, index, at)),
        fate: fates().find((row) => row.node === node.id)?.fate }))));
  }

  return { draw, step, pin, csv, name: "circuit-map", redrawsOn: ["run", "family", "edges"] };
})();

function togglePin(id) {
  choose({ head: state.head === id ? null : id });
}
