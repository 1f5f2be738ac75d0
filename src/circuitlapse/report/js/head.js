// A pinned head or MLP: everything that was recorded about it, at the slider's step.
const headPage = (() => {
  const root = document.getElementById("head-chart");
  const profileRoot = document.getElementById("profile-chart");
  const tables = document.getElementById("head-tables");
  let marker = null;
  let x;
  let width = 0;
  const pinned = () => data.nodes.find((node) => node.id === state.head) ?? null;

  function draw() {
    const node = pinned();
    d3.select("#head-hint").property("hidden", node !== null);
    d3.select("#head-page").property("hidden", node === null);
    if (!node) return;
    const category = headChanges().find((row) => row.node === node.id)?.category;
    const meaning = data.names.head_changes[category]?.[1];
    d3.select("#head-name").text(nodeName(node));
    d3.select("#head-category").text(category ? `${categorySign(category)} ${category}${meaning ? `: ${meaning}` : ""}`
      : "");
    d3.selectAll(".heads-only").property("hidden", !isHead(node));
    drawImportance(node);
    drawProfile(node);
    step();
  }

  function series(role, index, run) {
    const columns = effects(role, run);
    return columns?.slice(0, 3).map((column) =>
      data.steps.map((_, at) => column[at * nodeCount + index]));
  }

  function drawImportance(node) {
    root.replaceChildren();
    width = root.clientWidth;
    const height = 230, left = 38, right = width - 10, top = 26, bottom = height - 22;
    const index = nodeIndex.get(node.id);
    const svg = drawing(root, width, height,
      `Patching effect of ${nodeName(node)} over training, both tasks`);
    const shown = data.runs.flatMap((_, run) => roleNames.map((role) =>
      ({ role, run, columns: series(role, index, run) }))).filter(({ columns }) => columns);
    const [low, high] = columnExtent(shown.map(({ columns }) => columns.flat()));
    x = stepScale(left, right);
    const y = d3.scaleLinear([Math.min(0, low ?? 0), Math.max(0, high ?? 1)], [bottom, top]).nice(4);
    svg.append("text").attr("class", "panel-title").attr("x", left).attr("y", 14)
      .text("Patching effect over time, logits");
    leftAxis(svg, y, left, right, 5);
    bottomAxis(svg, x, bottom, 6);
    for (const { role, run, columns } of shown)
      if (run !== state.run)
        lineWithBand(svg, columns, x, y, role, false).classed("other-seed", true);
    for (const { role, run, columns } of shown)
      if (run === state.run) lineWithBand(svg, columns, x, y, role);
    marker = stepMarker(svg, top, bottom);
  }

  // The head's attention and scores, in the base and at the last checkpoint.
  function profileRows(node) {
    const heads = data.nodes.filter(isHead);
    const place = heads.indexOf(node);
    const ends = (columns, end) => columns.map((column) => column[end * heads.length + place]);
    const found = new Map();
    for (const [key, { values, ends: columns }] of Object.entries(data.profiles)) {
      const [run, task, reading, positions] = key.split("/");
      if (Number(run) !== state.run) continue;
      const label = positions ? `${readingNames[reading] ?? reading} ${positions.replace(">", " → ")}`
        : readingNames[reading] ?? reading.replaceAll("_", " ");
      const row = found.get(label) ?? { label, order: readingOrder.indexOf(reading), tasks: {} };
      row.tasks[task] = { base: ends(columns, 0), last: ends(columns, 1),
        at: (step) => weightOf(values, step * heads.length + place) };
      found.set(label, row);
    }
    return [...found.values()].sort((a, b) => a.order - b.order);
  }
  const readingNames = { attention: "attention", matching: "QK detector score", copying: "copy score",
    negative_copying: "negative copy score", previous_token: "previous-token score",
    duplicate_token: "duplicate-token score", induction: "induction score" };
  const readingOrder = Object.keys(readingNames);

  function drawProfile(node) {
    profileRoot.replaceChildren();
    if (!isHead(node)) return;
    const all = profileRows(node), least = 0.1;
    const seen = (row) => Object.values(row.tasks).some(({ base, last }) =>
      Math.max(base[0] ?? 0, last[0] ?? 0) >= least);
    const rows = all.filter(seen);
    if (!all.length) {
      d3.select(profileRoot).append("p").attr("class", "note").text("No readings were recorded.");
      return;
    }
    const of = (row, task) => row.tasks[task] ?? row.tasks[""]; // scores on random tokens have no task
    rangeChart(profileRoot, {
      labelWidth: 190, lineHeight: 20, numbers: 44,
      label: `Head profile of ${nodeName(node)}, base and last checkpoint`,
      rows,
      panels: roleNames.map((role) => ({
        title: roles[role].title, domain: [0, 1],
        cells: rows.map((row) => {
          const found = of(row, roles[role].name);
          return found && {
            value: found.last, colour: role, text: number(found.last[0]),
            details: [["base", interval(found.base)], ["last checkpoint", interval(found.last)],
              [`step ${data.steps[state.step]}`, number(found.at(state.step))]],
            before: found.base[0],
          };
        }),
      })),
    });
    if (rows.length < all.length)
      note(profileRoot, `Not shown: ${all.length - rows.length} below ${least} in both; see the CSV.`);
  }

  function step() {
    const node = pinned();
    if (!node) return;
    moveMarker(marker, x);
    drawNumbers(node);
    drawNeighbours(node);
  }

  // Numbers for each task: in the base, at the step, and at the end.
  function drawNumbers(node) {
    const index = nodeIndex.get(node.id);
    const places = [...new Set([0, state.step, data.steps.length - 1])];
    const patched = (site) => (role, at) => patchAt(role, site, headPlace(node), at);
    const lines = [
      ["Patching effect", (role, at) => effectAt(role, index, at)?.slice(0, 3)],
      ["Direct attribution", (role, at) => directAt(role, node.id, at)],
      ["Edge scores, sum", (role, at) => [effectAt(role, index, at)?.[3] ?? null, null, null]],
      ...(isHead(node) ? [["Patching the output", patched("head_out")],
        ["Patching the value", patched("head_v")],
        ["Patching the pattern", patched("head_pattern")]] : []),
    ];
    const table = d3.select(tables).html("").append("table").attr("class", "dense");
    const head = table.append("thead").append("tr");
    head.append("th").text("Logits");
    head.selectAll("th.num").data(roleNames.flatMap((role) => places.map((at) => [role, at])))
      .join("th").attr("class", ([role]) => `num key-${role}`)
      .text(([role, at]) => `${role}, ${at === 0 ? "base" : `step ${data.steps[at]}`}`);
    const rows = table.append("tbody").selectAll("tr").data(lines).join("tr");
    rows.append("th").attr("scope", "row").text(([name]) => name);
    rows.selectAll("td").data(([, value]) => roleNames.flatMap((role) =>
      places.map((at) => interval(value(role, at))))).join("td").attr("class", "num")
      .text((text) => text);
    if (isHead(node)) drawRole(node);
    drawChange(node);
  }

  // The head's role, attention and sources, in the base and at the end, on each task.
  function drawRole(node) {
    const found = roleRows(node);
    if (!found.length) return;
    const table = d3.select(tables).append("table").attr("class", "dense");
    table.append("thead").append("tr").selectAll("th").data(["Role", "", "main attention",
      "queries from", "keys from", "values from"]).join("th").text((text) => text);
    const source = (row, slot) => (row[`${slot}_reads`]
      ? `${labelOf(row[`${slot}_reads`])}, ${percent(Math.round(100 * row[`${slot}_share`]) / 100)}`
      : "–");
    const rows = table.append("tbody").selectAll("tr").data(found).join("tr");
    rows.append("th").attr("scope", "row").attr("class", ({ role }) => `key-${role}`)
      .text(({ role, end }) => `${roles[role].title}, ${end === "base" ? "base" : "last"}`);
    rows.selectAll("td").data((row) => [row.function, row.attends ? `${
      row.attends.replace(">", " → ")} ${number(row.attention)}` : "–",
    ...["q", "k", "v"].map((slot) => source(row, slot))]).join("td").text((text) => text);
    for (const { role, distance, noise, changed, features, source: before } of
      found.filter(({ end }) => end === "last"))
      note(tables, `On ${roles[role].title} the distance of its profile from the base’s is ${number(distance)}, ${
        changed ? "beyond" : "within"} noise (${number(noise)})${
        changed && features ? `: ${features.replaceAll(">", " → ").replaceAll("-", "−")}` : ""}.${
        before ? ` It took over the role of ${labelOf(before)} in the base.` : ""}`);
  }

  // When its effect changed.
  function drawChange(node) {
    for (const row of changedHeads().filter((each) => each.node === node.id))
      note(tables, `On ${roles[roleOf(row)].title} its effect changed from ${
        number(row.before)} to ${number(row.after)} logits; 90 % of the change is reached at step ${
        number(row.step_of_90, d3.format(".0f"))}${row.sign_changed ? "; its sign changed" : ""}.`);
  }

  function headPlace(node) {
    return data.nodes.filter(isHead).indexOf(node);
  }

  // The strongest recorded edges at the step, of both tasks.
  function drawNeighbours(node) {
    const all = new Map();
    for (const role of roleNames)
      for (const edge of edgesOf(role)) {
        if (edge.writer !== node.id && edge.reader !== node.id) continue;
        all.set(edge.id, { ...all.get(edge.id), ...edge, [role]: edge.score });
      }
    const size = (edge) => d3.max(roleNames, (role) => Math.abs(edge[role] ?? 0));
    const listed = [...all.values()].sort((a, b) => size(b) - size(a));
    const slots = { q: "queries", k: "keys", v: "values" };
    fillEdges("#edges-in", listed.filter((edge) => edge.reader === node.id),
      (edge) => [labelOf(edge.writer), slots[edge.slot] ?? "input"]);
    fillEdges("#edges-out", listed.filter((edge) => edge.writer === node.id),
      (edge) => [labelOf(edge.reader), slots[edge.slot] ?? "input"]);
  }

  function fillEdges(selector, edges, words) {
    const rows = edges.slice(0, 8).map((edge) =>
      [...words(edge), ...roleNames.map((role) => number(edge[role], threeDecimals))]);
    if (rows.length) return fillRows(selector, rows, 2);
    const body = d3.select(selector).html("");
    body.append("tr").append("td").attr("colspan", 4).text("none among the strongest 200 edges");
    return undefined;
  }

  function csv() {
    const node = pinned();
    if (!node) return [];
    const index = nodeIndex.get(node.id);
    return roleNames.flatMap((role) => data.steps.map((now, at) => ({
      node: node.id, task: roles[role].name, counterfactual: state.family, step: now,
      ...asColumns("effect", effectAt(role, index, at)?.slice(0, 3)),
      ...asColumns("direct", directAt(role, node.id, at)),
    })));
  }

  function profileCsv() {
    const node = pinned();
    if (!node || !isHead(node)) return [];
    return profileRows(node).flatMap(({ label, tasks }) => Object.entries(tasks).flatMap(
      ([task, { base, last }]) => [{ node: node.id, reading: label, task, step: data.steps[0],
        ...asColumns("value", base) }, { node: node.id, reading: label, task,
        step: data.steps.at(-1), ...asColumns("value", last) }]));
  }

  return { draw, step, csv, profileCsv, name: "head", redrawsOn: ["run", "family", "head"] };
})();

// The profile is drawn with its head and downloaded separately.
const profileDownload = { name: "profile", draw() {}, csv: headPage.profileCsv,
  redrawsOn: [] };
