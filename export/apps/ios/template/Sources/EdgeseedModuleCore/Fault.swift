/// Mistakes that cost accuracy without an error: edgeseed's docs/preprocessing.md has their names.
public enum Fault: String, CaseIterable, Sendable {
  case bgr
  case noAntialias = "no-antialias"
  case halfPixelShift = "half-pixel-shift"
  case cropOffByOne = "crop-off-by-one"
  case orientationIgnored = "orientation-ignored"
  case alphaPremultiplied = "alpha-premultiplied"
  case p3AsSRGB = "p3-as-srgb"
  case scaled
  case nhwc
  case floatRounding = "float-rounding"

  /// The mistake in words.
  public var cause: String {
    switch self {
    case .bgr: return "the channels are in the order blue, green, red"
    case .noAntialias: return "the photo was resized without antialiasing"
    case .halfPixelShift:
      return "the resize puts pixel centres on whole numbers: half a pixel off"
    case .cropOffByOne: return "the square is cut out one pixel further right and down"
    case .orientationIgnored: return "the EXIF orientation was not applied"
    case .alphaPremultiplied:
      return "colours multiplied by alpha were taken as they are, over black"
    case .p3AsSRGB: return "Display P3 values were taken for sRGB"
    case .scaled:
      return "the pixels were scaled or normalised before the model, which does that itself"
    case .nhwc: return "the tensor is in the order height, width, channels"
    case .floatRounding:
      return "the resize rounds once at its end instead of after each of its two passes"
    }
  }
}

/// What probably went wrong where a tensor is not what it should be.
public struct Diagnosis: CustomStringConvertible, Sendable {
  /// Nil if none of the known mistakes explains it.
  public let fault: Fault?
  /// Of the tensor from the right one, in levels.
  public let largestDifference: Float

  public var description: String {
    let found = "the input differs from the expected one by up to \(largestDifference) levels"
    guard let fault else { return "\(found); no known mistake explains it" }
    return "\(found); likely cause: \(fault.cause) (\(fault.rawValue))"
  }
}

/// Explains a wrong input by the mistake that gives the same, or one at most half as far away.
///
/// - Returns: Nil if the tensor is right.
public func diagnose(_ photo: Photo, preprocess: Preprocess, found: [Float]) -> Diagnosis? {
  let right = preprocess.tensor(photo)
  let largest = largestDifference(right, found)
  if largest == 0 { return nil }
  let fault = nearestFault(photo, preprocess: preprocess, found: found, right: right)
  return Diagnosis(fault: fault, largestDifference: largest)
}

func nearestFault(_ photo: Photo, preprocess: Preprocess, found: [Float], right: [Float]) -> Fault?
{
  var nearest: (fault: Fault, distance: Double)?
  for fault in Fault.allCases {
    let distance = meanDifference(preprocess.tensor(photo, fault: fault), found)
    if distance < nearest?.distance ?? .infinity { nearest = (fault, distance) }
  }
  guard let nearest, nearest.distance < 0.5 * meanDifference(right, found) else { return nil }
  return nearest.fault
}

func largestDifference(_ a: [Float], _ b: [Float]) -> Float {
  precondition(a.count == b.count, "a tensor of \(b.count) values, expected \(a.count)")
  return zip(a, b).reduce(0) { max($0, abs($1.0 - $1.1)) }
}

private func meanDifference(_ a: [Float], _ b: [Float]) -> Double {
  zip(a, b).reduce(0) { $0 + Double(abs($1.0 - $1.1)) } / Double(a.count)
}
