// What the reader has chosen. One object, one way to change it, kept in the page's address.

const defaults = {
  step: data.steps.length - 1, // index into data.steps
  run: 0, // index into data.runs
  family: data.families.shared[0] ?? data.families.single[0] ?? "",
  metric: "candidate_accuracy",
  split: "test",
  measure: Object.keys(data.names.measures)[0],
  head: null, // id of the pinned node
  edges: 40, // how many are drawn on each map
  example: `${data.tasks[1].name}/0`, // task and number of the prompt whose attention is shown
};
const state = { ...defaults };
const listeners = [];

function onChange(listener) {
  listeners.push(listener);
}

function choose(patch) {
  const changed = Object.keys(patch).filter((key) => key in state && state[key] !== patch[key]);
  if (!changed.length) return;
  for (const key of changed) state[key] = patch[key];
  for (const listener of listeners) listener(new Set(changed));
  scheduleAddress();
}

// The step's number and the head's label are what a reader would type into a link.
const addressed = {
  step: {
    write: (index) => data.steps[index],
    read: (text) => (text.trim() === "" || !isFinite(text) ? undefined : nearestStep(Number(text))),
  },
  run: {
    write: (index) => `${data.runs[index].base_seed}.${data.runs[index].finetune_seed}`,
    read: (text) => {
      const run = data.runs.findIndex((each) => `${each.base_seed}.${each.finetune_seed}` === text);
      return run < 0 ? undefined : run;
    },
  },
  family: {
    write: (name) => name,
    read: (text) =>
      [...data.families.shared, ...data.families.single].includes(text) ? text : undefined,
  },
  metric: {
    write: (name) => name,
    read: (text) =>
      ["candidate_accuracy", "accuracy", "logit_diff"].includes(text) ? text : undefined,
  },
  split: {
    write: (name) => name,
    read: (text) => (Object.hasOwn(data.names.splits, text) ? text : undefined),
  },
  measure: {
    write: (name) => name,
    read: (text) => (Object.hasOwn(data.names.measures, text) ? text : undefined),
  },
  edges: {
    write: String,
    read: (text) => (edgeCounts.includes(Number(text)) ? Number(text) : undefined),
  },
  example: {
    write: (name) => name,
    read: (text) => (examples().includes(text) ? text : undefined),
  },
  head: {
    write: (id) => data.nodes.find((node) => node.id === id).label.replace("MLP ", "m"),
    read: (text) =>
      data.nodes.find((node) => node.id === text || node.label === text)?.id,
  },
};
const addressKeys = { run: "seed", family: "counterfactual", example: "prompt" };
const edgeCounts = [0, 20, 40, 100, 200];

function examples() {
  return Object.entries(data.patterns.tokens)
    .flatMap(([task, prompts]) => prompts.map((_, place) => `${task}/${place}`));
}

function nearestStep(step) {
  return d3.leastIndex(data.steps, (a, b) => Math.abs(a - step) - Math.abs(b - step));
}

function readAddress() {
  const hash = location.hash.slice(1);
  if (!hash.includes("=")) return;
  const asked = new URLSearchParams(hash);
  const patch = { ...defaults };
  for (const [key, how] of Object.entries(addressed)) {
    const text = asked.get(addressKeys[key] ?? key);
    const value = text === null ? undefined : how.read(text);
    if (value !== undefined) patch[key] = value;
  }
  choose(patch);
}

function address() {
  const parts = [];
  for (const [key, how] of Object.entries(addressed)) {
    if (state[key] === defaults[key] && key !== "step") continue;
    parts.push(`${addressKeys[key] ?? key}=${encodeURIComponent(how.write(state[key]))}`);
  }
  return `#${parts.join("&")}`;
}

// In a notebook's frame the page has no address: one with a fragment would be the notebook's.
const FRAMED = location.protocol === "about:";
if (FRAMED) {
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    event.preventDefault();
    document.getElementById(link.hash.slice(1))?.scrollIntoView();
  });
}

// Browsers limit how often a page may change its address, so playing writes it now and then.
let addressTimer = null;
function scheduleAddress() {
  clearTimeout(addressTimer);
  if (FRAMED) return;
  addressTimer = setTimeout(() => history.replaceState(null, "", address()), 250);
}
