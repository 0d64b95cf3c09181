import Foundation

/// The filter of a resize.
public enum Interpolation: String, Sendable {
  case nearest, bilinear, bicubic
}

/// From a photo to the model's input, byte for byte as edgeseed computes it in Python.
///
/// The steps and their rounding are specified in edgeseed's docs/preprocessing.md.
public struct Preprocess: Sendable {
  /// Height of the input in pixels.
  public let imageSize: Int
  /// Width of the input in pixels.
  public let width: Int
  /// Of the input: 3 for RGB, 1 for grey.
  public let channels: Int
  /// Height of the box that the resized photo covers: of a square, the shorter side.
  public let resize: Int
  public let interpolation: Interpolation
  let mean: [Float]
  let std: [Float]

  public init(
    imageSize: Int,
    resize: Int,
    interpolation: Interpolation = .bilinear,
    mean: [Float] = [0.485, 0.456, 0.406],
    std: [Float] = [0.229, 0.224, 0.225],
    width: Int? = nil,
    channels: Int = 3
  ) {
    precondition(imageSize >= 1 && resize >= imageSize, "imageSize \(imageSize), resize \(resize)")
    self.imageSize = imageSize
    self.width = width ?? imageSize
    self.channels = channels
    self.resize = resize
    self.interpolation = interpolation
    self.mean = mean
    self.std = std
  }

  /// The pixels that the model gets, as R, G, B of each pixel or its grey, row by row.
  public func pixels(_ photo: Photo) -> [UInt8] {
    let box = box(photo, fault: nil)
    if channels == 3 { return box }
    return (0..<imageSize * width).map { UInt8(value(box, $0, 0, isSwapped: false)) }
  }

  /// The same as planes: all red values row by row, then green, then blue; or grey.
  public func planes(_ photo: Photo) -> [UInt8] {
    let pixels = pixels(photo)
    let size = imageSize * width
    return (0..<channels * size).map { pixels[$0 % size * channels + $0 / size] }
  }

  /// What an app gets that makes a mistake; nil makes none. For tests and `diagnose`.
  public func tensor(_ photo: Photo, fault: Fault? = nil) -> [Float] {
    let box = box(photo, fault: fault)
    let size = imageSize * width
    return (0..<channels * size).map { i in
      let channel = fault == .nhwc ? i % channels : i / size
      let place = fault == .nhwc ? i / channels : i % size
      let value = Float(value(box, place, channel, isSwapped: fault == .bgr))
      return fault == .scaled ? (value / 255 - mean[channel]) / std[channel] : value
    }
  }

  private func value(_ box: [UInt8], _ place: Int, _ channel: Int, isSwapped: Bool) -> Int {
    func at(_ c: Int) -> Int { Int(box[place * 3 + (isSwapped ? 2 - c : c)]) }
    // ITU-R 601 in whole numbers.
    if channels == 1 { return (19595 * at(0) + 38470 * at(1) + 7471 * at(2) + 32768) >> 16 }
    return at(channel)
  }

  private func scale(_ photoWidth: Int, _ photoHeight: Int) -> Double {
    if width == imageSize { return Double(resize) / Double(min(photoWidth, photoHeight)) }
    let resizedWidth = Double(resize) * Double(width) / Double(imageSize)
    return max(Double(resize) / Double(photoHeight), resizedWidth / Double(photoWidth))
  }

  private func box(_ stored: Photo, fault: Fault?) -> [UInt8] {
    var photo = stored.flattened(fault: fault)
    if fault == .orientationIgnored { photo.orientation = 1 }
    let (photoWidth, photoHeight) = (photo.uprightWidth, photo.uprightHeight)
    let scale = scale(photoWidth, photoHeight)
    let newWidth = max(width, Int((Double(photoWidth) * scale + 0.5).rounded(.down)))
    let newHeight = max(imageSize, Int((Double(photoHeight) * scale + 0.5).rounded(.down)))
    var left = (newWidth - width) / 2
    var top = (newHeight - imageSize) / 2
    if fault == .cropOffByOne {
      left = min(left + 1, newWidth - width)
      top = min(top + 1, newHeight - imageSize)
    }
    let columns = Window(
      old: photoWidth, new: newWidth, start: left, count: width, interpolation: interpolation,
      fault: fault)
    let rows = Window(
      old: photoHeight, new: newHeight, start: top, count: imageSize, interpolation: interpolation,
      fault: fault)
    if fault == .floatRounding { return resampleInDoubles(photo, columns: columns, rows: rows) }
    return resample(photo, columns: columns, rows: rows)
  }
}
