import { measure, PROTOCOLS } from "./core/benchmark.js";
import type { Protocol } from "./core/benchmark.js";
import type { Model } from "./model.js";
import { greyPhoto } from "./model.js";
import { MODEL_INFO } from "./model-info.js";

/** What to measure. */
export interface BenchmarkOptions {
  /** One of edgeseed's protocols, or your own; `quick` by default. */
  protocol?: keyof typeof PROTOCOLS | Protocol;
}

/**
 * Times the model in this app and browser, one photo after another, without decoding and resizing.
 * A model that fails its self-test is not timed.
 *
 * @returns every sample, to be kept as JSON beside the digest of the model.
 */
export async function benchmark(model: Model, options: BenchmarkOptions = {}): Promise<object> {
  const report = await model.selfTest();
  if (!report.passed) throw new Error(`not timed: ${report.problems.join("; ")}`);
  const { protocol = "quick" } = options;
  const input = MODEL_INFO.preprocess.tensor(greyPhoto(MODEL_INFO.preprocess.imageSize));
  const limits = typeof protocol === "string" ? PROTOCOLS[protocol] : protocol;
  const timings = await measure(() => model.runTensor(input), limits);
  const nanoseconds = (ms: number): number => Math.round(ms * 1e6);
  return {
    bundle_digest: MODEL_INFO.bundleDigest,
    runner: "web-module",
    samples_ns: timings.samplesMs.map(nanoseconds),
    elapsed_ns: nanoseconds(timings.elapsedMs),
    warm_up: { runs: timings.warmUpRuns, seconds: timings.warmUpMs / 1000, steady: timings.steady },
    golden: { n: report.numPhotos, relative_error: report.relativeErrors },
    user_agent: navigator.userAgent,
    cross_origin_isolated: crossOriginIsolated,
  };
}
