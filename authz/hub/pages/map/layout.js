// Where nodes stand, worked out beside the page (a worker), so that the page never waits for it.
//
// Small maps are laid out by dagre, left to right, or downwards where the screen is narrow. dagre's time grows with the cube of what it is given (300 nodes with
// 2,000 edges take more than a minute): larger ones stand in columns by their distance from where calls come in, each
// column ordered by its neighbours. That is less beautiful and takes milliseconds. A few nodes that nearly all talk to each
// other have no order from left to right: they stand around an ellipse.

import dagre from "../vendor/dagre.js";

const MOST_FOR_DAGRE = { nodes: 90, edges: 260 };
const ALL_WITH_ALL = { nodes: 60, edgesEach: 5 };
const COLUMN_GAP = 190;
const ROW_GAP = 22;
const TALLEST_COLUMN = 18;
const SWEEPS = 10;

function byDagre(nodes, edges, direction) {
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: direction, nodesep: 26, ranksep: direction === "LR" ? 120 : 76, edgesep: 12, ranker: "network-simplex", acyclicer: "greedy" });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const { id, width, height } of nodes) graph.setNode(id, { width, height });
  for (const [from, to] of edges) if (from !== to) graph.setEdge(from, to);
  dagre.layout(graph);
  const places = nodes.map(({ id }) => [id, graph.node(id).x, graph.node(id).y]);
  // edges over several columns go around what stands between: dagre's bends, without the two ends at the nodes' borders
  const bends = edges.map(([from, to]) => (from === to ? [] : graph.edge(from, to).points.slice(1, -1).map(({ x, y }) => [x, y])));
  return { places, bends };
}

function around(nodes) {
  const radius = Math.max((nodes.length * 74) / (2 * Math.PI), 160);
  const sorted = [...nodes].sort((a, b) => a.id.localeCompare(b.id, "en", { numeric: true }));
  const places = sorted.map(({ id }, at) => {
    const angle = (at / sorted.length) * 2 * Math.PI - Math.PI / 2;
    return [id, Math.cos(angle) * radius * 1.9, Math.sin(angle) * radius];
  });
  return { places, bends: [] };
}

function columnsOf(nodes, edges) {
  const out = new Map(nodes.map(({ id }) => [id, []]));
  const into = new Map(nodes.map(({ id }) => [id, []]));
  for (const [from, to] of edges) {
    if (from === to) continue;
    out.get(from).push(to);
    into.get(to).push(from);
  }
  const depth = new Map();
  let front = nodes.filter(({ id }) => into.get(id).length === 0).map(({ id }) => id);
  const rest = [...nodes].sort((a, b) => out.get(b.id).length - into.get(b.id).length - (out.get(a.id).length - into.get(a.id).length));
  for (let level = 0; depth.size < nodes.length; ) {
    if (!front.length) {
      front = [rest.find(({ id }) => !depth.has(id)).id];
      level = 0;
    }
    for (const id of front) depth.set(id, level);
    const next = new Set(front.flatMap((id) => out.get(id)).filter((id) => !depth.has(id)));
    front = [...next];
    level += 1;
  }
  const columns = [];
  for (const { id } of nodes) (columns[depth.get(id)] ??= []).push(id);
  return { columns: columns.filter(Boolean), neighbours: new Map(nodes.map(({ id }) => [id, [...out.get(id), ...into.get(id)]])) };
}

function inColumns(nodes, edges) {
  const { columns, neighbours } = columnsOf(nodes, edges);
  const place = new Map();
  const note = (column) => column.forEach((id, at) => place.set(id, (at + 0.5) / column.length));
  columns.forEach(note);
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    for (const column of columns) {
      const middle = new Map(column.map((id) => {
        const near = neighbours.get(id);
        return [id, near.length ? near.reduce((sum, each) => sum + place.get(each), 0) / near.length : place.get(id)];
      }));
      column.sort((a, b) => middle.get(a) - middle.get(b));
      note(column);
    }
  }
  const sizes = new Map(nodes.map((each) => [each.id, each]));
  const found = [];
  let left = 0;
  for (const column of columns) {
    const narrow = Math.ceil(column.length / Math.ceil(column.length / TALLEST_COLUMN));
    for (let start = 0; start < column.length; start += narrow) {
      const part = column.slice(start, start + narrow);
      const width = Math.max(...part.map((id) => sizes.get(id).width));
      const height = part.reduce((sum, id) => sum + sizes.get(id).height + ROW_GAP, 0);
      let top = -height / 2;
      for (const id of part) {
        found.push([id, left + width / 2, top + sizes.get(id).height / 2]);
        top += sizes.get(id).height + ROW_GAP;
      }
      left += width + (start + narrow < column.length ? 60 : COLUMN_GAP);
    }
  }
  return { places: found, bends: [] };
}

self.addEventListener("message", ({ data: { turn, nodes, edges, direction } }) => {
  const dense = nodes.length <= ALL_WITH_ALL.nodes && edges.length > MOST_FOR_DAGRE.edges / 2 && edges.length > nodes.length * ALL_WITH_ALL.edgesEach;
  const small = nodes.length <= MOST_FOR_DAGRE.nodes && edges.length <= MOST_FOR_DAGRE.edges;
  self.postMessage({ turn, ...(dense ? around(nodes) : small ? byDagre(nodes, edges, direction) : inColumns(nodes, edges)) });
});
