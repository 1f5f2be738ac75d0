// Heads over training as rows of signs: change categories and roles.
function signGrid(root, { title, role, rows, code, sign, name, width, details }) {
  const left = 62, top = 24, lineHeight = 15, cell = (width - left - 4) / data.steps.length;
  const svg = drawing(root, width, top + rows.length * lineHeight + 24, title);
  svg.append("text").attr("class", `panel-title text-${role}`).attr("x", left).attr("y", 14)
    .text(title);
  const places = d3.cross(d3.range(rows.length), d3.range(data.steps.length))
    .filter(([row, step]) => code(rows[row], step));
  rows.forEach((node, row) => svg.append("text").attr("class", "tick-label").attr("x", left - 6)
    .attr("y", top + (row + 0.5) * lineHeight).attr("dy", "0.35em").attr("text-anchor", "end")
    .text(node.label));
  const every = labelEvery(data.steps.length, width);
  data.steps.forEach((step, column) => {
    if (column % every === 0)
      svg.append("text").attr("class", "tick-label").attr("text-anchor", "middle")
        .attr("x", left + (column + 0.5) * cell).attr("y", top + rows.length * lineHeight + 14)
        .text(step);
  });
  const cells = svg.append("g").selectAll("g").data(places).join("g").attr("transform",
    ([row, step]) => `translate(${left + step * cell},${top + row * lineHeight})`);
  cells.append("rect").attr("width", Math.max(1, cell - (cell > 7 ? 1 : 0)))
    .attr("height", lineHeight - 1)
    .attr("class", ([row, step]) => `sign-${code(rows[row], step).replaceAll(" ", "-")}`);
  if (cell >= 9)
    cells.append("text").attr("class", "sign-text").attr("x", cell / 2).attr("y", lineHeight / 2)
      .attr("dy", "0.32em").attr("text-anchor", "middle")
      .text(([row, step]) => sign(code(rows[row], step)));
  cells.on("pointerenter", (event, [row, step]) => showTooltip(event.currentTarget,
    `${nodeName(rows[row])}, step ${data.steps[step]}`,
    [[name, code(rows[row], step)], ...details(rows[row], step)]))
    .on("pointerleave", hideTooltip).on("click", (_, [row]) => togglePin(rows[row].id));
  const outline = svg.append("rect").attr("class", "column-marker").attr("width", Math.max(cell, 3))
    .attr("y", top - 1).attr("height", rows.length * lineHeight + 1);
  return { step: () => outline.attr("x", left + state.step * cell) };
}

const headNodes = data.nodes.filter(isHead);
const mostHeads = 32;

// The code of a head at a step, written as one character over [steps, heads].
function codeAt(text, names, head, step) {
  const place = (text?.charCodeAt(step * headNodes.length + head) ?? 0x20) - 0x23;
  return place < 0 || Number.isNaN(place) ? null : names[place];
}

// Heads with any sign, those that change most often, in the model's order.
function livelyHeads(codes, plain) {
  const changes = headNodes.map((_, head) => d3.sum(codes, (code) => d3.sum(data.steps,
    (_, step) => {
      const now = code(head, step);
      return now === null || now === plain ? 0
        : 1 + 8 * (step > 0 && now !== code(head, step - 1));
    })));
  const chosen = new Set(d3.sort(d3.range(headNodes.length).filter((head) => changes[head] > 0),
    (head) => -changes[head]).slice(0, mostHeads));
  return d3.range(headNodes.length).filter((head) => chosen.has(head));
}

const changesChart = (() => {
  const root = document.getElementById("changes-chart");
  let drawn = null;
  const of = () => data.head_changes_over[`${state.run}/${state.family}`];

  function draw() {
    if (!root) return; // the run has no changes
    root.replaceChildren();
    drawn = null;
    const names = Object.keys(data.names.head_changes), text = of();
    const heads = text ? livelyHeads([(head, step) => codeAt(text, names, head, step)], "unused")
      : [];
    const steps = d3.sum(data.steps, (_, step) => heads.some((head) =>
      codeAt(text, names, head, step)));
    showFigure(root, steps > 1);
    if (steps < 2) return;
    const place = new Map(heads.map((head) => [headNodes[head].id, head]));
    drawn = signGrid(root, {
      title: "Change category of each head up to each step", role: "plain", name: "category",
      rows: heads.map((head) => headNodes[head]), width: Math.min(root.clientWidth, 860),
      code: (node, step) => {
        const category = codeAt(text, names, place.get(node.id), step);
        return category === "unused" ? null : category;
      },
      sign: categorySign,
      details: (node, step) => roleNames.map((role) => [roles[role].title,
        interval(effectAt(role, nodeIndex.get(node.id), step)?.slice(0, 3)), role]),
    });
    drawn.step();
  }

  const csv = () => Object.entries(data.head_changes_over).flatMap(([key, text]) => {
    const [run, ...family] = key.split("/");
    return data.steps.flatMap((step, at) => headNodes.map((node, head) => ({ ...data.runs[run],
      counterfactual: family.join("/"), step, node: node.id,
      category: codeAt(text, Object.keys(data.names.head_changes), head, at) })));
  });
  return { draw, step: () => drawn?.step(), csv, name: "head-changes-over-time",
    redrawsOn: ["run", "family"] };
})();

const roleLetters = { mover: "M", "negative mover": "N", induction: "I", "duplicate token": "D",
  "previous token": "P", reader: "R", none: "" };

function roleAt(role, head, step, run = state.run) {
  return codeAt(data.roles.series[`${run}/${roles[role].name}`], data.roles.names, head, step);
}

function distanceAt(role, head, step) {
  return data.roles.distance[`${state.run}/${roles[role].name}`]?.[step * headNodes.length + head];
}

const rolesChart = (() => {
  const root = optional("roles-chart");
  let drawn = [];

  function draw() {
    if (!root) return; // the run has no roles
    root.replaceChildren();
    drawn = [];
    const heads = livelyHeads(roleNames.map((role) => (head, step) => roleAt(role, head, step)),
      "none");
    const place = new Map(heads.map((head) => [headNodes[head].id, head]));
    const { width } = panels(root, 2, 420);
    for (const role of roleNames)
      drawn.push(signGrid(root, {
        title: roles[role].title, role, rows: heads.map((head) => headNodes[head]), width,
        name: "role", sign: (name) => roleLetters[name],
        code: (node, step) => {
          const found = roleAt(role, place.get(node.id), step);
          return found === "none" ? null : found;
        },
        details: (node, step) => [["profile distance from the base",
          number(distanceAt(role, place.get(node.id), step))]],
      }));
    step();
  }

  const step = () => drawn.forEach((each) => each.step());
  const csv = () => data.runs.flatMap((run, index) => roleNames.flatMap((role) =>
    data.steps.flatMap((at, step) => headNodes.map((node, head) => ({ ...run,
      task: roles[role].name, step: at, node: node.id, role: roleAt(role, head, step, index) })))));
  return { draw, step, csv, name: "roles", redrawsOn: ["run"] };
})();

// Roles of a pinned head in the base and at the end: one row for each task and end.
function roleRows(node) {
  const head = headNodes.indexOf(node);
  return roleNames.flatMap((role) => {
    const ends = data.roles.ends[`${state.run}/${roles[role].name}`];
    return ["base", "last"].flatMap((end, place) => {
      const found = ends?.[place][head];
      return found ? [{ ...found, function: found.role, role, end }] : [];
    });
  });
}
