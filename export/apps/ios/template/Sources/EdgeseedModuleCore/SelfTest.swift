import Foundation

/// What the golden photos and the conformance set showed.
public struct SelfTestReport: CustomStringConvertible, Sendable {
  /// What is wrong, a line each.
  public let problems: [String]
  public let numPhotos: Int
  /// Of any golden photo's input, in levels of 0 to 255.
  public let largestInputDifference: Float
  /// Largest error of each output over the largest value of its photo.
  public let relativeErrors: [String: Double]
  /// The most that each of these may be.
  public let tolerance: Double

  /// Whether preprocessing and model do in this app what they did at the export.
  public var passed: Bool { problems.isEmpty }

  public var description: String {
    if !passed { return "self-test FAILED: " + problems.joined(separator: "; ") }
    return
      "self-test passed: \(numPhotos) golden photos, inputs equal, outputs \(relativeErrors)"
  }
}

private struct GoldenDescription: Decodable {
  var photos: [String]
  var inputs: String
  var outputs: [String: String]
  var tolerance: Double
}

/// Runs the golden photos from their PNG files to the model's outputs, and the conformance set from
/// its files to inputs: golden photos that are all grey would not show channels in a wrong order.
///
/// - Parameters:
///   - readAsset: The content of a file by its path among the module's resources.
///   - decode: A file as the app decodes photos.
///   - tensor: A photo's input as the app makes it.
///   - run: The outputs, by name, of one photo's input (R, G, B of each pixel, row by row).
public func selfTest(
  preprocess: Preprocess,
  readAsset: @escaping (String) throws -> Data,
  decode: (Data) throws -> Photo,
  tensor: (Photo, Preprocess) -> [Float] = { $1.tensor($0) },
  run: ([UInt8]) throws -> [String: [Float]]
) throws -> SelfTestReport {
  let text = try readAsset("golden/golden.json")
  let golden = try JSONDecoder().decode(GoldenDescription.self, from: text)
  let inputs = try NumpyArray(readAsset("golden/\(golden.inputs)")).bytes
  let outputs = try golden.outputs.mapValues { try NumpyArray(readAsset("golden/\($0)")).floats }
  let size = inputs.count / golden.photos.count
  var problems: [String] = []
  var errors: [String: Double] = [:]
  var largest: Float = 0
  for (i, name) in golden.photos.enumerated() {
    let photo = try decode(readAsset("golden/\(name)"))
    let planes = Array(inputs[i * size..<(i + 1) * size])
    let expected = planes.map { Float($0) }
    let found = tensor(photo, preprocess)
    if found != expected {
      largest = max(largest, largestDifference(expected, found))
      problems.append("\(name): \(explain(photo, preprocess, found: found, expected: expected))")
    }
    // The model gets the right input in any case: so its own mistakes are told apart.
    let channels = preprocess.channels
    let area = size / channels
    let square = (0..<size).map { planes[$0 % channels * area + $0 / channels] }
    for (output, values) in try run(square) {
      guard let all = outputs[output] else { continue }
      let width = all.count / golden.photos.count
      let error = relativeError(values, Array(all[i * width..<(i + 1) * width]))
      errors[output] = max(errors[output] ?? 0, error)
      // Written this way round so that NaN fails.
      if !(error <= golden.tolerance) {
        problems.append(
          "\(name): output \(output) is off by \(error) (\(golden.tolerance) allowed)")
      }
    }
  }
  let set = try Conformance { try readAsset("conformance/\($0)") }
  problems += try set.checkPlatform(decode: decode, tensor: tensor)
  for name in outputs.keys.sorted() where errors[name] == nil {
    problems.append("the model has no output \(name)")
  }
  return SelfTestReport(
    problems: problems, numPhotos: golden.photos.count, largestInputDifference: largest,
    relativeErrors: errors, tolerance: golden.tolerance)
}

private func explain(
  _ photo: Photo, _ preprocess: Preprocess, found: [Float], expected: [Float]
) -> String {
  let own = preprocess.tensor(photo)
  if own == expected, let diagnosis = diagnose(photo, preprocess: preprocess, found: found) {
    return diagnosis.description
  }
  return "decoded pixels give an input that is off by up to \(largestDifference(expected, own)) "
    + "levels: the PNG was decoded otherwise than it is stored (colour management, scaling, or a "
    + "lossy copy?)"
}

private func relativeError(_ found: [Float], _ expected: [Float]) -> Double {
  if found.count != expected.count { return .infinity }
  let scale = expected.reduce(0) { max($0, abs(Double($1))) }
  var largest = 0.0
  for (a, b) in zip(found, expected) {
    let difference = abs(Double(a) - Double(b))
    if difference.isNaN { return .nan }
    largest = max(largest, difference)
  }
  return largest / max(scale, 1e-12)
}
