// One prompt at every checkpoint: next tokens over time, the logit lens, and the heads' attention.
const state = { step: data.steps.length - 1 };
const lineColours = ["--new", "--old", "--mlps", "--recruited", "--good", "--other"];

const curves = (() => {
  const root = document.getElementById("curves");
  const names = [...new Set([...data.top.at(-1).slice(0, 4), ...data.top[0].slice(0, 2)]
    .map(([token]) => token))];
  // A token that is not among the leading ones at a step has no recorded probability there.
  const valueAt = (name, step) => data.top[step].find(([token]) => token === name)?.[1] ?? null;
  let x, marker, slider;

  function draw() {
    root.replaceChildren();
    const width = root.clientWidth, height = 210, left = 40, right = width - 130;
    const top = 10, bottom = height - 20;
    x = stepScale(left, right);
    const y = d3.scaleLinear([0, 1], [bottom, top]);
    const svg = drawing(root, width, height, "Probability of the leading next tokens by step");
    leftAxis(svg, y, left, right, 4);
    bottomAxis(svg, x, bottom, Math.min(12, data.steps.length));
    const line = d3.line(([step]) => x(data.steps[step]), ([, value]) => y(value))
      .defined(([, value]) => value !== null);
    const labels = names.map((name, index) => ({ name, index,
      at: y(valueAt(name, data.steps.length - 1) ?? 0) })).sort((a, b) => a.at - b.at);
    let lowest = -Infinity;
    for (const label of labels) {
      label.at = Math.max(label.at, lowest + 14);
      lowest = label.at;
    }
    const over = Math.max(0, lowest - bottom);
    for (const { name, index, at } of labels) {
      const colour = `var(${lineColours[index % lineColours.length]})`;
      svg.append("path").attr("class", "line").style("stroke", colour)
        .attr("d", line(data.steps.map((_, step) => [step, valueAt(name, step)])));
      svg.append("text").attr("class", "end-label").style("fill", colour).attr("x", right + 10)
        .attr("y", at - over).attr("dy", "0.35em").text(name.trim() || "(space)");
    }
    marker = stepMarker(svg, top - 4, bottom);
    svg.append("rect").attr("class", "track").attr("x", left - 8).attr("width", right - left + 16)
      .attr("height", height)
      .call(d3.drag().on("start drag", (event) => choose(nearest(x.invert(event.x)))));
    slider = d3.select(root).append("input").attr("type", "range").attr("id", "slider")
      .attr("aria-label", "Training step").attr("min", 0).attr("max", data.steps.length - 1)
      .attr("step", 1).style("margin-left", `${left - 8}px`).style("width", `${right - left + 16}px`)
      .on("input", (event) => choose(Number(event.target.value)));
  }

  function nearest(step) {
    return d3.leastIndex(data.steps, (a, b) => Math.abs(a - step) - Math.abs(b - step));
  }

  function step() {
    moveMarker(marker, x);
    const now = data.steps[state.step];
    slider.property("value", state.step).attr("aria-valuetext", `step ${now}`);
    d3.select("#step-now").text(`${now} of ${data.steps.at(-1)}`);
    d3.select("#now").selectAll("span").data(data.top[state.step]).join("span")
      .text(([token, value]) => `${token.trim()} ${number(value)}`);
    d3.select("#best").text(data.top[state.step][0][0]);
  }

  const csv = () => data.steps.flatMap((now, at) => data.top[at].map(([token, probability], place) =>
    ({ step: now, rank: place + 1, token, probability })));
  return { draw, step, csv, name: "next-tokens" };
})();

const lensMap = (() => {
  const root = document.getElementById("lens");
  let outline, width;
  const left = 92, rowHeight = 22;

  function draw() {
    root.replaceChildren();
    width = (root.clientWidth - left) / data.steps.length;
    const height = data.points.length * rowHeight + 22;
    const svg = drawing(root, root.clientWidth, height, "Logit lens by layer and step");
    data.points.forEach((point, row) => svg.append("text").attr("class", "tick-label")
      .attr("x", left - 8).attr("text-anchor", "end").attr("dy", "0.35em")
      .attr("y", (data.points.length - row - 0.5) * rowHeight).text(point));
    const every = Math.max(1, Math.ceil(28 / width));
    data.steps.forEach((step, column) => {
      if (column % every === 0)
        svg.append("text").attr("class", "tick-label").attr("text-anchor", "middle")
          .attr("x", left + (column + 0.5) * width).attr("y", height - 6).text(step);
      data.points.forEach((point, row) => {
        const [token, value] = data.lens[column][row];
        const cell = svg.append("g").attr("transform",
          `translate(${left + column * width},${(data.points.length - 1 - row) * rowHeight})`)
          .on("pointerenter", (event) => showTooltip(event.currentTarget,
            `${point}, step ${step}`, [[token.trim(), number(value)]]))
          .on("pointerleave", hideTooltip);
        cell.append("rect").attr("width", width - 1).attr("height", rowHeight - 1)
          .attr("fill", weightColour(value));
        const room = Math.floor((width - 4) / 6.6);
        if (room >= 3)
          cell.append("text").attr("x", width / 2).attr("y", rowHeight / 2).attr("dy", "0.35em")
            .attr("text-anchor", "middle").style("font-size", "10.5px")
            .style("fill", inks[half + Math.round(half * value)]).text(token.trim().slice(0, room));
      });
    });
    outline = svg.append("rect").attr("class", "column-marker").attr("width", width)
      .attr("height", data.points.length * rowHeight);
  }

  const csv = () => data.steps.flatMap((now, at) => data.points.map((point, row) =>
    ({ step: now, point, token: data.lens[at][row][0], probability: data.lens[at][row][1] })));
  return { draw, step: () => outline.attr("x", left + state.step * width), csv, name: "logit-lens" };
})();

const attentionMap = (() => {
  const root = document.getElementById("attention");
  let rects, texts;
  const left = 92, top = 74, rowHeight = 22;

  function draw() {
    root.replaceChildren();
    if (!data.heads.length) {
      d3.select(root).append("p").attr("class", "note").text("The run has no head in a circuit.");
      return;
    }
    const width = Math.min(64, (root.clientWidth - left - 40) / data.tokens.length);
    const svg = drawing(root, root.clientWidth, top + data.heads.length * rowHeight + 4,
      "Attention from the last token by head");
    data.tokens.forEach((token, column) => svg.append("text").attr("class", "tick-label")
      .attr("transform", `translate(${left + (column + 0.5) * width},${top - 6}) rotate(-45)`)
      .text(token.trim().slice(0, 14)));
    data.heads.forEach((head, row) => svg.append("text").attr("class", "tick-label")
      .attr("x", left - 8).attr("text-anchor", "end").attr("dy", "0.35em")
      .attr("y", top + (row + 0.5) * rowHeight).text(`Head ${head}`));
    const places = d3.cross(d3.range(data.heads.length), d3.range(data.tokens.length));
    const cells = svg.selectAll("g").data(places).join("g").attr("transform", ([row, column]) =>
      `translate(${left + column * width},${top + row * rowHeight})`);
    rects = cells.append("rect").attr("width", width - 1).attr("height", rowHeight - 1);
    texts = cells.append("text").attr("x", width / 2).attr("y", rowHeight / 2).attr("dy", "0.35em")
      .attr("text-anchor", "middle").style("font-size", "10.5px");
  }

  function step() {
    if (!rects) return;
    const at = ([row, column]) => data.attention[state.step][row][column];
    rects.attr("fill", (place) => weightColour(at(place)));
    texts.style("fill", (place) => inks[half + Math.round(half * at(place))])
      .text((place) => (at(place) >= 0.1 ? number(at(place)) : ""));
  }

  const csv = () => data.steps.flatMap((now, at) => data.heads.flatMap((head, row) =>
    data.tokens.map((token, place) => ({ step: now, head, place, token,
      weight: data.attention[at][row][place] }))));
  return { draw, step, csv, name: "attention" };
})();

const drawings = [curves, lensMap, attentionMap];

function choose(step) {
  state.step = step;
  for (const each of drawings) each.step();
}

function drawAll() {
  chooseColours();
  for (const each of drawings) each.draw();
  drawings.forEach(showDownloads);
  choose(state.step);
}

d3.selectAll(".needs-script").property("hidden", false);
drawings.forEach(addDownloads);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
addEventListener("resize", drawAll);
drawAll();
