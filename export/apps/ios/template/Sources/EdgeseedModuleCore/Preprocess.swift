import Foundation

/// The filter of a resize.
public enum Interpolation: String, Sendable {
  case nearest, bilinear, bicubic
}

/// From a photo to the model's input, byte for byte as edgeseed computes it in Python.
///
/// The steps and their rounding are specified in edgeseed's docs/preprocessing.md.
public struct Preprocess: Sendable {
  /// Height and width of the input in pixels.
  public let imageSize: Int
  /// Shorter side after the resize; at least `imageSize`.
  public let resize: Int
  public let interpolation: Interpolation
  let mean: [Float]
  let std: [Float]

  public init(
    imageSize: Int,
    resize: Int,
    interpolation: Interpolation = .bilinear,
    mean: [Float] = [0.485, 0.456, 0.406],
    std: [Float] = [0.229, 0.224, 0.225]
  ) {
    precondition(imageSize >= 1 && resize >= imageSize, "imageSize \(imageSize), resize \(resize)")
    self.imageSize = imageSize
    self.resize = resize
    self.interpolation = interpolation
    self.mean = mean
    self.std = std
  }

  /// The pixels that the model gets, as R, G, B of each pixel, row by row.
  public func square(_ photo: Photo) -> [UInt8] { square(photo, fault: nil) }

  /// The same as planes: all red values row by row, then green, then blue.
  public func planes(_ photo: Photo) -> [UInt8] {
    let square = square(photo)
    let size = imageSize * imageSize
    return (0..<3 * size).map { square[$0 % size * 3 + $0 / size] }
  }

  /// What an app gets that makes a mistake; nil makes none. For tests and `diagnose`.
  public func tensor(_ photo: Photo, fault: Fault? = nil) -> [Float] {
    let square = square(photo, fault: fault)
    let size = imageSize * imageSize
    return (0..<3 * size).map { i in
      let channel = fault == .nhwc ? i % 3 : i / size
      let place = fault == .nhwc ? i / 3 : i % size
      let value = Float(square[place * 3 + (fault == .bgr ? 2 - channel : channel)])
      return fault == .scaled ? (value / 255 - mean[channel]) / std[channel] : value
    }
  }

  private func square(_ stored: Photo, fault: Fault?) -> [UInt8] {
    var photo = stored.flattened(fault: fault)
    if fault == .orientationIgnored { photo.orientation = 1 }
    let (width, height) = (photo.uprightWidth, photo.uprightHeight)
    let scale = Double(resize) / Double(min(width, height))
    let newWidth = max(imageSize, Int((Double(width) * scale + 0.5).rounded(.down)))
    let newHeight = max(imageSize, Int((Double(height) * scale + 0.5).rounded(.down)))
    var left = (newWidth - imageSize) / 2
    var top = (newHeight - imageSize) / 2
    if fault == .cropOffByOne {
      left = min(left + 1, newWidth - imageSize)
      top = min(top + 1, newHeight - imageSize)
    }
    let columns = Window(
      old: width, new: newWidth, start: left, count: imageSize, interpolation: interpolation,
      fault: fault)
    let rows = Window(
      old: height, new: newHeight, start: top, count: imageSize, interpolation: interpolation,
      fault: fault)
    if fault == .floatRounding { return resampleInDoubles(photo, columns: columns, rows: rows) }
    return resample(photo, columns: columns, rows: rows)
  }
}
