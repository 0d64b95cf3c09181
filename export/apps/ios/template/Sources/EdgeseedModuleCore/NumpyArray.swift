import Foundation

/// A file of the module that is not what it should be.
public struct FileError: Error, CustomStringConvertible {
  public let description: String

  public init(_ description: String) { self.description = description }
}

/// An array of a NumPy `.npy` file: bytes or 32-bit floats, row by row.
public struct NumpyArray: Sendable {
  /// Sizes, outermost first.
  public let shape: [Int]
  private let isFloat: Bool
  private let content: [UInt8]

  /// Reads the whole content of a `.npy` file.
  public init(_ file: Data) throws {
    let bytes = [UInt8](file)
    guard bytes.count > 10, bytes[0] == 0x93 else { throw FileError("not a .npy file") }
    let start = 10 + Int(bytes[8]) + 256 * Int(bytes[9])
    guard bytes.count >= start else { throw FileError("a .npy file that is not whole") }
    let header = String(decoding: bytes[10..<start], as: UTF8.self)
    guard let type = NumpyArray.text(in: header, after: "'descr': '", until: "'"),
      type == "|u1" || type == "<f4", header.contains("'fortran_order': False"),
      let sizes = NumpyArray.text(in: header, after: "'shape': (", until: ")")
    else { throw FileError("a .npy file of another kind: \(header)") }
    shape = sizes.split(separator: ",").compactMap { Int($0.filter { $0 != " " }) }
    isFloat = type == "<f4"
    content = Array(bytes[start...])
    guard content.count == shape.reduce(isFloat ? 4 : 1, *) else {
      throw FileError("a .npy file that is not whole")
    }
  }

  /// All values as bytes; only for arrays of bytes.
  public var bytes: [UInt8] {
    precondition(!isFloat, "the array holds floats")
    return content
  }

  /// All values as floats; only for arrays of floats.
  public var floats: [Float] {
    precondition(isFloat, "the array holds bytes")
    return readFloats(content[...])
  }

  private static func text(in header: String, after start: String, until end: String) -> String? {
    guard let from = header.range(of: start)?.upperBound,
      let to = header.range(of: end, range: from..<header.endIndex)?.lowerBound
    else { return nil }
    return String(header[from..<to])
  }
}

/// Little-endian 32-bit words.
func readWords(_ bytes: ArraySlice<UInt8>) -> [UInt32] {
  stride(from: bytes.startIndex, to: bytes.endIndex - 3, by: 4).map { i in
    UInt32(bytes[i]) | UInt32(bytes[i + 1]) << 8 | UInt32(bytes[i + 2]) << 16
      | UInt32(bytes[i + 3]) << 24
  }
}

func readFloats(_ bytes: ArraySlice<UInt8>) -> [Float] {
  readWords(bytes).map { Float(bitPattern: $0) }
}

func littleEndian(_ word: UInt32) -> [UInt8] {
  (0..<4).map { UInt8(truncatingIfNeeded: word >> (8 * UInt32($0))) }
}
