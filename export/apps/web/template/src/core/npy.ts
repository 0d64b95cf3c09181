/** An array of a NumPy `.npy` file: bytes or 32-bit floats, row by row. */
export interface NumpyArray {
  /** Sizes, outermost first. */
  readonly shape: readonly number[];
  readonly values: Uint8Array | Float32Array;
}

/** Reads the whole content of a `.npy` file. */
export function readNpy(file: Uint8Array): NumpyArray {
  if (file.length < 10 || file[0] !== 0x93 || file[1] !== 0x4e) throw new Error("not a .npy file");
  const start = 10 + file[8]! + 256 * file[9]!;
  const header = new TextDecoder("latin1").decode(file.subarray(10, start));
  const type = /'descr': *'([^']*)'/.exec(header)?.[1];
  if (type !== "|u1" && type !== "<f4") throw new Error(`a .npy file of type ${type}`);
  if (!header.includes("'fortran_order': False")) throw new Error("a .npy file in Fortran's order");
  const sizes = /'shape': *\(([0-9, ]*)\)/.exec(header)?.[1] ?? "";
  const shape = sizes.split(",").flatMap((text) => (text.trim() === "" ? [] : [Number(text)]));
  const count = shape.reduce((product, size) => product * size, 1);
  const content = file.slice(start);
  if (content.length !== count * (type === "<f4" ? 4 : 1))
    throw new Error("a .npy file that is not whole");
  return { shape, values: type === "<f4" ? littleEndianFloats(content) : content };
}

/** 32-bit floats of their bytes, on a machine of any byte order. */
export function littleEndianFloats(bytes: Uint8Array): Float32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Float32Array.from({ length: bytes.length >> 2 }, (_, i) => view.getFloat32(4 * i, true));
}
