// A skeleton editor. Gradio calls this with `element`, `props` and `watch`; it serves two editors.
// The pose editor: props.value is one pose as JSON text (see skeleton.py).
// The person editor (data-person): props.value is JSON text of the source images with the
// keypoints of each (see person_views.py); the skeleton lies over the image that is shown.
const root = element.querySelector(".skeleton");
const svg = root.querySelector(".frame");
const lines = [...svg.querySelectorAll(".limbs line")];
const groups = [...svg.querySelectorAll(".joint")];
const limbs = JSON.parse(root.dataset.limbs);
const pairs = JSON.parse(root.dataset.pairs); // for each joint, the joint of the other side
const isPerson = "person" in root.dataset;
const presets = [...root.querySelectorAll(".preset")];
const chosenName = root.querySelector(".chosen");
const button = (name) => root.querySelector(`[data-do="${name}"]`);
const FRAME = { width: svg.viewBox.baseVal.width, height: svg.viewBox.baseVal.height };
const REACH = 11, LIMB_REACH = 5; // of a pointer, in units of the viewBox
const DOUBLE_TAP = 350; // milliseconds
const STEP = 0.01, LEAP = 0.05; // of the frame, per press of an arrow key
const SCALE = 1.06; // per press of Larger
const MOST_UNDO = 200;
const ALL = groups.length, ENOUGH = Number(root.dataset.enough); // joints; see person_views.py
const NEAR = 2e-4; // two roundings of a place

const standing = JSON.parse(presets[0].dataset.pose);
let views = []; // {key, places, placed, width, height, image, name, note}
let at = 0; // the view that is shown
let box = { ...FRAME };
let places = standing.map((place) => place || [0.5, 0.1]); // a missing joint has a place too
let there = standing.map((place) => place !== null);
let placed = false; // false: the standard pose is shown, and no keypoints are known
let whole = false; // false: joints were dragged one by one, and the others may be off the person
let chosen = -1;
let sent = null;
const histories = new Map(); // key of a view -> {past, future, start}

const inside = (value) => Math.min(1, Math.max(0, value));
const listed = () =>
  placed ? places.map((p, i) => (there[i] ? p.map((v) => +v.toFixed(4)) : null)) : null;
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const view = () => views[at];
const state = () => ({ places: view().places, placed: view().placed });
const enough = (one) => one.places !== null && !(one.placed < ENOUGH);

// The joints that were placed: all, or those that were dragged away from the standard pose.
function count() {
  if (whole) return ALL;
  const start = fitted(standing);
  const far = (place, i) => place.some((value, axis) => Math.abs(value - start[i][axis]) > NEAR);
  const moved = places.filter((place, i) => there[i] && far(place, i)).length;
  return moved === there.filter(Boolean).length ? ALL : moved;
}

function text() {
  if (!isPerson) return JSON.stringify(listed());
  return JSON.stringify({ views, at });
}

// A pose of the upright 176 x 256 frame, fitted into an image of another shape.
function fitted(pose) {
  if (!isPerson) return pose;
  const wide = Math.min(1, (box.height * FRAME.width) / FRAME.height / box.width);
  const high = Math.min(1, (box.width * FRAME.height) / FRAME.width / box.height);
  return pose.map(
    (place) => place && [0.5 + (place[0] - 0.5) * wide, 0.5 + (place[1] - 0.5) * high]
  );
}

function history() {
  const key = view().key;
  if (!histories.has(key)) histories.set(key, { past: [], future: [], start: state() });
  return histories.get(key);
}

function show() {
  const moved = count();
  root.classList.toggle("unplaced", !placed || moved < ENOUGH);
  groups.forEach((group, i) => {
    const [x, y] = places[i];
    group.setAttribute("transform", `translate(${x * box.width} ${y * box.height})`);
    group.classList.toggle("missing", !there[i]);
    group.classList.toggle("chosen", i === chosen);
    const where = `${Math.round(x * 100)} % across, ${Math.round(y * 100)} % down`;
    const label = group.dataset.label;
    group.setAttribute("aria-label", `${label}, ${there[i] ? where : "missing"}`);
  });
  lines.forEach((line, i) => {
    const [a, b] = limbs[i];
    line.style.display = there[a] && there[b] ? "" : "none";
    line.setAttribute("x1", places[a][0] * box.width);
    line.setAttribute("y1", places[a][1] * box.height);
    line.setAttribute("x2", places[b][0] * box.width);
    line.setAttribute("y2", places[b][1] * box.height);
  });
  const now = listed();
  let pose = "";
  presets.forEach((preset) => {
    const pressed = !isPerson && same(JSON.parse(preset.dataset.pose), now);
    preset.setAttribute("aria-pressed", String(pressed));
    if (pressed) pose = `${preset.title}, `;
  });
  const number = there.filter(Boolean).length;
  const partly = placed && moved < ALL;
  let text = placed ? `${pose}${number} of ${ALL} joints` : "Not placed yet";
  if (partly) text = `${moved} of ${ALL} joints moved: drag the others onto the person too`;
  const name = chosen >= 0 ? groups[chosen].dataset.label : "";
  chosenName.textContent = name && partly ? `${name}; ${text}` : name || text;
  button("toggle").disabled = chosen < 0;
  const label = chosen >= 0 && !there[chosen] ? "Show" : "Hide";
  button("toggle").textContent = label;
  button("toggle").setAttribute("aria-label", label);
  const { past, future } = view() ? history() : { past: [], future: [] };
  // aria-disabled: a button that is disabled loses the focus, and Ctrl-Z would be lost with it
  button("undo").setAttribute("aria-disabled", String(!past.length));
  button("redo").setAttribute("aria-disabled", String(!future.length));
}

// Shows a pose (null: none is known, so the standard one) without sending it to Python.
function take(pose, known = ALL) {
  placed = pose !== null;
  whole = placed && known >= ALL;
  (pose || fitted(standing)).forEach((place, i) => {
    there[i] = place !== null;
    if (place !== null) places[i] = [...place];
  });
  show();
}

// After every action of the user: it can be undone, and Python gets the pose.
function commit() {
  const before = state(), now = { places: listed(), placed: count() };
  if (!same(before.places, now.places) || (placed && before.placed !== now.placed)) {
    const { past } = history();
    past.push(before);
    if (past.length > MOST_UNDO) past.shift();
    history().future = [];
    Object.assign(view(), now);
  }
  show();
  send();
}

function send() {
  if (isPerson) showTabs();
  sent = text();
  props.value = sent;
}

function travel(from, to) {
  const known = history();
  if (!known[from].length) return;
  known[to].push(state());
  Object.assign(view(), known[from].pop());
  chosen = -1;
  take(view().places, view().placed);
  send();
}
const undo = () => travel("past", "future");
const redo = () => travel("future", "past");

function replace(pose, known = ALL) {
  chosen = -1;
  take(pose, known);
  commit();
}

function choose(joint) {
  chosen = joint;
  show();
}

function toggle(joint) {
  there[joint] = !there[joint];
  placed = true;
  commit();
}

function move(joint, x, y) {
  places[joint] = [inside(x), inside(y)];
  placed = true;
  show();
}

// The whole figure, as far as it stays in the frame.
function shift(initial, dx, dy) {
  const seen = initial.filter((_, i) => there[i]);
  const within = (delta, axis) => {
    const values = seen.map((place) => place[axis]);
    return Math.min(1 - Math.max(...values), Math.max(-Math.min(...values), delta));
  };
  const [x, y] = [within(dx, 0), within(dy, 1)];
  places = initial.map((place) => [place[0] + x, place[1] + y]);
  placed = whole = true;
  show();
}

function scale(factor) {
  const seen = places.filter((_, i) => there[i]);
  if (!seen.length) return;
  const middle = [0, 1].map((axis) => {
    const values = seen.map((place) => place[axis]);
    return (Math.min(...values) + Math.max(...values)) / 2;
  });
  const larger = places.map((place) => place.map((v, axis) => middle[axis] + (v - middle[axis]) * factor));
  if (larger.some((place, i) => there[i] && place.some((v) => v < 0 || v > 1))) return;
  places = larger;
  placed = whole = true;
  commit();
}

function pointed(event) {
  const to = svg.getScreenCTM().inverse(); // also where the frame has borders, when enlarged
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(to);
  return [at.x / box.width, at.y / box.height];
}

function nearest([x, y]) {
  const far = places.map(([a, b]) => Math.hypot((a - x) * box.width, (b - y) * box.height));
  const best = far.indexOf(Math.min(...far));
  return far[best] <= REACH ? best : -1;
}

function onLimb([x, y]) {
  const px = x * box.width, py = y * box.height;
  return limbs.some(([a, b]) => {
    if (!there[a] || !there[b]) return false;
    const [ax, ay] = [places[a][0] * box.width, places[a][1] * box.height];
    const [dx, dy] = [places[b][0] * box.width - ax, places[b][1] * box.height - ay];
    const along = inside(((px - ax) * dx + (py - ay) * dy) / (dx * dx + dy * dy || 1));
    return Math.hypot(ax + along * dx - px, ay + along * dy - py) <= LIMB_REACH;
  });
}

// What is dragged: {joint, grip} a joint, and from the pointer to its middle, so that it does not
// jump when taken; {from, initial} the whole figure, by a limb.
let drag = null;
svg.addEventListener("pointerdown", (event) => {
  const where = pointed(event);
  const joint = event.button === 0 ? nearest(where) : -1;
  choose(joint);
  if (joint >= 0) {
    drag = { joint, grip: [places[joint][0] - where[0], places[joint][1] - where[1]] };
    groups[joint].focus({ preventScroll: true });
  } else if (event.button === 0 && onLimb(where)) {
    drag = { from: where, initial: places.map((place) => [...place]) };
    svg.focus({ preventScroll: true });
  } else return;
  event.preventDefault();
  svg.setPointerCapture(event.pointerId);
});
svg.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const [x, y] = pointed(event);
  if (drag.grip) move(drag.joint, x + drag.grip[0], y + drag.grip[1]);
  else shift(drag.initial, x - drag.from[0], y - drag.from[1]);
});
for (const end of ["pointerup", "pointercancel"])
  svg.addEventListener(end, () => {
    if (drag) commit();
    drag = null;
  });
svg.addEventListener("dblclick", (event) => {
  const joint = nearest(pointed(event));
  if (joint >= 0) toggle(joint);
});
// A finger on the figure drags, beside it it scrolls the page. What keeps the page still also
// keeps the browser from making a double click of two taps.
let tapped = { joint: -1, at: 0 };
svg.addEventListener(
  "touchstart",
  (event) => {
    const where = pointed(event.touches[0]);
    const joint = nearest(where);
    if (joint < 0 && !onLimb(where)) return;
    event.preventDefault();
    const twice = joint >= 0 && joint === tapped.joint && event.timeStamp - tapped.at < DOUBLE_TAP;
    tapped = twice ? { joint: -1, at: 0 } : { joint, at: event.timeStamp };
    if (twice) toggle(joint);
  },
  { passive: false }
);

groups.forEach((group, i) => {
  group.addEventListener("focus", () => choose(i));
  group.addEventListener("keydown", (event) => {
    const by = event.shiftKey ? LEAP : STEP;
    const way = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] };
    if (event.ctrlKey || event.metaKey) return;
    if (way[event.key]) {
      move(i, places[i][0] + way[event.key][0], places[i][1] + way[event.key][1]);
      commit();
    } else if ([" ", "Enter", "Delete"].includes(event.key)) toggle(i);
    else return;
    event.preventDefault();
  });
});
root.addEventListener("keydown", (event) => {
  if (event.key === "Escape") enlarge(false);
  if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
  const key = event.key.toLowerCase();
  if (key === "z") event.shiftKey ? redo() : undo();
  else if (key === "y") redo();
  else return;
  event.preventDefault();
});

presets.forEach((preset) =>
  preset.addEventListener("click", () => {
    const pose = fitted(JSON.parse(preset.dataset.pose));
    if (!isPerson) history().start = { places: pose, placed: ALL };
    replace(pose);
  })
);

// The form of the command line's own pose files: `xmdpt sample --pose`.
function save() {
  const of = isPerson ? view() : FRAME;
  const round = (value) => +value.toFixed(3);
  const keypoints = places.map(([x, y], i) =>
    there[i] ? [round(x * of.width), round(y * of.height)] : null
  );
  const data = { keypoints, width: of.width, height: of.height };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(data)], { type: "application/json" }));
  link.download = isPerson ? `${view().name.replace(/\.[^.]*$/, "")}-keypoints.json` : "pose.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Fills the window: the joints of a person far away are close together.
function enlarge(on) {
  if (!button("enlarge")) return;
  const large = root.classList.toggle("large", on);
  button("enlarge").textContent = large ? "Done" : "\u2922";
  button("enlarge").setAttribute("aria-label", large ? "Done" : "Enlarge");
}

const actions = {
  enlarge: () => enlarge(),
  undo,
  redo,
  save,
  toggle: () => toggle(chosen),
  reset: () => replace(history().start.places, history().start.placed),
  smaller: () => scale(1 / SCALE),
  larger: () => scale(SCALE),
  mirror: () => {
    places = pairs.map((other) => [1 - places[other][0], places[other][1]]);
    there = pairs.map((other) => there[other]);
    chosen = -1;
    commit();
  },
};
for (const [name, act] of Object.entries(actions)) button(name)?.addEventListener("click", act);

// --- the person editor: one of several images, and the skeleton over it ---
function showTabs() {
  const tabs = root.querySelector(".tabs");
  tabs.hidden = views.length < 2;
  const focused = [...tabs.children].indexOf(document.activeElement);
  tabs.replaceChildren(
    ...views.map((one, i) => {
      const tab = document.createElement("button");
      tab.type = "button";
      tab.textContent = `${i + 1}${enough(one) ? "" : " •"}`;
      tab.title = one.name;
      tab.setAttribute("aria-label", `Image ${i + 1}${enough(one) ? "" : ", not placed"}`);
      tab.setAttribute("aria-pressed", String(i === at));
      tab.addEventListener("click", () => {
        at = i;
        chosen = -1;
        lay();
        send();
      });
      return tab;
    })
  );
  tabs.children[focused]?.focus();
}

function lay() {
  element.querySelector(".placer").hidden = !view();
  if (!view()) return;
  const { width, height, image, note } = view();
  const unit = Math.min(FRAME.width / width, FRAME.height / height);
  box = { width: width * unit, height: height * unit };
  svg.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
  svg.style.aspectRatio = `${width} / ${height}`;
  svg.style.width = `${(100 * box.width) / FRAME.width}%`;
  const shown = svg.querySelector("image");
  shown.setAttribute("href", image);
  shown.setAttribute("width", box.width);
  shown.setAttribute("height", box.height);
  root.querySelector(".hint").textContent = note;
  showTabs();
  take(view().places, view().placed);
}

// From Python (a file, a photograph, an example); the echo of ours does not come here. What was
// there before can be had back by undo.
function receive() {
  const data = JSON.parse(props.value);
  const old = new Map(views.map((one) => [one.key, { places: one.places, placed: one.placed }]));
  const pose = { key: "pose", places: data, placed: ALL };
  [views, at] = isPerson ? [data.views, data.at] : [[pose], 0];
  views.forEach((one) => {
    if (!old.has(one.key)) return histories.delete(one.key);
    const known = histories.get(one.key);
    if (!known || same(old.get(one.key).places, one.places)) return;
    known.past.push(old.get(one.key));
    Object.assign(known, { future: [], start: { places: one.places, placed: one.placed } });
  });
  chosen = -1;
  if (isPerson) lay();
  else take(data);
}
watch("value", () => {
  if (props.value && props.value !== sent) receive();
});
receive();
