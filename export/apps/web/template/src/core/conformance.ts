import { exifOrientation } from "./exif.js";
import { diagnose, FAULT_NAMES, largestDifference } from "./fault.js";
import type { Fault } from "./fault.js";
import { photoOfFrame } from "./frame.js";
import type { YuvMatrix, YuvRange } from "./frame.js";
import { Gallery } from "./gallery.js";
import { readNpy } from "./npy.js";
import { Photo } from "./photo.js";
import type { Alpha, Profile } from "./photo.js";
import { Preprocess } from "./preprocess.js";
import type { Interpolation } from "./preprocess.js";

/** The content of a file by its path among the module's assets. */
export type ReadAsset = (path: string) => Promise<Uint8Array>;

/** A file as the app decodes photos. */
export type Decode = (file: Uint8Array) => Promise<Photo>;

/** The model's input of a photo, as the app makes it: C x H x W. */
export type MakeTensor = (photo: Photo, preprocess: Preprocess) => Float32Array;

interface Case {
  name: string;
  file: string;
  expected: string;
  preprocess: {
    image_size: number;
    resize: number;
    interpolation: Interpolation;
    width?: number;
    channels?: 1 | 3;
  };
}

interface PhotoCase extends Case {
  alpha: Alpha;
  orientation: number;
  profile: Profile;
  on_platform: boolean;
  platform_tolerance: number;
  catches: Fault[];
}

interface FileCase extends Case {
  platform_tolerance: number;
}

interface FrameCase extends Case {
  width: number;
  height: number;
  matrix: YuvMatrix;
  range: YuvRange;
  rotation: number;
}

interface Answer {
  index: number | null;
  similarity: number;
  share: number;
  recognised: boolean;
}

interface Description {
  photos: PhotoCase[];
  files: FileCase[];
  frames: FrameCase[];
  gallery: { file: string; queries: string; classes: string[]; answers: Answer[] };
}

const rightTensor: MakeTensor = (photo, preprocess) => preprocess.tensor(photo);

/** The conformance set that travels with the module: photos, and the bytes they must become. */
export class Conformance {
  private constructor(
    private readonly description: Description,
    private readonly read: ReadAsset,
  ) {}

  /** Opens the set. */
  static async open(readAsset: ReadAsset): Promise<Conformance> {
    const read: ReadAsset = (path) => readAsset(`conformance/${path}`);
    const text = new TextDecoder().decode(await read("conformance.json"));
    return new Conformance(JSON.parse(text) as Description, read);
  }

  /**
   * Checks the core: pixels as stored, the specified steps, and every byte equal.
   *
   * @param decode a lossless PNG as stored pixels of 3 or 4 bytes, without colour management.
   * @returns what is wrong, a line each; empty if all is right.
   */
  async checkCore(decode: Decode): Promise<string[]> {
    const problems: string[] = [];
    for (const item of this.description.photos) {
      const found = sizesOf(item).pixels(declared(item, await decode(await this.read(item.file))));
      problems.push(...(await this.differences(item, found)));
    }
    for (const item of this.description.frames) {
      const found = sizesOf(item).pixels(frameOf(item, await this.read(item.file)));
      problems.push(...(await this.differences(item, found)));
    }
    return [...problems, ...(await this.checkGallery())];
  }

  /**
   * Checks an app's way from a file to the model's input, within the levels that the set allows a
   * platform's decoder, and names the likely cause where it is wrong.
   *
   * @param decode a whole file as the app decodes it, by EXIF and profile.
   * @param tensor a photo's input as the app makes it.
   * @returns what is wrong, a line each; empty if all is right.
   */
  async checkPlatform(decode: Decode, tensor: MakeTensor = rightTensor): Promise<string[]> {
    const problems: string[] = [];
    const { photos, files } = this.description;
    // The photos' orientation stands beside them, not in the file.
    const decodable = photos.filter((item) => item.on_platform && item.orientation === 1);
    for (const item of [...decodable, ...files]) {
      const file = await this.read(item.file);
      const photo = await decode(file);
      const preprocess = sizesOf(item);
      const found = tensor(photo, preprocess);
      const expected = Float32Array.from(await this.expected(item));
      const largest = largestDifference(expected, found);
      if (largest <= item.platform_tolerance) continue;
      let stated = isPhotoCase(item) ? declared(item, photo) : photo;
      const stored = stated.withOrientation(exifOrientation(file));
      // A decoder that does not know EXIF leaves the photo as it is stored.
      if (largestDifference(expected, preprocess.tensor(stored)) <= item.platform_tolerance) {
        stated = stored;
      }
      const { message } = diagnose(stated, preprocess, found, expected)!;
      problems.push(`${item.name}: ${message}`);
    }
    return problems;
  }

  /**
   * Checks that the set tells mistakes from the right way: each fault changes the photos that it is
   * said to change, and `diagnose` names it from its tensor.
   */
  async checkFaults(decode: Decode): Promise<string[]> {
    const problems: string[] = [];
    const caught = new Set<Fault>();
    for (const item of this.description.photos) {
      const photo = declared(item, await decode(await this.read(item.file)));
      const preprocess = sizesOf(item);
      const right = preprocess.tensor(photo);
      for (const fault of FAULT_NAMES) {
        const wrong = preprocess.tensor(photo, fault);
        const changes = largestDifference(wrong, right) !== 0;
        if (changes !== item.catches.includes(fault)) {
          problems.push(`${item.name}: ${fault} changes it: ${changes}`);
        }
        if (!changes) continue;
        const named = diagnose(photo, preprocess, wrong, right)?.fault ?? null;
        const isSame =
          named !== null && largestDifference(preprocess.tensor(photo, named), wrong) === 0;
        if (isSame) caught.add(fault);
        else problems.push(`${item.name}: ${fault} is taken for ${named}`);
      }
    }
    const missed = FAULT_NAMES.filter((fault) => !caught.has(fault));
    return [...problems, ...missed.map((fault) => `no photo catches ${fault}`)];
  }

  private async checkGallery(): Promise<string[]> {
    const { file, queries, classes, answers } = this.description.gallery;
    const gallery = Gallery.read(await this.read(file));
    const problems: string[] = [];
    if (JSON.stringify(gallery.classes) !== JSON.stringify(classes)) {
      problems.push(`gallery: classes ${gallery.classes}`);
    }
    const written = gallery.toBytes();
    if (largestDifference(Gallery.read(written).toBytes(), written) !== 0) {
      problems.push("gallery: not the same after writing and reading");
    }
    const { values } = readNpy(await this.read(queries));
    for (const [i, expected] of answers.entries()) {
      const dim = gallery.embeddingDim;
      const found = gallery.classify(values.subarray(i * dim, (i + 1) * dim));
      const isSame =
        found.index === expected.index &&
        found.recognised === expected.recognised &&
        Math.abs(found.similarity - expected.similarity) < 1e-9 &&
        Math.abs(found.share - expected.share) < 1e-9;
      if (!isSame) problems.push(`gallery: query ${i} gives ${JSON.stringify(found)}`);
    }
    return problems;
  }

  private async expected(item: Case): Promise<Uint8Array> {
    return readNpy(await this.read(item.expected)).values as Uint8Array;
  }

  private async differences(item: Case, found: Uint8Array): Promise<string[]> {
    const expected = await this.expected(item);
    if (expected.length !== found.length) return [`${item.name}: ${found.length} values`];
    const wrong = found.filter((value, i) => value !== expected[i]).length;
    return wrong === 0 ? [] : [`${item.name}: ${wrong} of ${found.length} values are not Python's`];
  }
}

const isPhotoCase = (item: Case): item is PhotoCase => "catches" in item;

const sizesOf = ({ preprocess }: Case): Preprocess =>
  new Preprocess({
    imageSize: preprocess.image_size,
    resize: preprocess.resize,
    interpolation: preprocess.interpolation,
    width: preprocess.width ?? preprocess.image_size,
    channels: preprocess.channels ?? 3,
  });

/** The pixels as the set says that they are to be taken, whatever the decoder said. */
function declared(item: PhotoCase, photo: Photo): Photo {
  const { pixels, width, height, pixelStride, rowStride } = photo;
  const { alpha, orientation, profile } = item;
  return new Photo(pixels, width, height, { pixelStride, rowStride, alpha, orientation, profile });
}

function frameOf({ width, height, matrix, range, rotation }: FrameCase, planes: Uint8Array): Photo {
  const half = (width + 1) >> 1;
  const uAt = width * height;
  const vAt = uAt + half * ((height + 1) >> 1);
  const y = { bytes: planes.subarray(0, uAt), rowStride: width };
  const u = { bytes: planes.subarray(uAt, vAt), rowStride: half };
  const v = { bytes: planes.subarray(vAt), rowStride: half };
  return photoOfFrame({ width, height, y, u, v, matrix, range }, rotation);
}
