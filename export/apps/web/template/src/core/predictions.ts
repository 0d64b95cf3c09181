/** One class that a photo may show. */
export interface Prediction {
  readonly label: string;
  /** Of the class among the model's. */
  readonly index: number;
  /** 0 to 1. */
  readonly probability: number;
}

/** Probabilities of logits: they add up to 1. */
export function softmax(logits: ArrayLike<number>): Float64Array {
  let largest = -Infinity;
  for (let i = 0; i < logits.length; i += 1) largest = Math.max(largest, logits[i]!);
  const powers = Float64Array.from(logits, (value) => Math.exp(value - largest));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

/** The `k` most probable classes, the most probable first; the earlier class first where equal. */
export function topK(
  logits: ArrayLike<number>,
  labels: readonly string[],
  k: number,
): Prediction[] {
  if (logits.length !== labels.length) {
    throw new RangeError(`${logits.length} logits for ${labels.length} labels`);
  }
  const probabilities = softmax(logits);
  return labels
    .map((label, index) => ({ label, index, probability: probabilities[index]! }))
    .sort((a, b) => logits[b.index]! - logits[a.index]! || a.index - b.index)
    .slice(0, k);
}
