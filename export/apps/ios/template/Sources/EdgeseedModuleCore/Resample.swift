import Foundation

/// Fraction bits of a weight: 32 - 8 bits of a pixel - 2 of headroom.
private let precisionBits: Int32 = 22
private let half: Int32 = 1 << (precisionBits - 1)

/// Of which input pixels, and in which proportions, some output pixels along one axis are made.
struct Window {
  /// The first input pixel of each output pixel.
  private(set) var first: [Int] = []
  /// Of it and each that follows, in units of 2^-22.
  private(set) var weights: [[Int32]] = []
  /// The same weights before rounding.
  private(set) var exact: [[Double]] = []

  var count: Int { first.count }
  /// The first input pixel that any output pixel needs.
  var start: Int { first.min() ?? 0 }
  /// One past the last.
  var end: Int { zip(first, weights).map { $0 + $1.count }.max() ?? 0 }

  /// The `count` output pixels from `start` on, of `old` pixels resized to `new`.
  init(
    old: Int, new: Int, start: Int, count: Int, interpolation: Interpolation, fault: Fault?
  ) {
    if old == new {
      copy(Array(start..<start + count))
    } else if interpolation == .nearest {
      copy(Window.nearest(old: old, new: new, start: start, count: count))
    } else {
      for index in start..<start + count {
        append(old: old, new: new, index: index, interpolation: interpolation, fault: fault)
      }
    }
  }

  private mutating func copy(_ pixels: [Int]) {
    first = pixels
    weights = Array(repeating: [1 << precisionBits], count: pixels.count)
    exact = Array(repeating: [1], count: pixels.count)
  }

  private static func nearest(old: Int, new: Int, start: Int, count: Int) -> [Int] {
    let step = Double(old) / Double(new)
    var position = step * 0.5
    // Added up, not multiplied: so does Pillow, and the last bit may show.
    for _ in 0..<start { position += step }
    return (0..<count).map { _ in
      defer { position += step }
      return min(Int(position), old - 1)
    }
  }

  private mutating func append(
    old: Int, new: Int, index: Int, interpolation: Interpolation, fault: Fault?
  ) {
    let radius = interpolation == .bicubic ? 2.0 : 1.0
    let scale = Double(old) / Double(new)
    // Antialiasing: the filter grows as the photo shrinks.
    let stretch = fault == .noAntialias ? 1.0 : max(scale, 1.0)
    let support = radius * stretch
    let position = Double(index)
    let center = fault == .halfPixelShift ? position * scale + 0.5 : (position + 0.5) * scale
    let begin = max(0, Int(center - support + 0.5))
    let end = min(old, Int(center + support + 0.5))
    let inverse = 1.0 / stretch
    var values = (0..<end - begin).map {
      Window.filter((Double($0 + begin) - center + 0.5) * inverse, interpolation)
    }
    let total = values.reduce(0, +)
    if total != 0 { values = values.map { $0 / total } }
    first.append(begin)
    exact.append(values)
    weights.append(
      values.map {
        let scaled = $0 * Double(1 << precisionBits)
        return Int32(scaled < 0 ? scaled - 0.5 : scaled + 0.5)
      })
  }

  private static func filter(_ signed: Double, _ interpolation: Interpolation) -> Double {
    let x = abs(signed)
    if interpolation == .bilinear { return x < 1 ? 1 - x : 0 }
    let a = -0.5
    if x < 1 { return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0 }
    if x < 2 { return (((x - 5.0) * x + 8.0) * x - 4.0) * a }
    return 0
  }
}

/// The resized square of an upright photo: R, G, B of each pixel. Width first, then height.
func resample(_ photo: Photo, columns: Window, rows: Window) -> [UInt8] {
  let start = rows.start
  let needed = rows.end - start
  var narrow = [UInt8](repeating: 0, count: needed * columns.count * 3)
  photo.pixels.withUnsafeBufferPointer { pixels in
    narrow.withUnsafeMutableBufferPointer { target in
      if photo.isTurned {
        narrowTurned(photo, pixels, columns, start: start, needed: needed, into: target)
      } else {
        narrowStraight(photo, pixels, columns, start: start, needed: needed, into: target)
      }
    }
  }
  return shorten(narrow, width: columns.count, rows: rows, start: start)
}

/// The width pass where rows of the photo are rows of memory.
private func narrowStraight(
  _ photo: Photo, _ pixels: UnsafeBufferPointer<UInt8>, _ columns: Window, start: Int, needed: Int,
  into narrow: UnsafeMutableBufferPointer<UInt8>
) {
  let step = photo.flipsColumns ? -photo.pixelStride : photo.pixelStride
  let (red, blue) = photo.isBGR ? (2, 0) : (0, 2)
  var target = 0
  for y in start..<start + needed {
    let row = (photo.flipsRows ? photo.height - 1 - y : y) * photo.rowStride
    let edge = photo.flipsColumns ? row + (photo.width - 1) * photo.pixelStride : row
    for x in 0..<columns.count {
      var place = edge + columns.first[x] * step
      var (r, g, b) = (half, half, half)
      columns.weights[x].withUnsafeBufferPointer { weights in
        for weight in weights {
          r &+= Int32(pixels[place + red]) &* weight
          g &+= Int32(pixels[place + 1]) &* weight
          b &+= Int32(pixels[place + blue]) &* weight
          place += step
        }
      }
      narrow[target] = clip(r)
      narrow[target + 1] = clip(g)
      narrow[target + 2] = clip(b)
      target += 3
    }
  }
}

/// The width pass where rows of the upright photo are columns of memory.
///
/// It goes through memory row by row and adds to sums of a whole column: reading down the columns
/// of twelve megapixels would miss the cache with every pixel.
private func narrowTurned(
  _ photo: Photo, _ pixels: UnsafeBufferPointer<UInt8>, _ columns: Window, start: Int, needed: Int,
  into narrow: UnsafeMutableBufferPointer<UInt8>
) {
  let step = photo.flipsColumns ? -photo.pixelStride : photo.pixelStride
  let (red, blue) = photo.isBGR ? (2, 0) : (0, 2)
  let across = photo.flipsColumns ? photo.width - 1 - start : start
  var sums = [Int32](repeating: 0, count: needed * 3)
  sums.withUnsafeMutableBufferPointer { sums in
    for x in 0..<columns.count {
      sums.update(repeating: half)
      for (k, weight) in columns.weights[x].enumerated() {
        let along = columns.first[x] + k
        let storedRow = photo.flipsRows ? photo.height - 1 - along : along
        var place = storedRow * photo.rowStride + across * photo.pixelStride
        var i = 0
        while i < sums.count {
          sums[i] &+= Int32(pixels[place + red]) &* weight
          sums[i + 1] &+= Int32(pixels[place + 1]) &* weight
          sums[i + 2] &+= Int32(pixels[place + blue]) &* weight
          place += step
          i += 3
        }
      }
      for y in 0..<needed {
        let target = (y * columns.count + x) * 3
        for c in 0..<3 { narrow[target + c] = clip(sums[y * 3 + c]) }
      }
    }
  }
}

/// The height pass.
private func shorten(_ narrow: [UInt8], width: Int, rows: Window, start: Int) -> [UInt8] {
  let line = width * 3
  var square = [UInt8](repeating: 0, count: rows.count * line)
  var sums = [Int32](repeating: 0, count: line)
  narrow.withUnsafeBufferPointer { narrow in
    sums.withUnsafeMutableBufferPointer { sums in
      for y in 0..<rows.count {
        sums.update(repeating: half)
        for (k, weight) in rows.weights[y].enumerated() {
          let source = (rows.first[y] - start + k) * line
          for i in 0..<line { sums[i] &+= Int32(narrow[source + i]) &* weight }
        }
        for i in 0..<line { square[y * line + i] = clip(sums[i]) }
      }
    }
  }
  return square
}

@inline(__always)
private func clip(_ sum: Int32) -> UInt8 {
  UInt8(truncatingIfNeeded: min(max(sum >> precisionBits, 0), 255))
}

/// `Fault.floatRounding`: both passes in doubles, rounded once. Slow; for tests and diagnosis.
func resampleInDoubles(_ photo: Photo, columns: Window, rows: Window) -> [UInt8] {
  let start = rows.start
  let line = columns.count * 3
  var narrow: [Double] = []
  narrow.reserveCapacity((rows.end - start) * line)
  for y in start..<rows.end {
    for x in 0..<columns.count {
      for c in 0..<3 {
        var sum = 0.0
        for (k, weight) in columns.exact[x].enumerated() {
          sum += Double(uprightValue(photo, x: columns.first[x] + k, y: y, channel: c)) * weight
        }
        narrow.append(sum)
      }
    }
  }
  return (0..<rows.count * line).map { i in
    let y = i / line
    var sum = 0.0
    for (k, weight) in rows.exact[y].enumerated() {
      sum += narrow[(rows.first[y] - start + k) * line + i % line] * weight
    }
    return UInt8(min(max((sum + 0.5).rounded(.down), 0), 255))
  }
}

private func uprightValue(_ photo: Photo, x: Int, y: Int, channel: Int) -> UInt8 {
  var (column, row) = photo.isTurned ? (y, x) : (x, y)
  if photo.flipsColumns { column = photo.width - 1 - column }
  if photo.flipsRows { row = photo.height - 1 - row }
  let place = row * photo.rowStride + column * photo.pixelStride
  return photo.pixels[place + (photo.isBGR ? 2 - channel : channel)]
}
