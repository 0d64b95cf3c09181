import Foundation

/// What a photo's fourth value means for its colours.
public enum Alpha: String, Sendable {
  case none, straight, premultiplied
}

/// The colour space of a photo's values.
public enum Profile: String, Sendable {
  case srgb
  case displayP3 = "display-p3"
}

/// Pixels as a decoder gives them: not yet upright, alpha and profile not yet applied.
public struct Photo: Sendable {
  /// Three or four values of a pixel, one byte each; see `isBGR`.
  public var pixels: [UInt8]
  /// Stored size in pixels.
  public var width: Int
  public var height: Int
  /// Bytes from one pixel to the next: 3 or 4.
  public var pixelStride: Int
  /// Bytes from one row to the next.
  public var rowStride: Int
  public var alpha: Alpha
  /// EXIF's number, 1 to 8; another means 1.
  public var orientation: Int
  public var profile: Profile
  /// Whether blue comes first, as in 32BGRA pixel buffers, and red third.
  public var isBGR: Bool

  public init(
    pixels: [UInt8],
    width: Int,
    height: Int,
    pixelStride: Int = 4,
    rowStride: Int? = nil,
    alpha: Alpha = .none,
    orientation: Int = 1,
    profile: Profile = .srgb,
    isBGR: Bool = false
  ) {
    let rowStride = rowStride ?? width * pixelStride
    precondition(width > 0 && height > 0, "a photo of \(width) x \(height) pixels")
    precondition(pixelStride == 3 || pixelStride == 4, "\(pixelStride) bytes a pixel: 3 or 4")
    precondition(alpha == .none || pixelStride == 4, "alpha needs 4 bytes a pixel")
    precondition(
      rowStride >= width * pixelStride
        && pixels.count >= (height - 1) * rowStride + width * pixelStride,
      "\(pixels.count) bytes are too few for \(width) x \(height) pixels")
    self.pixels = pixels
    self.width = width
    self.height = height
    self.pixelStride = pixelStride
    self.rowStride = rowStride
    self.alpha = alpha
    self.orientation = orientation
    self.profile = profile
    self.isBGR = isBGR
  }

  /// Whether the stored width is the height of the upright photo.
  var isTurned: Bool { (5...8).contains(orientation) }
  var uprightWidth: Int { isTurned ? height : width }
  var uprightHeight: Int { isTurned ? width : height }
  var flipsColumns: Bool { [2, 3, 7, 8].contains(orientation) }
  var flipsRows: Bool { [3, 4, 6, 7].contains(orientation) }

  /// The same photo as opaque sRGB: the profile applied, then alpha laid over white.
  func flattened(fault: Fault?) -> Photo {
    let converts = profile == .displayP3 && fault != .p3AsSRGB
    if !converts && (alpha == .none || isOpaque) { return self }
    var rgb = [UInt8](repeating: 0, count: width * height * 3)
    var target = 0
    let red = isBGR ? 2 : 0
    for y in 0..<height {
      var source = y * rowStride
      for _ in 0..<width {
        var color = (
          Int32(pixels[source + red]), Int32(pixels[source + 1]), Int32(pixels[source + 2 - red])
        )
        if converts { color = DisplayP3.toSRGB(color) }
        if alpha != .none {
          let opacity = Int32(pixels[source + 3])
          color.0 = over(color.0, opacity, fault)
          color.1 = over(color.1, opacity, fault)
          color.2 = over(color.2, opacity, fault)
        }
        rgb[target] = UInt8(color.0)
        rgb[target + 1] = UInt8(color.1)
        rgb[target + 2] = UInt8(color.2)
        source += pixelStride
        target += 3
      }
    }
    return Photo(
      pixels: rgb, width: width, height: height, pixelStride: 3, orientation: orientation)
  }

  private var isOpaque: Bool {
    for y in 0..<height {
      var place = y * rowStride + 3
      for _ in 0..<width {
        if pixels[place] != 255 { return false }
        place += pixelStride
      }
    }
    return true
  }

  private func over(_ value: Int32, _ opacity: Int32, _ fault: Fault?) -> Int32 {
    if fault == .alphaPremultiplied {
      return alpha == .premultiplied ? value : (value * opacity * 2 + 255) / 510
    }
    if alpha == .premultiplied { return min(255, value + 255 - opacity) }
    // Rounded division by 255 with 7 more bits, as Pillow lays alpha over white.
    let sum = 128 * (value * opacity + 255 * (255 - opacity)) + (128 << 7)
    return (((sum >> 8) + sum) >> 8) >> 7
  }
}

/// Display P3 to sRGB in whole numbers: step 2 of edgeseed's docs/preprocessing.md.
enum DisplayP3 {
  private static let largest: Int32 = 65535

  private static func light(_ value: Double) -> Double {
    value <= 0.04045 ? value / 12.92 : pow((value + 0.055) / 1.055, 2.4)
  }

  private static let linear: [Int32] = (0..<256).map {
    Int32(Double(largest) * light(Double($0) / 255) + 0.5)
  }

  private static let encoded: [UInt8] = {
    var value = 0
    return (0...Int(largest)).map { x in
      while value < 255 && Double(largest) * light((Double(value) + 0.5) / 255) <= Double(x) {
        value += 1
      }
      return UInt8(value)
    }
  }()

  static func toSRGB(_ color: (Int32, Int32, Int32)) -> (Int32, Int32, Int32) {
    let (r, g, b) = (linear[Int(color.0)], linear[Int(color.1)], linear[Int(color.2)])
    return (
      encode(20070 * r - 3686 * g),
      encode(-689 * r + 17073 * g),
      encode(-322 * r - 1288 * g + 17994 * b)
    )
  }

  private static func encode(_ sum: Int32) -> Int32 {
    Int32(encoded[Int(min(max((sum + 8192) >> 14, 0), largest))])
  }
}
