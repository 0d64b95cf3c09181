import { measure, PROTOCOLS } from "./core/benchmark.js";
import { greyPhoto } from "./model.js";
import type { Model } from "./model.js";
import { MODEL_INFO } from "./model-info.js";

/** What to measure. */
export interface BenchmarkOptions {
  /** One of edgeseed's protocols; `quick` by default. */
  protocol?: keyof typeof PROTOCOLS;
}

/**
 * Times the model in this app and browser, one photo after another, without decoding and resizing.
 * A model that fails its self-test is not timed.
 *
 * @returns the content of a `measurement.json`: `edgeseed profile BUNDLE --measurement FILE` reads it.
 */
export async function benchmark(model: Model, options: BenchmarkOptions = {}): Promise<object> {
  const { protocol = "quick" } = options;
  const limits = PROTOCOLS[protocol];
  const input = MODEL_INFO.preprocess.tensor(greyPhoto(MODEL_INFO.preprocess.imageSize));
  const start = performance.now();
  await model.runTensor(input);
  const firstMs = performance.now() - start;
  const report = await model.selfTest();
  if (!report.passed) throw new Error(`not timed: ${report.problems.join("; ")}`);
  const timings = await measure(() => model.runTensor(input), limits);
  const { loadMs, threads, runtimeVersion } = model.opened;
  return {
    schema_version: 1,
    runner: "web-module",
    request: {
      bundle_digest: MODEL_INFO.bundleDigest,
      engine: "onnxruntime-web",
      threads,
      protocol,
      min_runs: limits.minRuns,
      min_seconds: limits.minSeconds,
      max_seconds: limits.maxSeconds,
    },
    machine: describeMachine(),
    engine_version: runtimeVersion,
    load_ns: nanoseconds(loadMs),
    first_run_ns: nanoseconds(firstMs),
    settings: {
      provider: "wasm",
      intra_op_threads: threads,
      cross_origin_isolated: crossOriginIsolated,
      user_agent: navigator.userAgent,
    },
    limitations: [
      "first_run_ns is of the benchmark's first call, not of a fresh process",
      "where the nodes ran: not told by the engine",
    ],
    placement: { requested: "wasm", actual: "wasm", nodes: null, share: null },
    golden: {
      n: report.numPhotos,
      relative_error: report.relativeErrors,
      tolerance: report.tolerance,
    },
    samples_ns: timings.samplesMs.map(nanoseconds),
    elapsed_ns: nanoseconds(timings.elapsedMs),
    cpu_ns: null,
    warm_up: { runs: timings.warmUpRuns, seconds: timings.warmUpMs / 1000, steady: timings.steady },
    ...notTold(timings.elapsedMs / 1000),
  };
}

const nanoseconds = (ms: number): number => Math.round(ms * 1e6);

/** What a browser tells without being asked for more. */
function describeMachine(): object {
  const cores = navigator.hardwareConcurrency;
  return {
    model: null,
    cpu: "unnamed CPU",
    architecture: "not told by the browser",
    system: navigator.platform || "not told by the browser",
    python: null,
    logical_cores: cores,
    usable_cores: cores,
    cpu_quota: null,
    memory_mib: null,
    governors: [],
    frequency_mhz: {},
    container: null,
    virtual_machine: null,
  };
}

function notTold(seconds: number): object {
  const memory = { resident_mib: null, peak_mib: null };
  const load = { other_cores: null, stolen_cores: null, load_average: null };
  return {
    load_before: { seconds: 0, ...load },
    load_during: { seconds, ...load },
    memory_before: memory,
    memory_library: memory,
    memory_model: memory,
    thermals: [null, null],
    power: null,
    power_unavailable: "a browser does not tell power",
  };
}
