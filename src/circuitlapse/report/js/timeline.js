// The learning curves are the track of the time slider.
const timeline = (() => {
  const root = document.getElementById("timeline");
  const height = 150;
  const margin = { top: 10, right: 132, bottom: 20, left: 40 };
  let x, y, marker, dots, slider;

  function domain() {
    if (state.metric !== "logit_diff") return [0, 1];
    const all = Object.values(data.behaviour).flatMap((series) => series.logit_diff);
    const [low, high] = columnExtent(all);
    return [Math.min(0, low ?? 0), Math.max(0, high ?? 1)];
  }

  function draw() {
    root.replaceChildren();
    const width = root.clientWidth;
    const right = width - margin.right;
    x = stepScale(margin.left, right);
    y = d3.scaleLinear(domain(), [height - margin.bottom, margin.top]);
    if (state.metric === "logit_diff") y.nice(4);
    const svg = drawing(root, width, height, "Learning curves of both tasks over training steps");
    leftAxis(svg, y, margin.left, right, 4);
    bottomAxis(svg, x, height - margin.bottom, Math.min(12, data.steps.length));
    for (const role of roleNames) {
      data.runs.forEach((_, run) => {
        const columns = behaviour(role, run);
        if (columns && run !== state.run)
          lineWithBand(svg, columns, x, y, role, false).classed("other-seed", true);
      });
    }
    for (const role of roleNames) {
      const columns = behaviour(role);
      if (columns) lineWithBand(svg, columns, x, y, role);
    }
    endLabels(svg, right);
    drawEpochs(svg, x, margin.top, height - margin.bottom);
    drawChanges(svg, x, height - margin.bottom);
    marker = stepMarker(svg, margin.top - 4, height - margin.bottom);
    dots = svg.selectAll("circle.now").data(roleNames.filter((role) => behaviour(role)))
      .join("circle").attr("class", (role) => `now fill-${role}`).attr("r", 4);
    svg.append("rect").attr("class", "track").attr("x", margin.left - 8)
      .attr("width", right - margin.left + 16).attr("height", height)
      .call(d3.drag()
        .on("start drag", (event) => choose({ step: nearestStep(x.invert(event.x)) })));
    addSlider(right);
    step();
  }

  function endLabels(svg, right) {
    const labels = roleNames.filter((role) => behaviour(role)).map((role) => {
      const values = behaviour(role)[0].filter((value) => value !== null);
      return { role, at: y(values.at(-1) ?? 0) };
    }).sort((a, b) => a.at - b.at);
    if (labels.length === 2 && labels[1].at - labels[0].at < 28) {
      const middle = (labels[0].at + labels[1].at) / 2;
      [labels[0].at, labels[1].at] = [middle - 14, middle + 14];
      const push = Math.max(0, margin.top + 2 - labels[0].at);
      labels.forEach((label) => { label.at += push; });
    }
    for (const { role, at } of labels) {
      const text = svg.append("text").attr("class", `end-label text-${role}`)
        .attr("x", right + 10).attr("y", at);
      text.append("tspan").text(roles[role].title);
      text.append("tspan").attr("class", "role").attr("x", right + 10).attr("dy", "1.15em")
        .text(`${role} task`);
    }
  }

  // A range input, so that keys and screen readers work as usual.
  function addSlider(right) {
    const thumb = 16;
    slider = d3.select(root).append("input").attr("type", "range").attr("id", "slider")
      .attr("aria-label", "Training step")
      .attr("min", data.steps[0]).attr("max", data.steps.at(-1)).attr("step", "any")
      .style("margin-left", `${margin.left - thumb / 2}px`)
      .style("width", `${right - margin.left + thumb}px`)
      .on("input", (event) => {
        choose({ step: nearestStep(Number(event.target.value)) });
        event.target.value = data.steps[state.step];
      })
      .on("keydown", (event) => {
        if (stepByKey(event)) event.preventDefault();
      });
  }

  function step() {
    const now = data.steps[state.step];
    moveMarker(marker, x);
    const shown = roleNames.map((role) => ({ role, columns: behaviour(role) }))
      .filter(({ columns }) => columns);
    dots.attr("cx", x(now)).attr("cy", (role) => y(behaviour(role)[0][state.step] ?? 0))
      .attr("visibility", (role) => (behaviour(role)[0][state.step] === null ? "hidden" : null));
    slider.property("value", now)
      .attr("aria-valuetext", `step ${now} of ${data.steps.at(-1)}`);
    document.getElementById("step-now").textContent = `${now} of ${data.steps.at(-1)}`;
    d3.select("#now").selectAll("span").data(shown).join("span")
      .attr("class", ({ role }) => `key-${role}`)
      .text(({ role, columns }) =>
        `${roles[role].title} ${interval(columns.map((column) => column[state.step]))}`);
    d3.selectAll(".step-now").text(now);
  }

  const csv = () => Object.entries(data.behaviour).flatMap(([key, metrics]) => {
    const [run, task, split] = key.split("/");
    return data.steps.map((now, at) => Object.assign({ ...data.runs[run], task, split, step: now },
      ...Object.entries(metrics).map(([name, columns]) =>
        asColumns(name, columns.map((column) => column[at])))));
  });
  return { draw, step, csv, name: "learning", redrawsOn: ["run", "metric", "split", "family"] };
})();

// Arrow keys, page keys, Home and End move from checkpoint to checkpoint.
function stepByKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return false;
  const last = data.steps.length - 1;
  const to = {
    ArrowLeft: state.step - 1, ArrowDown: state.step - 1,
    ArrowRight: state.step + 1, ArrowUp: state.step + 1,
    PageDown: state.step - 5, PageUp: state.step + 5, Home: 0, End: last,
  }[event.key];
  if (to === undefined) return false;
  stopPlaying();
  choose({ step: Math.max(0, Math.min(last, to)) });
  return true;
}

let playing = null;
function stopPlaying() {
  clearInterval(playing);
  playing = null;
  d3.select("#play").text("Play").attr("aria-pressed", "false");
}

function togglePlaying() {
  if (playing !== null) return stopPlaying();
  const last = data.steps.length - 1;
  if (state.step === last) choose({ step: 0 });
  d3.select("#play").text("Pause").attr("aria-pressed", "true");
  // With reduced motion the same frames follow one another slowly.
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  playing = setInterval(() => {
    if (state.step >= last) return stopPlaying();
    choose({ step: state.step + 1 });
    return undefined;
  }, calm ? 1200 : 280);
  return undefined;
}
