import EdgeseedModuleCore
import Foundation

/// Stored values of an 8-bit PNG without interlacing: what the tests need where there is no ImageIO.
func decodePNG(_ file: Data) throws -> Photo {
  let bytes = [UInt8](file)
  func word(_ at: Int) -> Int { bytes[at..<at + 4].reduce(0) { $0 << 8 | Int($1) } }
  guard bytes.count > 33, bytes[1...3].elementsEqual("PNG".utf8), bytes[24] == 8, bytes[28] == 0
  else { throw FileError("no PNG of 8 bits without interlacing") }
  let (width, height, kind) = (word(16), word(20), Int(bytes[25]))
  guard let bands = [0: 1, 2: 3, 4: 2, 6: 4][kind] else { throw FileError("a PNG of kind \(kind)") }
  var at = 8
  var packed: [UInt8] = []
  var hasProfile = false
  while at + 12 <= bytes.count {
    let (size, name) = (word(at), String(decoding: bytes[at + 4..<at + 8], as: UTF8.self))
    if name == "IDAT" { packed += bytes[at + 8..<at + 8 + size] }
    hasProfile = hasProfile || name == "iCCP"
    at += 12 + size
  }
  var inflater = Inflater(Array(packed.dropFirst(2)))
  let rows = unfilter(try inflater.inflate(), width: width, height: height, bands: bands)
  let stride = bands % 2 == 0 ? 4 : 3
  var pixels = [UInt8](repeating: 0, count: width * height * stride)
  for i in 0..<width * height {
    for c in 0..<3 { pixels[i * stride + c] = rows[i * bands + (bands > 2 ? c : 0)] }
    if stride == 4 { pixels[i * stride + 3] = rows[i * bands + bands - 1] }
  }
  return Photo(
    pixels: pixels, width: width, height: height, pixelStride: stride,
    alpha: stride == 4 ? .straight : .none, profile: hasProfile ? .displayP3 : .srgb)
}

private func unfilter(_ lines: [UInt8], width: Int, height: Int, bands: Int) -> [UInt8] {
  let line = width * bands
  var rows = [UInt8](repeating: 0, count: line * height)
  for y in 0..<height {
    let filter = lines[y * (line + 1)]
    for x in 0..<line {
      let left = x >= bands ? Int(rows[y * line + x - bands]) : 0
      let up = y > 0 ? Int(rows[(y - 1) * line + x]) : 0
      let corner = x >= bands && y > 0 ? Int(rows[(y - 1) * line + x - bands]) : 0
      let guess: Int
      switch filter {
      case 1: guess = left
      case 2: guess = up
      case 3: guess = (left + up) / 2
      case 4:
        let (a, b, c) = (abs(up - corner), abs(left - corner), abs(left + up - 2 * corner))
        guess = a <= b && a <= c ? left : b <= c ? up : corner
      default: guess = 0
      }
      rows[y * line + x] = lines[y * (line + 1) + 1 + x] &+ UInt8(truncatingIfNeeded: guess)
    }
  }
  return rows
}

/// DEFLATE (RFC 1951), as plain as can be.
private struct Inflater {
  private let bytes: [UInt8]
  private var position = 0
  private var output: [UInt8] = []

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  private struct Code {
    /// How many codes there are of each length, and the symbols in the order of their codes.
    var counts = [Int](repeating: 0, count: 16)
    var symbols: [Int] = []

    init(_ lengths: [Int]) {
      for length in lengths where length > 0 { counts[length] += 1 }
      for length in 1...15 {
        symbols += lengths.indices.filter { lengths[$0] == length }
      }
    }
  }

  private mutating func bits(_ count: Int) -> Int {
    var value = 0
    for i in 0..<count {
      value |= Int(bytes[position >> 3] >> UInt8(position & 7) & 1) << i
      position += 1
    }
    return value
  }

  private mutating func symbol(_ code: Code) throws -> Int {
    var (value, first, index) = (0, 0, 0)
    for length in 1...15 {
      value |= bits(1)
      let count = code.counts[length]
      if value - first < count { return code.symbols[index + value - first] }
      index += count
      first = (first + count) << 1
      value <<= 1
    }
    throw FileError("a broken PNG")
  }

  mutating func inflate() throws -> [UInt8] {
    var isLast = false
    while !isLast {
      isLast = bits(1) == 1
      switch bits(2) {
      case 0: copyStored()
      case 1:
        let lengths = (0..<288).map { $0 < 144 ? 8 : $0 < 256 ? 9 : $0 < 280 ? 7 : 8 }
        try copyCoded(Code(lengths), Code([Int](repeating: 5, count: 30)))
      case 2:
        let (literals, distances) = try dynamicCodes()
        try copyCoded(literals, distances)
      default: throw FileError("a broken PNG")
      }
    }
    return output
  }

  private mutating func copyStored() {
    position = (position + 7) & ~7
    let size = bits(16)
    _ = bits(16)
    output += bytes[position >> 3..<(position >> 3) + size]
    position += size * 8
  }

  private mutating func dynamicCodes() throws -> (Code, Code) {
    let (numLiterals, numDistances, numLengths) = (bits(5) + 257, bits(5) + 1, bits(4) + 4)
    let order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]
    var lengths = [Int](repeating: 0, count: 19)
    for i in 0..<numLengths { lengths[order[i]] = bits(3) }
    let code = Code(lengths)
    var all: [Int] = []
    while all.count < numLiterals + numDistances {
      switch try symbol(code) {
      case 16: all += Array(repeating: all.last ?? 0, count: 3 + bits(2))
      case 17: all += Array(repeating: 0, count: 3 + bits(3))
      case 18: all += Array(repeating: 0, count: 11 + bits(7))
      case let length: all.append(length)
      }
    }
    return (Code(Array(all[..<numLiterals])), Code(Array(all[numLiterals...])))
  }

  private static let lengthStarts = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131,
    163, 195, 227, 258,
  ]
  private static let distanceStarts = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049,
    3073, 4097, 6145, 8193, 12289, 16385, 24577,
  ]

  private mutating func copyCoded(_ literals: Code, _ distances: Code) throws {
    while true {
      let value = try symbol(literals)
      if value < 256 {
        output.append(UInt8(value))
        continue
      }
      if value == 256 { return }
      let index = value - 257
      let extra = index < 8 || index == 28 ? 0 : (index - 4) / 4
      let length = Inflater.lengthStarts[index] + bits(extra)
      let far = try symbol(distances)
      let distance = Inflater.distanceStarts[far] + bits(far < 4 ? 0 : (far - 2) / 2)
      for _ in 0..<length { output.append(output[output.count - distance]) }
    }
  }
}
