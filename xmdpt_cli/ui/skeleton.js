// The skeleton on the page. Gradio calls this with `element`, `props` and `watch`:
// props.value is the pose as JSON text (see skeleton.py), and what Python gets.
const root = element.querySelector(".skeleton");
const svg = root.querySelector(".frame");
const lines = [...svg.querySelectorAll(".limbs line")];
const groups = [...svg.querySelectorAll(".joint")];
const limbs = JSON.parse(root.dataset.limbs);
const pairs = JSON.parse(root.dataset.pairs); // of every joint its other side
const presets = [...root.querySelectorAll(".preset")];
const chosenName = root.querySelector(".chosen");
const toggleButton = root.querySelector('[data-do="toggle"]');
const box = svg.viewBox.baseVal;
const REACH = 11; // of a pointer, in units of the frame
const DOUBLE_TAP = 350; // milliseconds
const STEP = 0.01, LEAP = 0.05; // of the frame, an arrow key's

const first = JSON.parse(presets[0].dataset.pose);
let places = first.map((place) => place || [0.5, 0.1]); // a missing joint has a place too
let there = first.map((place) => place !== null);
let start = props.value; // what Reset goes back to
let chosen = -1;
let dragged = -1;
let sent = null;

const inside = (value) => Math.min(1, Math.max(0, value));
const text = () =>
  JSON.stringify(places.map((p, i) => (there[i] ? p.map((v) => +v.toFixed(4)) : null)));

function show() {
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
  const now = text();
  let pose = "";
  presets.forEach((button) => {
    const same = JSON.stringify(JSON.parse(button.dataset.pose)) === now;
    button.setAttribute("aria-pressed", String(same));
    if (same) pose = `${button.title}, `;
  });
  const number = there.filter(Boolean).length;
  chosenName.textContent =
    chosen >= 0 ? groups[chosen].dataset.label : `${pose}${number} of ${there.length} joints`;
  toggleButton.disabled = chosen < 0;
  toggleButton.textContent = chosen >= 0 && !there[chosen] ? "Show" : "Hide";
}

function send() {
  sent = text();
  props.value = sent;
}

function take(value) {
  JSON.parse(value).forEach((place, i) => {
    there[i] = place !== null;
    if (place !== null) places[i] = place;
  });
  show();
}

function choose(joint) {
  chosen = joint;
  show();
}

function toggle(joint) {
  there[joint] = !there[joint];
  show();
  send();
}

function move(joint, x, y) {
  places[joint] = [inside(x), inside(y)];
  show();
}

function pointed(event) {
  const at = svg.getBoundingClientRect();
  const x = (event.clientX - at.left) / at.width;
  const y = (event.clientY - at.top) / at.height;
  return [x, y];
}

function nearest([x, y]) {
  const far = places.map(([a, b]) => Math.hypot((a - x) * box.width, (b - y) * box.height));
  const best = far.indexOf(Math.min(...far));
  return far[best] <= REACH ? best : -1;
}

let grip = [0, 0]; // from the pointer to the joint's middle: a joint does not jump when taken
svg.addEventListener("pointerdown", (event) => {
  const at = pointed(event);
  dragged = event.button === 0 ? nearest(at) : -1;
  choose(dragged);
  if (dragged < 0) return;
  grip = [places[dragged][0] - at[0], places[dragged][1] - at[1]];
  event.preventDefault();
  groups[dragged].focus({ preventScroll: true });
  svg.setPointerCapture(event.pointerId);
});
svg.addEventListener("pointermove", (event) => {
  if (dragged < 0) return;
  const [x, y] = pointed(event);
  move(dragged, x + grip[0], y + grip[1]);
});
for (const end of ["pointerup", "pointercancel"])
  svg.addEventListener(end, () => {
    if (dragged >= 0) send();
    dragged = -1;
  });
svg.addEventListener("dblclick", (event) => {
  const joint = nearest(pointed(event));
  if (joint >= 0) toggle(joint);
});
// A finger on a joint drags it, beside one it scrolls the page. What keeps the page still also
// keeps the browser from making a double click of two taps.
let tapped = { joint: -1, at: 0 };
svg.addEventListener(
  "touchstart",
  (event) => {
    const joint = nearest(pointed(event.touches[0]));
    if (joint < 0) return;
    event.preventDefault();
    const twice = joint === tapped.joint && event.timeStamp - tapped.at < DOUBLE_TAP;
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
    if (way[event.key]) {
      move(i, places[i][0] + way[event.key][0], places[i][1] + way[event.key][1]);
      send();
    } else if ([" ", "Enter", "Delete"].includes(event.key)) toggle(i);
    else return;
    event.preventDefault();
  });
});

presets.forEach((button) =>
  button.addEventListener("click", () => {
    start = button.dataset.pose;
    chosen = -1;
    take(start);
    send();
  })
);
const actions = {
  toggle: () => toggle(chosen),
  reset: () => {
    chosen = -1;
    take(start);
    send();
  },
  mirror: () => {
    places = pairs.map((other) => [1 - places[other][0], places[other][1]]);
    there = pairs.map((other) => there[other]);
    chosen = -1;
    show();
    send();
  },
};
for (const [name, act] of Object.entries(actions))
  root.querySelector(`[data-do="${name}"]`).addEventListener("click", act);

// A pose from Python (a file, a photograph) replaces this one; the echo of ours does not.
watch("value", () => {
  if (!props.value || props.value === sent) return;
  start = props.value;
  chosen = -1;
  take(start);
});
take(props.value);
