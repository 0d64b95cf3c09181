import Foundation

/// The conformance set that travels with the module: photos, and the bytes they must become.
public struct Conformance {
  private struct Description: Decodable {
    var photos: [Case]
    var files: [Case]
    var frames: [Case]
    var gallery: GalleryCase
  }

  private struct Sizes: Decodable {
    var imageSize: Int
    var resize: Int
    var interpolation: String
    var width: Int?
    var channels: Int?
  }

  private struct Case: Decodable {
    var name: String
    var file: String
    var preprocess: Sizes
    var expected: String
    var alpha: String?
    var orientation: Int?
    var profile: String?
    var onPlatform: Bool?
    var platformTolerance: Int?
    var catches: [String]?
    var width: Int?
    var height: Int?
    var matrix: String?
    var range: String?
    var rotation: Int?

    var sizes: Preprocess {
      Preprocess(
        imageSize: preprocess.imageSize, resize: preprocess.resize,
        interpolation: Interpolation(rawValue: preprocess.interpolation) ?? .bilinear,
        width: preprocess.width, channels: preprocess.channels ?? 3)
    }
  }

  private struct GalleryCase: Decodable {
    struct Answer: Decodable {
      var index: Int?
      var similarity: Double
      var share: Double
      var recognised: Bool
    }
    var file: String
    var queries: String
    var classes: [String]
    var answers: [Answer]
  }

  private let read: (String) throws -> Data
  private let description: Description

  /// - Parameter read: The content of a file by its path in the set.
  public init(read: @escaping (String) throws -> Data) throws {
    self.read = read
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    description = try decoder.decode(Description.self, from: read("conformance.json"))
  }

  /// Checks the core: pixels as stored, the specified steps, and every byte equal.
  ///
  /// - Parameter decode: A lossless PNG as stored pixels, without colour management.
  /// - Returns: What is wrong, a line each; empty if all is right.
  public func checkCore(decode: (Data) throws -> Photo) throws -> [String] {
    var problems: [String] = []
    for item in description.photos {
      let photo = declared(item, try decode(read(item.file)))
      problems += try describeDifference(item, found: item.sizes.planes(photo))
    }
    for item in description.frames {
      problems += try describeDifference(item, found: item.sizes.planes(frame(item)))
    }
    return problems + (try checkGallery())
  }

  /// Checks an app's way from a file to the model's input, within the levels that the set allows a
  /// platform's decoder, and names the likely cause where it is wrong.
  public func checkPlatform(
    decode: (Data) throws -> Photo,
    tensor: (Photo, Preprocess) -> [Float] = { $1.tensor($0) }
  ) throws -> [String] {
    var problems: [String] = []
    // The photos' orientation stands beside them, not in the file.
    let photos = description.photos.filter { $0.onPlatform != false && $0.orientation == 1 }
    for item in photos + description.files {
      let photo = try decode(read(item.file))
      let found = tensor(photo, item.sizes)
      let expected = try NumpyArray(read(item.expected)).bytes.map { Float($0) }
      let largest = largestDifference(expected, found)
      if largest <= Float(item.platformTolerance ?? 0) { continue }
      let fault = nearestFault(
        declared(item, photo), preprocess: item.sizes, found: found, right: expected)
      problems.append("\(item.name): \(Diagnosis(fault: fault, largestDifference: largest))")
    }
    return problems
  }

  /// Checks that each fault changes the photos that it is said to change, and is named from them.
  public func checkFaults(decode: (Data) throws -> Photo) throws -> [String] {
    var problems: [String] = []
    var caught: Set<Fault> = []
    for item in description.photos {
      let photo = declared(item, try decode(read(item.file)))
      // Ten wrong ways through twelve megapixels show no more than through the small photos.
      if photo.width * photo.height > 1_000_000 { continue }
      let right = item.sizes.tensor(photo)
      for fault in Fault.allCases {
        let wrong = item.sizes.tensor(photo, fault: fault)
        let isSaidTo = (item.catches ?? []).contains(fault.rawValue)
        if (wrong != right) != isSaidTo {
          problems.append("\(item.name): \(fault.rawValue) changes it: \(wrong != right)")
        }
        if wrong == right { continue }
        let named = diagnose(photo, preprocess: item.sizes, found: wrong)?.fault
        if let named, item.sizes.tensor(photo, fault: named) == wrong {
          caught.insert(fault)
        } else {
          problems.append(
            "\(item.name): \(fault.rawValue) is taken for \(String(describing: named))")
        }
      }
    }
    for fault in Fault.allCases where !caught.contains(fault) {
      problems.append("no photo catches \(fault.rawValue)")
    }
    return problems
  }

  private func checkGallery() throws -> [String] {
    let item = description.gallery
    let gallery = try Gallery(read(item.file))
    let queries = try NumpyArray(read(item.queries)).floats
    var problems: [String] = []
    if gallery.classes != item.classes { problems.append("gallery: classes \(gallery.classes)") }
    if try Gallery(gallery.data()).data() != gallery.data() {
      problems.append("gallery: not the same after writing and reading")
    }
    for (i, expected) in item.answers.enumerated() {
      let from = i * gallery.embeddingDim
      let found = gallery.classify(Array(queries[from..<from + gallery.embeddingDim]))
      if found.index != expected.index || found.recognised != expected.recognised
        || abs(found.similarity - expected.similarity) > 1e-9
        || abs(found.share - expected.share) > 1e-9
      {
        problems.append("gallery: query \(i) gives \(found), expected \(expected)")
      }
    }
    return problems
  }

  /// The pixels as the set says that they are to be taken, whatever the decoder said.
  private func declared(_ item: Case, _ photo: Photo) -> Photo {
    var photo = photo
    photo.alpha = Alpha(rawValue: item.alpha ?? "none") ?? .none
    photo.orientation = item.orientation ?? 1
    photo.profile = Profile(rawValue: item.profile ?? "srgb") ?? .srgb
    return photo
  }

  private func frame(_ item: Case) throws -> Photo {
    let (width, height) = (item.width ?? 0, item.height ?? 0)
    let bytes = [UInt8](try read(item.file))
    let half = (width + 1) / 2
    let uAt = width * height
    let frame = YUVFrame(
      width: width, height: height,
      y: Plane(bytes: bytes, rowStride: width),
      u: Plane(bytes: bytes, rowStride: half, offset: uAt),
      v: Plane(bytes: bytes, rowStride: half, offset: uAt + half * ((height + 1) / 2)),
      matrix: YUVMatrix(rawValue: item.matrix ?? "") ?? .bt601,
      range: YUVRange(rawValue: item.range ?? "") ?? .full)
    return frame.photo(orientation: [0: 1, 90: 6, 180: 3, 270: 8][item.rotation ?? 0] ?? 1)
  }

  private func describeDifference(_ item: Case, found: [UInt8]) throws -> [String] {
    let expected = try NumpyArray(read(item.expected)).bytes
    if expected == found { return [] }
    let wrong = zip(expected, found).filter { $0 != $1 }.count
    return ["\(item.name): \(wrong) of \(found.count) values are not Python's"]
  }
}
