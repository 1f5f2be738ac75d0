// Connects the page's controls with the state, and the state with the drawings.
// A table that the page has without a script; only its download is needed.
const calibrationTable = {
  name: "calibration", draw() {}, redrawsOn: [], csv: () => data.calibration.map(flatRow),
};

const drawings = [timeline, circuitMap, headPage, profileDownload, patternChart,
  trajectories, lensChart, patchingChart, overlapChart, overlapTime, overlapCompared, changesTable, changesChart, rolesChart,
  carriersChart,
  dynamicsChart, faithfulnessChart, invarianceChart, elicitableChart, trainingChart,
  recipesChart, shortcutsChart, ...furtherCharts, calibrationTable].filter(Boolean);

const numeric = new Set(["run", "edges"]);

function fillSelect(id, key, options) {
  const select = d3.select(`#${id}`);
  select.selectAll("option").data(options).join("option")
    .attr("value", ([value]) => value).text(([, text]) => text);
  select.property("value", String(state[key]))
    .on("change", (event) => choose({
      [key]: numeric.has(key) ? Number(event.target.value) : event.target.value,
    }));
}

function drawWords() {
  const metric = { candidate_accuracy: "Accuracy over the candidates",
    accuracy: "Accuracy over the whole vocabulary", logit_diff: "Logit difference" }[state.metric];
  d3.select("#learning-caption").text(
    `${metric} on ${data.names.splits[state.split] ?? state.split}, by training step.`);
  d3.selectAll(".family-now").text(state.family);
  d3.select("#changes-caption").property("hidden", !changedHeads().length);
  const chosen = { metric: "metric", split: "split", seed: "run", family: "family",
    measure: "measure", edges: "edges", example: "example" };
  for (const [id, key] of Object.entries(chosen))
    d3.select(`#${id}`).property("value", String(state[key]));
}

function drawAll() {
  hideTooltip();
  widths.clear();
  chooseColours();
  for (const each of drawings) each.draw();
  drawings.forEach(showDownloads);
  drawWords();
}

// The style sheet leaves out what is not in view until the slider rests, longer than playing waits.
let rest = null;
let started = false; // the view that the page opens with is not a move
function moving() {
  if (!started) return;
  document.body.classList.add("moving");
  clearTimeout(rest);
  rest = setTimeout(() => document.body.classList.remove("moving"), 400);
}

onChange((changed) => {
  if (changed.has("step")) moving();
  for (const each of drawings) {
    if (each.redrawsOn.some((key) => changed.has(key))) each.draw();
    else {
      if (changed.has("step")) each.step?.();
      if (changed.has("head")) each.pin?.();
    }
  }
  drawings.forEach(showDownloads);
  if (changed.has("step") || changed.has("family")) hideTooltip();
  drawWords();
});

// A link inside the page scrolls to a section and shows the rows that a statement is about. The
// address holds the view, so the browser does not follow the link itself.
function follow(event) {
  const link = event.target.closest("a[href^='#']");
  if (!link) return;
  const target = document.getElementById(link.getAttribute("href").slice(1));
  if (!target) return;
  event.preventDefault();
  if (link.dataset.where) chooseWhere(JSON.parse(link.dataset.where));
  target.scrollIntoView();
  target.focus({ preventScroll: true });
}

function chooseWhere(where) {
  const patch = {};
  const run = data.runs.findIndex((each) =>
    ["base_seed", "finetune_seed"].every((key) => !(key in where) || where[key] === each[key]));
  if (run >= 0 && ("base_seed" in where || "finetune_seed" in where)) patch.run = run;
  if ("step" in where) patch.step = nearestStep(Number(where.step));
  for (const [column, key] of [["counterfactual", "family"], ["split", "split"],
    ["measure", "measure"], ["node", "head"]]) {
    const value = column in where ? addressed[key].read(String(where[column])) : undefined;
    if (value !== undefined) patch[key] = value;
  }
  choose(patch);
}

function start() {
  d3.selectAll(".needs-script").property("hidden", false);
  fillSelect("metric", "metric", ["candidate_accuracy", "accuracy", "logit_diff"].map((value) =>
    [value, { candidate_accuracy: "accuracy over the candidates", accuracy: "accuracy over the vocabulary",
      logit_diff: "logit difference" }[value]]));
  const splits = new Set(Object.keys(data.behaviour).map((key) => key.split("/")[2]));
  fillSelect("split", "split",
    Object.entries(data.names.splits).filter(([split]) => splits.has(split)));
  const several = new Set(data.runs.map((run) => run.base_seed)).size > 1;
  fillSelect("seed", "run", data.runs.map((run, index) =>
    [index, several ? `${run.base_seed}.${run.finetune_seed}` : String(run.finetune_seed)]));
  d3.select("#seed-label").property("hidden", data.runs.length < 2);
  fillSelect("family", "family", [
    ...data.families.shared.map((name) => [name, name]),
    ...data.families.single.map((name) => [name, `${name} (one task)`]),
  ]);
  const measures = new Set(data.overlap.map((row) => row.measure));
  fillSelect("measure", "measure",
    Object.entries(data.names.measures).filter(([measure]) => measures.has(measure)));

  fillSelect("edges", "edges", edgeCounts.map((count) =>
    [count, count === 0 ? "none" : `the ${count} strongest`]));
  fillSelect("example", "example", examples().map((name) => {
    const [task, place] = name.split("/");
    const role = task === roles.old.name ? "old" : "new";
    return [name, `${roles[role].title}, prompt ${Number(place) + 1}`];
  }));
  d3.select("#unpin").on("click", () => choose({ head: null }));
  drawings.forEach(addDownloads);

  d3.select("#play").on("click", togglePlaying);
  document.addEventListener("click", follow);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTooltip();
    if (event.target === document.body && ["ArrowLeft", "ArrowRight"].includes(event.key)
      && stepByKey(event)) event.preventDefault();
  });
  addEventListener("hashchange", readAddress);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  startTheme();

  let width = document.documentElement.clientWidth;
  new ResizeObserver(() => {
    const now = document.documentElement.clientWidth;
    if (now !== width) {
      width = now;
      drawAll();
    }
  }).observe(document.body);
  drawAll();
  readAddress();
  started = true;
}

function startTheme() {
  const button = d3.select("#theme");
  const label = () => button.text(isDark() ? "Light" : "Dark")
    .attr("aria-label", `Use the ${isDark() ? "light" : "dark"} theme`);
  label();
  button.on("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try { localStorage.setItem("circuitlapse-theme", theme); } catch { /* it lasts for this page */ }
    label();
    scheduleAddress(); // a theme in the link gives way to what is chosen here
    drawAll();
  });
}

start();
