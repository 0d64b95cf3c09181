// Display P3 to sRGB in whole numbers: step 2 of edgeseed's docs/preprocessing.md.

const MAX = 65535;

const light = (value: number): number =>
  value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;

const linear = Int32Array.from({ length: 256 }, (_, value) =>
  Math.floor(MAX * light(value / 255) + 0.5),
);

const encoded = ((): Uint8Array => {
  const table = new Uint8Array(MAX + 1);
  let value = 0;
  for (let x = 0; x <= MAX; x += 1) {
    while (value < 255 && MAX * light((value + 0.5) / 255) <= x) value += 1;
    table[x] = value;
  }
  return table;
})();

const encode = (sum: number): number => encoded[Math.min(MAX, Math.max(0, (sum + 8192) >> 14))]!;

/** Converts the red, green and blue of one pixel in place. */
export function displayP3ToSrgb(color: Int32Array): void {
  const red = linear[color[0]!]!;
  const green = linear[color[1]!]!;
  const blue = linear[color[2]!]!;
  color[0] = encode(20070 * red - 3686 * green);
  color[1] = encode(-689 * red + 17073 * green);
  color[2] = encode(-322 * red - 1288 * green + 17994 * blue);
}
