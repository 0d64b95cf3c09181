import Foundation
import XCTest

@testable import EdgeseedModule
@testable import EdgeseedModuleCore

/// The platform-free core, on Linux as well as on Apple's systems: `swift test`.
final class CoreTests: XCTestCase {
  /// Photos only: JPEG files need a decoder of the platform.
  private func set() throws -> Conformance {
    try Conformance { try Resources.read("conformance/\($0)") }
  }

  /// What the export says the model answers: stands in for the model, which only Apple runs.
  private func goldenOutputs() throws -> ([UInt8]) throws -> [String: [Float]] {
    var next = 0
    var arrays: [String: NumpyArray] = [:]
    for name in ModelInfo.outputs {
      arrays[name] = try NumpyArray(Resources.read("golden/\(name).npy"))
    }
    return { _ in
      defer { next += 1 }
      return arrays.mapValues { array in
        let width = array.shape[1]
        return Array(array.floats[next * width..<(next + 1) * width])
      }
    }
  }

  private func report(
    decode: @escaping (Data) throws -> Photo = decodeFile,
    fault: Fault? = nil,
    factor: Float = 1
  ) throws -> SelfTestReport {
    let golden = try goldenOutputs()
    return try selfTest(
      preprocess: ModelInfo.preprocess,
      readAsset: Resources.read,
      decode: decode,
      tensor: { photo, sizes in sizes.tensor(photo, fault: fault) },
      run: { input in try golden(input).mapValues { values in values.map { $0 * factor } } })
  }

  func testEveryPhotoOfTheConformanceSetGivesTheBytesOfPython() throws {
    XCTAssertEqual(try set().checkCore(decode: decodeFile), [])
  }

  func testEveryKnownMistakeChangesTheSetAndIsNamed() throws {
    XCTAssertEqual(try set().checkFaults(decode: decodeFile), [])
  }

  func testTheSelfTestPassesOnGoldenPhotosAndConformanceSet() throws {
    let found = try report()
    XCTAssertTrue(found.passed, found.description)
    XCTAssertGreaterThan(found.numPhotos, 0)
  }

  func testTheSelfTestNamesEachPlantedMistake() throws {
    for fault in Fault.allCases {
      let found = try report(
        decode: { file in
          // A decoder that drops what it should say of the pixels.
          var photo = try decodeFile(file)
          if fault == .orientationIgnored { photo.orientation = 1 }
          if fault == .p3AsSRGB { photo.profile = .srgb }
          return photo
        },
        fault: fault)
      XCTAssertFalse(found.passed, fault.rawValue)
      XCTAssertTrue(found.description.contains("(\(fault.rawValue))"), "\(fault): \(found)")
    }
  }

  func testWrongOutputsFailTheSelfTest() throws {
    let found = try report(factor: 1.2)
    XCTAssertFalse(found.passed)
    XCTAssertEqual(found.largestInputDifference, 0)
  }

  func testTheMostProbableClassesComeFirst() {
    let found = topK([1, 3, 3, -1], labels: ["a", "b", "c", "d"], k: 3)
    XCTAssertEqual(found.map(\.label), ["b", "c", "a"])
    XCTAssertEqual(found[0].probability, 0.4642, accuracy: 1e-3)
  }

  func testAGalleryLearnsAClassOnTheDevice() throws {
    var gallery = Gallery(embeddingDim: 2, studentSHA256: "", threshold: 0.9)
    XCTAssertNil(gallery.classify([1, 0]).label)
    try gallery.add("right", embedding: [2, 0])
    try gallery.add("up", embedding: [0, 3])
    let read = try Gallery(gallery.data())
    XCTAssertEqual(read.classify([5, 1]).label, "right")
    XCTAssertTrue(read.classify([5, 1]).recognised)
    XCTAssertFalse(read.classify([1, 1]).recognised)
    XCTAssertThrowsError(try gallery.add("none", embedding: [0, 0]))
    XCTAssertThrowsError(try Gallery(gallery.data().dropLast()))
  }

  func testLabelsAreThoseOfTheModel() throws {
    XCTAssertEqual(try Resources.labels().count, ModelInfo.numClasses)
  }

  func testAMeasurementMeetsBothMinimaOfItsProtocol() throws {
    var now: Int64 = 0
    let timings = EdgeseedModuleCore.measure(
      .rapid, clock: { now }, cpuClock: { now / 2 }, run: { now += 10_000_000 })
    XCTAssertTrue(timings.steady)
    XCTAssertEqual(timings.samplesNs.count, 600)
    XCTAssertEqual(timings.elapsedNs, 6_000_000_000)
    XCTAssertEqual(timings.cpuNs, 3_000_000_000)
    let report = SelfTestReport(
      problems: [], numPhotos: 4, largestInputDifference: 0, relativeErrors: ["embedding": 1e-6],
      tolerance: 1e-3)
    let facts = DeviceFacts(
      model: "a \"quoted\" phone", architecture: "arm64", system: "17.0", cores: 6, memoryMiB: 6000,
      units: "all", residentMiB: nil, before: ["thermal state": "0"], after: [:],
      limitations: ["a fake"])
    let data = try measurementJSON(
      bundleDigest: "ab", rules: .rapid, device: facts, report: report, loadNs: 5, firstRunNs: 7,
      timings: timings)
    XCTAssertTrue(String(decoding: data, as: UTF8.self).contains("\"min_runs\":64"))
    if let path = ProcessInfo.processInfo.environment["EDGESEED_MEASUREMENT"] {
      try data.write(to: URL(fileURLWithPath: path))
    }
  }
}

/// A file of the set as an app would decode it. Without a JPEG decoder, four flat colours stand in
/// for the JPEG files, turned as their EXIF says.
private func decodeFile(_ file: Data) throws -> Photo {
  if let known = decoded[file] { return known }
  let photo = try decodeAnew(file)
  decoded[file] = photo
  return photo
}

/// Twelve megapixels take a while without optimisation; tests run one after the other.
nonisolated(unsafe) private var decoded: [Data: Photo] = [:]

private func decodeAnew(_ file: Data) throws -> Photo {
  if file.first != 0xFF { return try decodePNG(file) }
  let colors: [[UInt8]] = [[220, 40, 40], [40, 200, 60], [50, 60, 220], [230, 220, 60]]
  var pixels: [UInt8] = []
  for y in 0..<64 { for x in 0..<96 { pixels += colors[y / 32 * 2 + x / 48] } }
  let tag = try XCTUnwrap(file.range(of: Data([1, 0x12, 0, 3, 0, 0, 0, 1, 0])))
  return Photo(
    pixels: pixels, width: 96, height: 64, pixelStride: 3, orientation: Int(file[tag.upperBound]))
}
