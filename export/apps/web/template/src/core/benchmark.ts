// The measurement protocol of `edgeseed profile`: warm up until the medians settle, then time one
// photo after another, and keep every sample.

/** How long to measure: until both minima are met, and never past `maxSeconds`. */
export interface Protocol {
  readonly minRuns: number;
  readonly minSeconds: number;
  readonly maxSeconds: number;
}

/** edgeseed's protocols (`edgeseed profile --protocol`). */
export const PROTOCOLS = {
  rapid: { minRuns: 64, minSeconds: 6, maxSeconds: 60 },
  quick: { minRuns: 128, minSeconds: 10, maxSeconds: 100 },
  normal: { minRuns: 1024, minSeconds: 60, maxSeconds: 600 },
  sustained: { minRuns: 1024, minSeconds: 600, maxSeconds: 1200 },
} as const satisfies Record<string, Protocol>;

/** Raw durations of one measurement in milliseconds, in the order in which they happened. */
export interface Timings {
  readonly samplesMs: readonly number[];
  readonly elapsedMs: number;
  readonly warmUpRuns: number;
  readonly warmUpMs: number;
  /** Whether the medians settled before the measurement began. */
  readonly steady: boolean;
}

const WARM_UP = { minRuns: 10, minSeconds: 1, maxSeconds: 15, tolerance: 0.02 };

/** Warms `run` up until its medians settle, then calls it until `protocol` is met. */
export async function measure(
  run: () => Promise<unknown>,
  protocol: Protocol,
  clock: () => number = () => performance.now(),
): Promise<Timings> {
  let steady = false;
  let nextCheck = WARM_UP.minRuns;
  const warmUp = await repeat(run, clock, (samples, elapsedMs) => {
    if (samples.length < WARM_UP.minRuns || elapsedMs < WARM_UP.minSeconds * 1000) return false;
    if (samples.length >= nextCheck) {
      nextCheck = samples.length + Math.max(1, Math.floor(samples.length / 10));
      steady = mediansAgree(samples);
    }
    return steady || elapsedMs >= WARM_UP.maxSeconds * 1000;
  });
  const timed = await repeat(
    run,
    clock,
    (samples, elapsedMs) =>
      (elapsedMs >= protocol.minSeconds * 1000 && samples.length >= protocol.minRuns) ||
      elapsedMs >= protocol.maxSeconds * 1000,
  );
  return {
    samplesMs: timed.samples,
    elapsedMs: timed.elapsedMs,
    warmUpRuns: warmUp.samples.length,
    warmUpMs: warmUp.elapsedMs,
    steady,
  };
}

async function repeat(
  run: () => Promise<unknown>,
  clock: () => number,
  stop: (samples: number[], elapsedMs: number) => boolean,
): Promise<{ samples: number[]; elapsedMs: number }> {
  const samples: number[] = [];
  const start = clock();
  for (;;) {
    const before = clock();
    await run();
    const after = clock();
    samples.push(after - before);
    if (stop(samples, after - start)) return { samples, elapsedMs: after - start };
  }
}

/** Whether the newest quarter's median differs by less than 2 % from that of the quarter before. */
function mediansAgree(samples: number[]): boolean {
  const quarter = Math.max(1, Math.floor(samples.length / 4));
  const newest = median(samples.slice(-quarter));
  const before = median(samples.slice(-2 * quarter, -quarter));
  return Math.abs(newest - before) <= WARM_UP.tolerance * before;
}

/** The middle of some numbers. */
export function median(values: readonly number[]): number {
  const sorted = Float64Array.from(values).sort();
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
