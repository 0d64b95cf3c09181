import Foundation

/// What a gallery says of one photo.
public struct Match: Equatable, Sendable {
  /// Of the class with the most votes; nil where the gallery is empty.
  public let label: String?
  public let index: Int?
  /// Largest cosine with any entry, -1 to 1.
  public let similarity: Double
  /// Of the votes, those of the class, 0 to 1.
  public let share: Double
  /// Whether the similarity reaches the gallery's threshold.
  public let recognised: Bool
}

/// Labelled embeddings that photos are recognised by.
///
/// `edgeseed gallery` writes them, and an app adds its own. The format and the rule of decision are
/// in edgeseed's export/apps/gallery.py.
public struct Gallery: Sendable {
  public let embeddingDim: Int
  /// The student whose embeddings these are; others mean nothing beside them.
  public let studentSHA256: String
  /// Least similarity of what is recognised.
  public var threshold: Double
  public let k: Int
  public let temperature: Double
  /// Class names, in the order in which they were first added.
  public private(set) var classes: [String] = []
  private var indices: [Int] = []
  private var embeddings: [[Float]] = []

  /// Number of entries.
  public var count: Int { indices.count }

  public init(
    embeddingDim: Int, studentSHA256: String, threshold: Double, k: Int = 5,
    temperature: Double = 0.07
  ) {
    self.embeddingDim = embeddingDim
    self.studentSHA256 = studentSHA256
    self.threshold = threshold
    self.k = k
    self.temperature = temperature
  }

  /// Adds a photo of a class, which may be new: a handful are enough.
  ///
  /// - Throws: `FileError` if the embedding is of another length, or all zeros.
  public mutating func add(_ label: String, embedding: [Float]) throws {
    guard embedding.count == embeddingDim, let unit = Gallery.unit(embedding) else {
      throw FileError("an embedding of \(embedding.count) values, or of zeros")
    }
    if !classes.contains(label) { classes.append(label) }
    indices.append(classes.firstIndex(of: label) ?? 0)
    embeddings.append(unit.map { Float($0) })
  }

  /// Removes all entries of a class; its name keeps its place.
  public mutating func remove(_ label: String) {
    let kept = indices.indices.filter { classes[indices[$0]] != label }
    (indices, embeddings) = (kept.map { indices[$0] }, kept.map { embeddings[$0] })
  }

  /// Recognises a photo by its embedding.
  public func classify(_ embedding: [Float]) -> Match {
    precondition(embedding.count == embeddingDim, "an embedding of \(embedding.count) values")
    guard count > 0, let query = Gallery.unit(embedding) else {
      return Match(label: nil, index: nil, similarity: 0, share: 0, recognised: false)
    }
    let cosines = embeddings.map { entry in
      zip(entry, query).reduce(0.0) { $0 + Double($1.0) * $1.1 }
    }
    let nearest = order(cosines).prefix(k)
    let best = cosines[nearest[0]]
    var votes = [Double](repeating: 0, count: classes.count)
    for entry in nearest {
      votes[indices[entry]] += exp((cosines[entry] - best) / temperature)
    }
    let winner = order(votes)[0]
    return Match(
      label: classes[winner], index: winner, similarity: best,
      share: votes[winner] / votes.reduce(0, +), recognised: best >= threshold)
  }

  private static func unit(_ embedding: [Float]) -> [Double]? {
    let length = embedding.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
    return length > 0 ? embedding.map { Double($0) / length } : nil
  }

  private struct Description: Codable {
    var schemaVersion: Int
    var embeddingDim: Int
    var numEntries: Int
    var classes: [String]
    var k: Int
    var temperature: Double
    var threshold: Double
    var studentSha256: String
  }

  private static let magic = [UInt8]("EDGEGAL1".utf8)

  /// Reads the content of a `gallery.bin`.
  ///
  /// - Throws: `FileError` if it is no gallery, not whole, or of a newer version.
  public init(_ file: Data) throws {
    let bytes = [UInt8](file)
    guard bytes.count > 12, Array(bytes[..<8]) == Gallery.magic else {
      throw FileError("not a gallery")
    }
    let start = 12 + Int(readWords(bytes[8..<12])[0])
    guard start <= bytes.count else { throw FileError("a gallery that is not whole") }
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    let values = try decoder.decode(Description.self, from: Data(bytes[12..<start]))
    guard values.schemaVersion == 1 else {
      throw FileError("a gallery of version \(values.schemaVersion), this module reads 1")
    }
    self.init(
      embeddingDim: values.embeddingDim, studentSHA256: values.studentSha256,
      threshold: values.threshold, k: values.k, temperature: values.temperature)
    classes = values.classes
    let count = values.numEntries
    guard bytes.count == start + 4 * count * (1 + embeddingDim) else {
      throw FileError("a gallery that is not whole")
    }
    indices = readWords(bytes[start..<start + 4 * count]).map { Int($0) }
    guard indices.allSatisfy({ $0 < classes.count }) else {
      throw FileError("a gallery with entries of no class")
    }
    let floats = readFloats(bytes[(start + 4 * count)...])
    embeddings = (0..<count).map { Array(floats[$0 * embeddingDim..<($0 + 1) * embeddingDim]) }
  }

  /// The gallery as the content of a file that `init` and `edgeseed` take.
  public func data() throws -> Data {
    let description = Description(
      schemaVersion: 1, embeddingDim: embeddingDim, numEntries: count, classes: classes, k: k,
      temperature: temperature, threshold: threshold, studentSha256: studentSHA256)
    let encoder = JSONEncoder()
    encoder.outputFormatting = .sortedKeys
    encoder.keyEncodingStrategy = .convertToSnakeCase
    var text = [UInt8](try encoder.encode(description))
    text += [UInt8](repeating: 32, count: (4 - text.count % 4) % 4)
    var bytes = Gallery.magic + littleEndian(UInt32(text.count)) + text
    for index in indices { bytes += littleEndian(UInt32(index)) }
    for entry in embeddings { for value in entry { bytes += littleEndian(value.bitPattern) } }
    return Data(bytes)
  }
}
