// The browser runner: checks a bundle's files and golden outputs, times the model, runs photos.
//
// It runs in a worker, so that the page stays alive and the engine may wait for its threads. It does
// what runtime/agent/__main__.py does, in the same order, and writes the same measurement. It judges
// nothing: raw samples go back, and the host makes the numbers. The one thing it decides is not to
// time a model whose outputs are not the bundle's golden outputs.
//
// Messages to the page: {event: "stage" | "progress" | "error" | "output" | "done", ...}.

const NS_PER_MS = 1e6;
const PROGRESS_EVERY_MS = 1000;
const PHOTO_REPORT_EVERY = 32;
const PHOTOS_PER_REQUEST = 64;
const CLOCK_STEPS = 20;
// A clock whose step is more than a fiftieth of the median says little about the spread.
const COARSE_STEPS = 50;

class Refused extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

// The engine keeps the console's functions when it is loaded, so they are replaced before that.
let engineLog = null;
for (const level of ["log", "info", "debug", "warn", "error"]) {
  const original = console[level].bind(console);
  console[level] = (...texts) =>
    engineLog === null ? original(...texts) : engineLog.push(texts.join(" "));
}

const say = (event, values = {}, transfer = []) => postMessage({ event, ...values }, transfer);

self.onmessage = async ({ data }) => {
  try {
    await run(data);
  } catch (error) {
    const kind = error instanceof Refused ? error.kind : "unexpected";
    const name = error instanceof Refused ? "" : `${error?.name ?? "Error"}: `;
    say("error", { kind, message: `${name}${error?.message ?? error}`.split("\n")[0] });
  }
};

async function run({ work, machine, baseUrl }) {
  const { job } = work;
  const limitations = [];

  say("stage", { name: "check" });
  const files = new Map();
  for (const file of work.files) {
    files.set(file.name, await fetchChecked(new URL(file.url, baseUrl), file, limitations));
  }
  const golden = await readGolden(work.golden, baseUrl, limitations);
  const clockStepNs = Math.round(clockStepMs() * NS_PER_MS);

  const threads = threadsToUse(job, limitations);
  const ort = await loadEngine(work.engine, baseUrl, threads);
  const unit = await checkUnit(job.unit, limitations);

  say("stage", { name: "load" });
  const loadStart = performance.now();
  const session = await openSession(ort, files, job);
  const loadMs = performance.now() - loadStart;
  const engine = makeEngine(ort, session);

  const measurement = {
    runner: "browser",
    machine,
    numpy: null,
    engine_version: work.engine.version,
    load_ns: Math.round(loadMs * NS_PER_MS),
    settings: {
      provider: job.unit,
      intra_op_threads: threads,
      execution_mode: "sequential",
      graph_optimization_level: "all",
      cross_origin_isolated: self.crossOriginIsolated === true,
      secure_context: self.isSecureContext === true,
      clock_step_ns: clockStepNs,
      user_agent: navigator.userAgent,
      ...unit,
    },
    limitations,
    ...unknownFacts(),
  };
  Object.assign(measurement, await checkGolden(engine, golden, job.golden_tolerance));
  Object.assign(measurement, await time(engine, golden.photo(0), job));
  checkClock(measurement.samples_ns, clockStepNs, limitations);
  if (work.photos !== null) await runPhotos(engine, work.photos, baseUrl);
  await session.release();
  measurement.placement = await placement(ort, files, job, limitations);
  say("done", { measurement });
}

// ------------------------------------------------------------------------------------------- files

async function fetchChecked(url, { name, sha256, size_bytes: size }, limitations) {
  const response = await fetch(url);
  if (!response.ok) {
    throw new Refused("artifact", `${name} did not arrive: the server answered ${response.status}`);
  }
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (bytes.length !== size) {
    throw new Refused(
      "artifact",
      `${name} arrived with ${bytes.length} of ${size} bytes; run again`,
    );
  }
  if (self.crypto?.subtle === undefined) {
    const text =
      "the files' digests were not checked in the browser: that needs a secure context (https)";
    if (!limitations.includes(text)) limitations.push(text);
  } else if ((await hexDigest(bytes)) !== sha256) {
    throw new Refused("artifact", `${name} differs in the browser from what was sent; run again`);
  }
  return bytes;
}

async function hexDigest(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function readGolden(golden, baseUrl, limitations) {
  const read = async (file) => {
    const bytes = await fetchChecked(new URL(file.url, baseUrl), file, limitations);
    return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  };
  const inputs = await read(golden.inputs);
  const outputs = new Map();
  for (const file of golden.outputs)
    outputs.set(file.name, { shape: file.shape, values: await read(file) });
  const [n, ...shape] = golden.inputs.shape;
  const each = shape.reduce((product, side) => product * side, 1);
  const photo = (index) => ({
    shape: [1, ...shape],
    values: inputs.subarray(index * each, (index + 1) * each),
  });
  return { n, photo, outputs };
}

// ------------------------------------------------------------------------------------------ engine

function threadsToUse({ unit, threads }, limitations) {
  if (threads > 1 && self.crossOriginIsolated !== true) {
    limitations.push(
      `one thread instead of ${threads}: threads need a cross-origin isolated page, which plain http ` +
        "over the network never is",
    );
    return 1;
  }
  return threads;
}

async function loadEngine({ module, folder }, baseUrl, threads) {
  const ort = await import(new URL(module, baseUrl).href);
  ort.env.wasm.wasmPaths = new URL(folder, baseUrl).href;
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.proxy = false;
  ort.env.logLevel = "error";
  return ort;
}

async function checkUnit(unit, limitations) {
  if (unit !== "webgpu") return {};
  // `navigator.gpu` exists where no GPU does; an adapter is what counts.
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) {
    const why = self.isSecureContext
      ? "no GPU adapter"
      : "not a secure context: WebGPU needs https";
    throw new Refused("engine", `this browser offers no WebGPU (${why}); measure with ?unit=wasm`);
  }
  const info = adapter.info ?? {};
  if (adapter.isFallbackAdapter || info.isFallbackAdapter || info.architecture === "swiftshader") {
    limitations.push("WebGPU runs in software here, not on a GPU");
  }
  return {
    gpu: [info.vendor, info.architecture, info.description].filter(Boolean).join(" ") || null,
  };
}

function sessionOptions(files, job) {
  const external = [...files].filter(([name]) => name.startsWith(`${job.model}.`));
  return {
    executionProviders: [job.unit],
    executionMode: "sequential",
    graphOptimizationLevel: "all",
    externalData: external.map(([name, data]) => ({ path: name.split("/").at(-1), data })),
  };
}

async function openSession(ort, files, job, more = {}) {
  try {
    return await ort.InferenceSession.create(files.get(job.model), {
      ...sessionOptions(files, job),
      ...more,
    });
  } catch (error) {
    const text = String(error?.message ?? error).split("\n")[0];
    throw new Refused("engine", `onnxruntime-web cannot open ${job.model} on ${job.unit}: ${text}`);
  }
}

function makeEngine(ort, session) {
  const name = session.inputNames[0];
  const infer = async ({ values, shape }) =>
    session.run({ [name]: new ort.Tensor("float32", values, shape) });
  return { infer, outputNames: session.outputNames };
}

// ------------------------------------------------------------------------------------------ golden

async function checkGolden(engine, golden, tolerance) {
  say("stage", { name: "golden" });
  const found = [];
  const start = performance.now();
  found.push(await engine.infer(golden.photo(0)));
  const firstMs = performance.now() - start;
  for (let index = 1; index < golden.n; index += 1)
    found.push(await engine.infer(golden.photo(index)));

  const errors = {};
  for (const [name, expected] of [...golden.outputs].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const logits = isIndices(name) ? golden.outputs.get("logits") : null;
    errors[name] = relativeError(found, name, expected, logits);
  }
  const worst = Object.keys(errors).reduce((a, b) =>
    errors[b] > errors[a] || Number.isNaN(errors[b]) ? b : a,
  );
  // Written this way round so that NaN fails.
  if (!(errors[worst] <= tolerance)) {
    throw new Refused(
      "golden",
      `the model does not give its golden outputs in this browser: ${worst} is off by ` +
        `${errors[worst].toPrecision(3)} of its largest value (limit ${tolerance}, n=${golden.n}), so nothing ` +
        "was timed. Run `edgeseed verify` on the bundle; if it passes, the engine in the browser computes " +
        "something else",
    );
  }
  return {
    first_run_ns: Math.round(firstMs * NS_PER_MS),
    golden: { n: golden.n, relative_error: errors, tolerance },
  };
}

// The measure of the export's golden gate: the worst photo's largest difference over its largest value.
// Classes are compared by their logits: of two that are nearly equal, either may come first here.
function relativeError(found, name, { shape, values }, logits = null) {
  if (!(name in found[0])) {
    throw new Refused(
      "golden",
      `the model has no output '${name}'; it has: ${Object.keys(found[0]).join(", ")}`,
    );
  }
  const each = values.length / found.length;
  let worst = 0;
  for (const [row, outputs] of found.entries()) {
    const actual = outputs[name].data;
    if (actual.length !== each) {
      throw new Refused(
        "golden",
        `output '${name}' has ${actual.length} values, its golden output ${each} (${shape})`,
      );
    }
    const own = logits === null ? [] : rowOf(logits.values, row, found.length);
    // A class that there is not is no number, which fails.
    const read = logits === null ? (value) => value : (index) => own[index] ?? NaN;
    let difference = 0;
    let scale = Math.max(0, ...own.map(Math.abs));
    for (let i = 0; i < each; i += 1) {
      const expected = read(values[row * each + i]);
      const gap = Math.abs(read(actual[i]) - expected);
      if (Number.isNaN(gap)) return NaN;
      difference = Math.max(difference, gap);
      scale = Math.max(scale, Math.abs(expected));
    }
    worst = Math.max(worst, difference / Math.max(scale, 1e-12));
  }
  return worst;
}

function isIndices(name) {
  return /^top\d+_indices$/.test(name);
}

function rowOf(values, row, rows) {
  const count = values.length / rows;
  return Array.from(values.subarray(row * count, (row + 1) * count));
}

// ------------------------------------------------------------------------------------------ timing

async function time(engine, feeds, job) {
  say("stage", { name: "warm-up" });
  const settled = makeSettled(job.warm_up);
  const warm = await repeat(engine, feeds, settled, "warm-up");
  say("stage", { name: "measure" });
  const until = (samples, elapsedMs) =>
    (elapsedMs >= job.min_seconds * 1000 && samples.length >= job.min_runs) ||
    elapsedMs >= job.max_seconds * 1000;
  const timed = await repeat(engine, feeds, until, "measure");
  say("stage", { name: "timed" });
  return {
    samples_ns: timed.samples.map((ms) => Math.round(ms * NS_PER_MS)),
    elapsed_ns: Math.round(timed.elapsedMs * NS_PER_MS),
    cpu_ns: null,
    warm_up: {
      runs: warm.samples.length,
      seconds: warm.elapsedMs / 1000,
      steady: settled.steady(),
    },
    load_during: unknownLoad(timed.elapsedMs / 1000),
  };
}

async function repeat(engine, feeds, stop, stage) {
  const samples = [];
  const start = performance.now();
  let reportAt = start + PROGRESS_EVERY_MS;
  for (;;) {
    const before = performance.now();
    await engine.infer(feeds);
    const after = performance.now();
    samples.push(after - before);
    if (stop(samples, after - start)) return { samples, elapsedMs: after - start };
    if (after >= reportAt) {
      say("progress", { stage, runs: samples.length, seconds: (after - start) / 1000 });
      reportAt = after + PROGRESS_EVERY_MS;
    }
  }
}

// The stopping rule of runtime/latency.py's warm-up: both minima met, and the median of the newest
// quarter differs from that of the quarter before by less than the tolerance.
function makeSettled({
  min_runs: minRuns,
  min_seconds: minSeconds,
  max_seconds: maxSeconds,
  tolerance,
}) {
  let steady = false;
  let nextCheck = minRuns;
  const stop = (samples, elapsedMs) => {
    const seconds = elapsedMs / 1000;
    if (samples.length < minRuns || seconds < minSeconds) return false;
    if (samples.length >= nextCheck) {
      nextCheck = samples.length + Math.max(1, Math.floor(samples.length / 10));
      steady = mediansAgree(samples, tolerance);
    }
    return steady || seconds >= maxSeconds;
  };
  stop.steady = () => steady;
  return stop;
}

function mediansAgree(samples, tolerance) {
  if (samples.length < 2) return false;
  const quarter = Math.max(1, Math.floor(samples.length / 4));
  const newest = median(samples.slice(-quarter));
  const before = median(samples.slice(-2 * quarter, -quarter));
  return Math.abs(newest - before) <= tolerance * before;
}

function median(values) {
  const sorted = Float64Array.from(values).sort();
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

// Browsers round their clock: 5 us in a cross-origin isolated Chrome, 100 us to 1 ms elsewhere.
function clockStepMs() {
  let smallest = Infinity;
  let last = performance.now();
  for (let steps = 0; steps < CLOCK_STEPS;) {
    const now = performance.now();
    if (now > last) {
      smallest = Math.min(smallest, now - last);
      last = now;
      steps += 1;
    }
  }
  return smallest;
}

function checkClock(samples, stepNs, limitations) {
  const middle = median(samples);
  if (Math.min(...minMax(samples)) <= 0) {
    throw new Refused(
      "engine",
      `the browser's clock ticks every ${stepNs / 1e6} ms, too coarse for a model that takes about ` +
        `${(middle / 1e6).toFixed(3)} ms: open the page over https or on this machine, where it is finer`,
    );
  }
  if (middle < COARSE_STEPS * stepNs) {
    limitations.push(
      `the browser's clock ticks every ${stepNs / 1e6} ms, ${Math.max(1, Math.round(middle / stepNs))} ` +
        "ticks a run: the spread is coarser than the device",
    );
  }
}

function minMax(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

// ------------------------------------------------------------------------------------------ photos

async function runPhotos(engine, { n, shape, url, outputs }, baseUrl) {
  say("stage", { name: "photos", n });
  const each = shape.reduce((product, side) => product * side, 1);
  const rows = new Map();
  for (const { name, size } of outputs)
    rows.set(name, { size, values: new Float32Array(n * size) });
  for (let start = 0; start < n; start += PHOTOS_PER_REQUEST) {
    const count = Math.min(PHOTOS_PER_REQUEST, n - start);
    const response = await fetch(new URL(`${url}?start=${start}&count=${count}`, baseUrl));
    if (!response.ok)
      throw new Refused("artifact", `the photos did not arrive: ${response.status}`);
    const pixels = Float32Array.from(new Uint8Array(await response.arrayBuffer()));
    for (let index = 0; index < count; index += 1) {
      const values = pixels.subarray(index * each, (index + 1) * each);
      const found = await engine.infer({ shape: [1, ...shape], values });
      for (const [name, { size, values: all }] of rows)
        all.set(found[name].data, (start + index) * size);
      const done = start + index + 1;
      if (done % PHOTO_REPORT_EVERY === 0) say("progress", { stage: "photos", runs: done });
    }
  }
  for (const [name, { values }] of rows)
    say("output", { name, bytes: values.buffer }, [values.buffer]);
}

// --------------------------------------------------------------------------------- what is not told

// Which unit took which node. ONNX Runtime Web has no call for it; its verbose log says it while a
// session opens. That session is opened last and never timed.
async function placement(ort, files, job, limitations) {
  const lines = [];
  engineLog = lines;
  try {
    const session = await openSession(ort, files, job, {
      logSeverityLevel: 0,
      logVerbosityLevel: 0,
    });
    await session.release();
  } finally {
    engineLog = null;
  }
  const found = readPlacement(lines.join("\n"));
  if (found === null) {
    limitations.push(`where the nodes ran: not told by the engine (${job.unit} was asked for)`);
    return { requested: job.unit, actual: job.unit, nodes: null, share: null };
  }
  const { nodes, operators } = found;
  const total = Object.values(nodes).reduce((sum, count) => sum + count, 0);
  const actual = Object.keys(nodes).reduce((a, b) => (nodes[b] > nodes[a] ? b : a));
  const others = Object.keys(nodes).filter((name) => name !== job.unit);
  if (others.length > 0) {
    const named = others.map(
      (name) => `${nodes[name]} on ${name} (${(operators[name] ?? []).join(", ")})`,
    );
    limitations.push(`nodes that did not run on ${job.unit}: ${named.join("; ")}`);
  }
  return { requested: job.unit, actual, nodes, share: (nodes[job.unit] ?? 0) / total };
}

const UNITS = {
  CPUExecutionProvider: "wasm",
  WebGpuExecutionProvider: "webgpu",
  JsExecutionProvider: "webgpu",
};

function readPlacement(text) {
  const nodes = {};
  const operators = {};
  let unit = null;
  for (const line of text.split("\n")) {
    const placed = /placed on \[(\w+)\]\. Number of nodes: (\d+)/.exec(line);
    if (placed) {
      unit = UNITS[placed[1]] ?? placed[1];
      nodes[unit] = (nodes[unit] ?? 0) + Number(placed[2]);
      continue;
    }
    const operator = /\]\s{2,}(\w+) \(/.exec(line);
    if (operator && unit !== null) {
      operators[unit] ??= [];
      if (!operators[unit].includes(operator[1])) operators[unit].push(operator[1]);
    }
  }
  return Object.keys(nodes).length === 0 ? null : { nodes, operators };
}

const unknownLoad = (seconds) => ({
  seconds,
  other_cores: null,
  stolen_cores: null,
  load_average: null,
});

function unknownFacts() {
  const memory = { resident_mib: null, peak_mib: null };
  return {
    load_before: unknownLoad(0),
    memory_before: memory,
    memory_library: memory,
    memory_model: memory,
    thermals: [null, null],
    power: null,
    power_unavailable: "a browser does not tell power",
  };
}
