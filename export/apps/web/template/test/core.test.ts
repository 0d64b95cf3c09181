import { readFile } from "node:fs/promises";

import { describe, expect, it } from "vitest";

import { exifOrientation } from "../src/core/exif.js";
import {
  Conformance,
  Gallery,
  Photo,
  Preprocess,
  readNpy,
  softmax,
  topK,
} from "../src/core/index.js";
import { decodePng } from "./png.js";

const readAsset = async (path: string): Promise<Uint8Array> =>
  new Uint8Array(await readFile(new URL(`../assets/${path}`, import.meta.url)));

// Ten mistakes of twelve megapixels, and each explained: seconds, more on a busy machine.
const SLOW = 300_000;

describe("the conformance set", () => {
  it(
    "gives the same bytes as Python",
    async () => {
      const set = await Conformance.open(readAsset);

      expect(await set.checkCore(decodePng)).toEqual([]);
    },
    SLOW,
  );

  it(
    "catches each known mistake and names it",
    async () => {
      const set = await Conformance.open(readAsset);

      expect(await set.checkFaults(decodePng)).toEqual([]);
    },
    SLOW,
  );
});

describe("a gallery", () => {
  const options = { embeddingDim: 2, studentSha256: "0".repeat(64), threshold: 0.9 };

  it("learns a class from a photo and forgets it again", () => {
    const gallery = new Gallery(options);
    gallery.add("tit", [3, 0]);
    gallery.add("wren", [0, 0.5]);

    expect(gallery.classify([1, 0.1])).toMatchObject({ label: "tit", recognised: true });
    expect(gallery.classify([1, 1])).toMatchObject({ recognised: false });

    gallery.remove("tit");
    expect(gallery.classify([1, 0.1])).toMatchObject({ label: "wren", recognised: false });
    expect(gallery.count("tit")).toBe(0);
  });

  it("is the same after writing and reading, whatever the names", () => {
    const gallery = new Gallery(options);
    gallery.add('</script> "${x}" \n 🐦', [1, 2]);

    const copy = Gallery.read(gallery.toBytes());

    expect(copy.classes).toEqual(gallery.classes);
    expect(copy.toBytes()).toEqual(gallery.toBytes());
  });

  it("refuses what is none", () => {
    expect(() => Gallery.read(new Uint8Array(40))).toThrow("not a gallery");
    expect(() => Gallery.read(new Gallery(options).toBytes().slice(0, -4))).toThrow();
    expect(() => new Gallery(options).add("tit", [0, 0])).toThrow("an embedding of zeros");
    expect(() => new Gallery(options).classify([1])).toThrow("this gallery has 2");
  });
});

describe("EXIF's orientation", () => {
  it("is read from a JPEG file", async () => {
    for (let orientation = 1; orientation <= 8; orientation += 1) {
      const file = await readAsset(`conformance/files/exif-${orientation}.jpg`);
      expect(exifOrientation(file)).toBe(orientation);
    }
    expect(exifOrientation(await readAsset("golden/000.png"))).toBe(1);
    expect(exifOrientation(new Uint8Array(0))).toBe(1);
  });
});

describe("predictions", () => {
  it("are sorted, the earlier class first where equal", () => {
    const found = topK([1, 3, 1, 3], ["a", "b", "c", "d"], 3);

    expect(found.map(({ label }) => label)).toEqual(["b", "d", "a"]);
    expect(softmax([1000, 1000])).toEqual(Float64Array.of(0.5, 0.5));
  });
});

describe("wrong use", () => {
  it("is one clear line", () => {
    expect(() => new Photo(new Uint8Array(3), 1, 1)).toThrow("1 x 1 pixels need 4 bytes, found 3");
    expect(() => new Photo(new Uint8Array(0), 0, 1)).toThrow("a photo of 0 x 1 pixels");
    expect(() => new Preprocess({ imageSize: 8, resize: 4 })).toThrow("imageSize=8 and resize=4");
    expect(() => readNpy(new Uint8Array(20))).toThrow("not a .npy file");
    expect(() => topK([1], ["a", "b"], 1)).toThrow("1 logits for 2 labels");
  });
});
