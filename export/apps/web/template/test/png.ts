import { inflateSync } from "node:zlib";

import { Photo } from "../src/core/index.js";

const CHANNELS: Record<number, number> = { 0: 1, 2: 3, 4: 2, 6: 4 };

/** An 8-bit PNG as stored: no colour management, nothing laid over anything. For tests only. */
export async function decodePng(file: Uint8Array): Promise<Photo> {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const channels = CHANNELS[file[25]!];
  if (file[24] !== 8 || channels === undefined || file[28] !== 0) {
    throw new Error("a PNG that is not 8-bit grey or RGB without interlacing");
  }
  const parts: Uint8Array[] = [];
  for (let place = 8; place < file.length;) {
    const length = view.getUint32(place);
    const type = String.fromCharCode(...file.subarray(place + 4, place + 8));
    if (type === "IDAT") parts.push(file.subarray(place + 8, place + 8 + length));
    place += 12 + length;
  }
  const rows = unfiltered(inflateSync(Buffer.concat(parts)), width, height, channels);
  return new Photo(asRgb(rows, channels), width, height, {
    pixelStride: channels < 3 ? channels + 2 : channels,
  });
}

function unfiltered(data: Uint8Array, width: number, height: number, channels: number): Uint8Array {
  const line = width * channels;
  const rows = new Uint8Array(line * height);
  for (let y = 0; y < height; y += 1) {
    const filter = data[y * (line + 1)]!;
    for (let i = 0; i < line; i += 1) {
      const left = i < channels ? 0 : rows[y * line + i - channels]!;
      const up = y === 0 ? 0 : rows[(y - 1) * line + i]!;
      const corner = i < channels || y === 0 ? 0 : rows[(y - 1) * line + i - channels]!;
      const predicted = [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter]!;
      rows[y * line + i] = data[y * (line + 1) + 1 + i]! + predicted;
    }
  }
  return rows;
}

function paeth(left: number, up: number, corner: number): number {
  const [a, b, c] = [
    Math.abs(up - corner),
    Math.abs(left - corner),
    Math.abs(left + up - 2 * corner),
  ];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

function asRgb(rows: Uint8Array, channels: number): Uint8Array {
  if (channels >= 3) return rows;
  const count = rows.length / channels;
  const rgb = new Uint8Array(count * (channels + 2));
  for (let i = 0; i < count; i += 1) {
    const grey = rows[i * channels]!;
    rgb.set(
      channels === 1 ? [grey, grey, grey] : [grey, grey, grey, rows[i * 2 + 1]!],
      i * (channels + 2),
    );
  }
  return rgb;
}
