// Look up numbers, by default of the state's seed and counterfactual.
const roles = Object.fromEntries(data.tasks.map((task) => [task.role, task]));
const nodeCount = data.nodes.length;
const nodeIndex = new Map(data.nodes.map((node, index) => [node.id, index]));
const isHead = (node) => node.head >= 0;

function effects(role, run = state.run, family = state.family) {
  return data.effects[`${run}/${roles[role].name}/${family}`] ?? null;
}

// [effect, low, high, attribution] of one node at one step, or null where none was measured; where
// only the attribution was, the others are null.
function effectAt(role, node, step = state.step) {
  const columns = effects(role);
  if (!columns) return null;
  const found = columns.map((column) => column[step * nodeCount + node]);
  return found.every((value) => value === null) ? null : found;
}

function difference(node, step = state.step) {
  const old = effectAt("old", node, step);
  const now = effectAt("new", node, step);
  return old && now && old[0] !== null && now[0] !== null ? now[0] - old[0] : null;
}

function behaviour(role, run = state.run) {
  return data.behaviour[`${run}/${roles[role].name}/${state.split}`]?.[state.metric] ?? null;
}

function headChanges() {
  return data.head_changes[`${state.run}/${state.family}`] ?? [];
}

function categorySign(category) {
  return data.names.head_changes[category]?.[0] ?? category.slice(0, 1);
}

function nodeName(node) {
  return isHead(node) ? `Head ${node.label}` : node.label;
}

// [value, low, high] of one column of a series that is laid out over [steps, columns].
function spreadAt(columns, column, step = state.step) {
  if (!columns) return null;
  const place = step * (columns[0].length / data.steps.length) + column;
  return (columns[0][place] ?? null) === null ? null : columns.map((each) => each[place]);
}

function lensAt(role, point, step) {
  return spreadAt(data.lens[`${state.run}/${roles[role].name}`], point, step);
}

function directAt(role, component, step) {
  return spreadAt(data.direct[`${state.run}/${roles[role].name}`],
    data.components.indexOf(component), step);
}

function patches(role, site) {
  return data.patching[`${state.run}/${roles[role].name}/${site}`];
}

// Patches and patterns are of the base and the last checkpoint: a step's place among these, or -1.
const endAt = (step) => (step === 0 ? 0 : step === data.steps.length - 1 ? 1 : -1);
// The step whose patches and patterns are shown while the slider is at another one.
const shownEnd = () => (state.step === 0 ? 0 : data.steps.length - 1);

// Patches keep half the width of their interval, which is symmetric.
function patchAt(role, site, column, step = state.step) {
  const columns = patches(role, site);
  if (!columns || endAt(step) < 0) return null;
  const [value, half] = columns.map((each) => each[endAt(step) * (each.length / 2) + column]);
  return (value ?? null) === null ? null : [value, value - half, value + half];
}

// A weight that was written as one character, or null where there is none.
function weightOf(text, place) {
  const code = text.charCodeAt(place);
  return code === 0x20 || Number.isNaN(code) ? null : (code - 0x23) / 63;
}

const knownEdges = data.edges.list.map(([writer, reader, slot, path], id) =>
  ({ id, writer, reader, slot, path }));

// Edges of one map at the slider's step, the strongest first: {id, writer, reader, slot, score}.
function edgesOf(kind) {
  const found =
    data.edges.series[`${state.run}/${roles[kind]?.name ?? ""}/${state.family}`]?.[state.step];
  if (!found) return [];
  const edges = [...d3.cumsum(found[0])].map((id, place) => (
    { ...knownEdges[id], score: found[1][place] }));
  return edges.sort((a, b) => Math.abs(b.score) - Math.abs(a.score));
}

function labelOf(node) {
  if (!nodeIndex.has(node)) return node;
  return nodeName(data.nodes[nodeIndex.get(node)]);
}

// Rows of one seed at the step nearest to the slider's, among the steps that have rows.
function rowsAtStep(rows) {
  const mine = rows.filter((row) => row.run === state.run);
  const now = data.steps[state.step];
  const steps = [...new Set(mine.map((row) => row.step))];
  const step = d3.least(steps, (a, b) => Math.abs(a - now) - Math.abs(b - now));
  return { step, rows: mine.filter((row) => row.step === step) };
}

const largestEffect = data.largest; // the end of the colour scale
