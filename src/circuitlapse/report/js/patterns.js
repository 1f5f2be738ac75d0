// A pinned head's attention on an example prompt, in the base and at the last checkpoint.
const patternChart = (() => {
  const root = document.getElementById("pattern-chart");
  let panelsDrawn = [];

  function chosen() {
    const [task, place] = state.example.split("/");
    return { task, place: Number(place), tokens: data.patterns.tokens[task]?.[Number(place)] ?? [] };
  }

  const { heads } = data.patterns;

  function weight(step, query, key) {
    const { task, place, tokens } = chosen();
    const head = heads.indexOf(state.head);
    const text = data.patterns.weights[`${state.run}/${task}`]?.[place];
    if (head < 0 || !text) return null;
    const row = endAt(step) * heads.length + head;
    return weightOf(text, row * (tokens.length * (tokens.length + 1) / 2)
      + query * (query + 1) / 2 + key);
  }

  function draw() {
    root.replaceChildren();
    panelsDrawn = [];
    const node = data.nodes.find((each) => each.id === state.head);
    if (!node || !isHead(node)) return;
    if (!heads.includes(node.id)) {
      note(root, `The page keeps the patterns of the ${heads.length} heads with the largest `
        + "effects; this head’s are in the run’s directory.");
      return;
    }
    const { tokens } = chosen();
    const longest = 7 * Math.min(14, d3.max(tokens, (token) => token.length) ?? 1) + 14;
    const { width } = panels(root, 2, 420);
    const size = Math.min(20, (width - longest - 4) / tokens.length);
    const side = size * tokens.length;
    const cells = tokens.flatMap((_, query) => d3.range(query + 1).map((key) => [query, key]));
    for (const [now, stepOf] of [[false, () => 0], [true, shownEnd]]) {
      const svg = drawing(root, longest + side + 4, 24 + side + longest, "");
      const heading = svg.append("text").attr("class", "panel-title").attr("x", longest)
        .attr("y", 14);
      const short = (token) => (token.length > 14 ? `${token.slice(0, 13)}…` : token);
      tokens.forEach((token, index) => {
        svg.append("text").attr("class", "tick-label").attr("x", longest - 5)
          .attr("y", 24 + (index + 0.5) * size).attr("dy", "0.35em").attr("text-anchor", "end")
          .text(short(token));
        svg.append("text").attr("class", "tick-label").attr("text-anchor", "end").attr("transform",
          `translate(${longest + (index + 0.5) * size + 3},${30 + side}) rotate(-60)`)
          .text(short(token));
      });
      const rects = svg.append("g").selectAll("rect").data(cells).join("rect")
        .attr("x", ([, key]) => longest + key * size).attr("y", ([query]) => 24 + query * size)
        .attr("width", size - 0.7).attr("height", size - 0.7)
        .on("pointerenter", (event, [query, key]) => showTooltip(event.currentTarget,
          `${tokens[query].trim()} → ${tokens[key].trim()}`,
          [["base", number(weight(0, query, key))],
            [`step ${data.steps[shownEnd()]}`, number(weight(shownEnd(), query, key))]],
          "from query to key"))
        .on("pointerleave", hideTooltip);
      panelsDrawn.push({ svg, rects, stepOf, heading, now });
    }
    step();
  }

  function step() {
    for (const { svg, rects, stepOf, heading, now } of panelsDrawn) {
      const title = now ? `Step ${data.steps[stepOf()]}` : "Base";
      heading.text(title);
      svg.attr("aria-label", `Attention of ${labelOf(state.head)}, ${title.toLowerCase()}: `
        + "queries down, keys across");
      setChanged(rects, "fill", ([query, key]) => {
        const found = weight(stepOf(), query, key);
        return found === null ? "none" : weightColour(found);
      });
    }
  }

  function csv() {
    const { tokens } = chosen();
    return tokens.flatMap((query, q) => tokens.slice(0, q + 1).flatMap((key, k) =>
      [0, data.steps.length - 1].map((at) => ({ head: state.head,
        prompt: state.example, step: data.steps[at], query: q, query_token: query, key: k,
        key_token: key, weight: weight(at, q, k) }))));
  }

  return { draw, step, csv, name: "attention", redrawsOn: ["run", "head", "example"] };
})();
