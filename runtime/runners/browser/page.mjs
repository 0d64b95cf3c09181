// The page that a phone opens: claims the one-time link, runs runner.mjs in a worker, shows how far
// it is, and posts what it measured. It starts by itself.

const HEARTBEAT_MS = 2000;
const element = (id) => document.getElementById(id);

let session = null; // folder of everything after the link was claimed
let over = false;
let pending = [];
let posting = Promise.resolve();

start().catch((error) => fail(error.message));

async function start() {
  const response = await fetch("start", { method: "POST" });
  const answer = await response
    .json()
    .catch(() => ({ message: `the server answered ${response.status}` }));
  if (!response.ok) {
    over = true;
    show(answer.message, true);
    return;
  }
  session = new URL(answer.session, location.href);
  describe(answer.work);
  setInterval(beat, HEARTBEAT_MS);
  addEventListener("pagehide", leave);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) queue({ event: "hidden" });
    else keepAwake();
  });
  keepAwake();
  const worker = new Worker("runner.mjs", { type: "module" });
  const outputs = [];
  const finished = new Promise((resolve, reject) => {
    // Not before the command has heard of it: after an end nothing is posted any more.
    const end = (error) => queue(error).then(() => reject(new Error(error.message)));
    worker.onerror = ({ message }) =>
      end({ event: "error", kind: "unexpected", message: message || "the worker could not start" });
    worker.onmessage = ({ data }) => {
      if (data.event === "done") resolve(data.measurement);
      else if (data.event === "output") outputs.push(data);
      else if (data.event === "error") end(data);
      else {
        queue(data);
        advance(data, answer.work);
      }
    };
  });
  worker.postMessage({ work: answer.work, machine: await readMachine(), baseUrl: session.href });
  const measurement = await finished;
  worker.terminate();
  for (const { name, bytes } of outputs)
    await send(`outputs/${name}`, bytes, "application/octet-stream");
  await beat();
  await send("measurement", JSON.stringify(measurement), "application/json");
  over = true;
  finish(measurement);
}

async function send(path, body, type) {
  const response = await fetch(new URL(path, session), {
    method: "POST",
    body,
    headers: { "Content-Type": type },
  });
  if (!response.ok) throw new Error((await response.json()).message);
}

function queue(event) {
  pending.push(event);
  // A stage or an error should not wait for the next heartbeat; progress may.
  return event.event === "progress" ? posting : beat();
}

// One post at a time: two that are on the way together may arrive in either order, and the command
// looks at the order of the stages.
function beat() {
  posting = posting.then(postEvents);
  return posting;
}

async function postEvents() {
  if (over) return;
  const events = pending;
  pending = [];
  try {
    await send("events", JSON.stringify(events), "application/json");
  } catch (error) {
    if (!over) fail(error.message);
  }
}

function leave() {
  if (!over) navigator.sendBeacon(new URL("leave", session), "");
}

function keepAwake() {
  // Needs a secure context; a screen that goes dark is noticed by the command in any case.
  navigator.wakeLock?.request("screen").catch(() => {});
}

// What the browser tells of the machine; what it does not tell is null, never a guess.
async function readMachine() {
  const hints = ["architecture", "bitness", "model", "platform", "platformVersion"];
  const told = (await navigator.userAgentData?.getHighEntropyValues(hints).catch(() => null)) ?? {};
  const architecture = [told.architecture, told.bitness].filter(Boolean).join("-");
  const system = [told.platform, told.platformVersion].filter(Boolean).join(" ");
  return {
    model: told.model || null,
    cpu: `unnamed ${architecture ? `${architecture} ` : ""}CPU`,
    architecture: architecture || "not told by the browser",
    system: system || navigator.platform || "not told by the browser",
    python: null,
    logical_cores: navigator.hardwareConcurrency ?? null,
    usable_cores: navigator.hardwareConcurrency ?? 1,
    cpu_quota: null,
    memory_mib: null,
    governors: [],
    frequency_mhz: {},
    container: null,
    virtual_machine: null,
  };
}

// ------------------------------------------------------------------------------------ what is shown

function describe({ job, title, engine }) {
  element("title").textContent = title;
  const rows = [
    ["Engine", `onnxruntime-web ${engine.version}, ${job.unit}`],
    ["Protocol", `${job.protocol}: at least ${job.min_runs} runs and ${job.min_seconds} s`],
    ["Threads", threadsText(job)],
  ];
  if (!isSecureContext) {
    rows.push(["Missing", "a secure context (https): no threads, no WebGPU, a coarse clock"]);
  } else if (!crossOriginIsolated) {
    rows.push(["Missing", "cross-origin isolation: no threads, a coarse clock"]);
  }
  for (const row of rows) addFact(...row);
}

function threadsText({ threads }) {
  return crossOriginIsolated || threads === 1 ? `${threads}` : `1 instead of ${threads}`;
}

function addFact(term, text) {
  const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
  dt.textContent = term;
  dd.textContent = text;
  element("facts").append(dt, dd);
}

function advance({ event, name, stage, runs, seconds, n }, { job, photos }) {
  const bar = element("bar");
  if (event === "stage") {
    // "timed" is the end of a stage, for the host's clock.
    if (name !== "timed") mark(name);
    if (n === undefined) bar.removeAttribute("value");
    else bar.value = 0;
  } else if (event === "progress" && stage === "measure") {
    bar.value = Math.min(runs / job.min_runs, seconds / job.min_seconds, 1);
  } else if (event === "progress" && stage === "photos") {
    bar.value = runs / photos.n;
  }
}

function mark(stage, css = "now") {
  let before = true;
  for (const item of document.querySelectorAll("#stages li")) {
    if (item.dataset.stage === stage) {
      before = false;
      item.className = css;
    } else item.className = before ? "done" : "";
  }
}

function show(text, bad = false) {
  element("lead").textContent = text;
  element("lead").className = bad ? "bad" : "";
}

function fail(message) {
  over = true;
  element("bar").hidden = true;
  document.querySelector("#stages li.now")?.setAttribute("class", "bad");
  show(message, true);
}

function finish({ samples_ns: samples, golden, limitations }) {
  const sorted = Float64Array.from(samples).sort();
  const at = (share) =>
    `${(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] / 1e6).toPrecision(3)} ms`;
  for (const item of document.querySelectorAll("#stages li")) item.className = "done";
  element("bar").hidden = true;
  show("Done. The result is with the command; you can close this page.");
  addFact("Median", `${at(0.5)} (90 % of the runs within ${at(0.9)}, n = ${samples.length})`);
  const worst = Math.max(...Object.values(golden.relative_error));
  const agreement = worst === 0 ? "equal to the last bit" : `within ${worst.toExponential(1)}`;
  addFact("Golden photos", `${agreement} (limit ${golden.tolerance})`);
  for (const text of limitations) addFact("Note", text);
}
