/// Whose weights of red, green and blue a camera frame's luma has.
public enum YUVMatrix: String, Sendable {
  case bt601, bt709
}

/// Whether luma goes from 0 to 255, or from 16 to 235.
public enum YUVRange: String, Sendable {
  case full, video
}

/// One plane of a camera frame.
public struct Plane: Sendable {
  var bytes: [UInt8]
  /// Bytes from one row to the next.
  var rowStride: Int
  /// Bytes from one value to the next: 1, or 2 where two planes alternate.
  var pixelStride: Int
  /// Of the first value.
  var offset: Int

  public init(bytes: [UInt8], rowStride: Int, pixelStride: Int = 1, offset: Int = 0) {
    self.bytes = bytes
    self.rowStride = rowStride
    self.pixelStride = pixelStride
    self.offset = offset
  }
}

/// A camera frame: luma at full size, and two planes of colour at half of it.
public struct YUVFrame: Sendable {
  var width: Int
  var height: Int
  var y: Plane
  var u: Plane
  var v: Plane
  var matrix: YUVMatrix
  var range: YUVRange

  public init(
    width: Int, height: Int, y: Plane, u: Plane, v: Plane, matrix: YUVMatrix, range: YUVRange
  ) {
    self.width = width
    self.height = height
    self.y = y
    self.u = u
    self.v = v
    self.matrix = matrix
    self.range = range
  }

  /// The frame as RGB.
  ///
  /// - Parameter orientation: EXIF's number, by which it becomes upright.
  public func photo(orientation: Int) -> Photo {
    let constants = YUVFrame.constants(matrix, range)
    var rgb = [UInt8](repeating: 0, count: width * height * 3)
    var target = 0
    for row in 0..<height {
      for column in 0..<width {
        let luma =
          constants.gain
          * (Int32(y.bytes[y.offset + row * y.rowStride + column * y.pixelStride])
            - constants.black) + 32768
        let blue =
          Int32(u.bytes[u.offset + row / 2 * u.rowStride + column / 2 * u.pixelStride]) - 128
        let red =
          Int32(v.bytes[v.offset + row / 2 * v.rowStride + column / 2 * v.pixelStride]) - 128
        rgb[target] = clip(luma + constants.vRed * red)
        rgb[target + 1] = clip(luma - constants.uGreen * blue - constants.vGreen * red)
        rgb[target + 2] = clip(luma + constants.uBlue * blue)
        target += 3
      }
    }
    return Photo(
      pixels: rgb, width: width, height: height, pixelStride: 3, orientation: orientation)
  }

  private func clip(_ value: Int32) -> UInt8 { UInt8(min(max(value >> 16, 0), 255)) }

  private struct Constants {
    var black: Int32
    var gain: Int32
    var vRed: Int32
    var uGreen: Int32
    var vGreen: Int32
    var uBlue: Int32
  }

  /// All but black times 65536: ITU-R BT.601-7 and BT.709-6.
  private static func constants(_ matrix: YUVMatrix, _ range: YUVRange) -> Constants {
    switch (matrix, range) {
    case (.bt601, .full):
      return Constants(
        black: 0, gain: 65536, vRed: 91881, uGreen: 22553, vGreen: 46802, uBlue: 116130)
    case (.bt601, .video):
      return Constants(
        black: 16, gain: 76309, vRed: 104597, uGreen: 25675, vGreen: 53279, uBlue: 132201)
    case (.bt709, .full):
      return Constants(
        black: 0, gain: 65536, vRed: 103206, uGreen: 12276, vGreen: 30679, uBlue: 121609)
    case (.bt709, .video):
      return Constants(
        black: 16, gain: 76309, vRed: 117489, uGreen: 13975, vGreen: 34925, uBlue: 138438)
    }
  }
}
