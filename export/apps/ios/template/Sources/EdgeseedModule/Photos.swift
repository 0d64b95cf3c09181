#if canImport(CoreML)
  import CoreGraphics
  import CoreVideo
  import EdgeseedModuleCore
  import Foundation
  import ImageIO

  #if canImport(UIKit)
    import UIKit
  #endif

  extension Photo {
    /// The pixels of an image, in the image's own colour space where that is Display P3, else in sRGB.
    ///
    /// Core Graphics does not convert Display P3 here: the module does, in whole numbers, so that
    /// the result is the same on every device.
    ///
    /// - Parameters:
    ///   - image: Of any kind; it is drawn at its own size.
    ///   - orientation: How it becomes upright: `CGImage` does not know.
    public init(_ image: CGImage, orientation: CGImagePropertyOrientation = .up) throws {
      let isP3 = image.colorSpace?.name == CGColorSpace.displayP3
      let opaqueKinds: [CGImageAlphaInfo] = [.none, .noneSkipFirst, .noneSkipLast]
      let isOpaque = opaqueKinds.contains(image.alphaInfo)
      let space = CGColorSpace(name: isP3 ? CGColorSpace.displayP3 : CGColorSpace.sRGB)
      let kind: CGImageAlphaInfo = isOpaque ? .noneSkipLast : .premultipliedLast
      let (width, height) = (image.width, image.height)
      var pixels = [UInt8](repeating: 0, count: width * height * 4)
      let drawn = pixels.withUnsafeMutableBytes { bytes -> Bool in
        guard let space,
          let context = CGContext(
            data: bytes.baseAddress, width: width, height: height, bitsPerComponent: 8,
            bytesPerRow: width * 4, space: space, bitmapInfo: kind.rawValue)
        else { return false }
        context.setBlendMode(.copy)
        context.interpolationQuality = .none
        context.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
        return true
      }
      guard drawn else { throw FileError("an image of \(width) x \(height) cannot be drawn") }
      self.init(
        pixels: pixels, width: width, height: height,
        alpha: isOpaque ? .none : .premultiplied,
        orientation: Int(orientation.rawValue),
        profile: isP3 ? .displayP3 : .srgb)
    }

    /// A photo file of any format that ImageIO reads: upright by its EXIF, with its profile.
    public init(file: Data) throws {
      guard let source = CGImageSourceCreateWithData(file as CFData, nil),
        let image = CGImageSourceCreateImageAtIndex(source, 0, nil)
      else { throw FileError("not an image that ImageIO reads") }
      let properties = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any]
      let number = properties?[kCGImagePropertyOrientation] as? UInt32
      let orientation = number.flatMap { CGImagePropertyOrientation(rawValue: $0) }
      try self.init(image, orientation: orientation ?? .up)
    }

    /// A camera frame: 32BGRA, or biplanar YUV of 8 bits (420f, 420v).
    ///
    /// - Parameter orientation: How it becomes upright; a portrait iPhone's back camera: `.right`.
    public init(_ buffer: CVPixelBuffer, orientation: CGImagePropertyOrientation = .up) throws {
      CVPixelBufferLockBaseAddress(buffer, .readOnly)
      defer { CVPixelBufferUnlockBaseAddress(buffer, .readOnly) }
      let (width, height) = (CVPixelBufferGetWidth(buffer), CVPixelBufferGetHeight(buffer))
      let number = Int(orientation.rawValue)
      switch CVPixelBufferGetPixelFormatType(buffer) {
      case kCVPixelFormatType_32BGRA:
        guard let base = CVPixelBufferGetBaseAddress(buffer) else {
          throw FileError("a pixel buffer without memory")
        }
        let rowStride = CVPixelBufferGetBytesPerRow(buffer)
        let bytes = UnsafeRawBufferPointer(start: base, count: rowStride * height)
        let space = CVBufferCopyAttachment(buffer, kCVImageBufferColorPrimariesKey, nil)
        let isP3 = space as? String == kCVImageBufferColorPrimaries_P3_D65 as String
        self.init(
          pixels: [UInt8](bytes), width: width, height: height, rowStride: rowStride,
          orientation: number, profile: isP3 ? .displayP3 : .srgb, isBGR: true)
      case kCVPixelFormatType_420YpCbCr8BiPlanarFullRange:
        self = try Photo.frame(buffer, range: .full).photo(orientation: number)
      case kCVPixelFormatType_420YpCbCr8BiPlanarVideoRange:
        self = try Photo.frame(buffer, range: .video).photo(orientation: number)
      case let format:
        throw FileError("a pixel buffer of format \(format): give 32BGRA, 420f or 420v")
      }
    }

    private static func frame(_ buffer: CVPixelBuffer, range: YUVRange) throws -> YUVFrame {
      let matrix = CVBufferCopyAttachment(buffer, kCVImageBufferYCbCrMatrixKey, nil)
      let is601 = matrix as? String == kCVImageBufferYCbCrMatrix_ITU_R_601_4 as String
      func plane(_ index: Int) throws -> (bytes: [UInt8], rowStride: Int) {
        guard let base = CVPixelBufferGetBaseAddressOfPlane(buffer, index) else {
          throw FileError("a pixel buffer without memory")
        }
        let rowStride = CVPixelBufferGetBytesPerRowOfPlane(buffer, index)
        let count = rowStride * CVPixelBufferGetHeightOfPlane(buffer, index)
        return ([UInt8](UnsafeRawBufferPointer(start: base, count: count)), rowStride)
      }
      let (luma, colors) = (try plane(0), try plane(1))
      return YUVFrame(
        width: CVPixelBufferGetWidth(buffer),
        height: CVPixelBufferGetHeight(buffer),
        y: Plane(bytes: luma.bytes, rowStride: luma.rowStride),
        u: Plane(bytes: colors.bytes, rowStride: colors.rowStride, pixelStride: 2),
        v: Plane(bytes: colors.bytes, rowStride: colors.rowStride, pixelStride: 2, offset: 1),
        matrix: is601 ? .bt601 : .bt709,
        range: range)
    }

    #if canImport(UIKit)
      /// A `UIImage`, upright by its own orientation.
      public init(_ image: UIImage) throws {
        guard let pixels = image.cgImage else {
          throw FileError("a UIImage without a CGImage: render it first")
        }
        try self.init(pixels, orientation: CGImagePropertyOrientation(image.imageOrientation))
      }
    #endif
  }

  #if canImport(UIKit)
    extension CGImagePropertyOrientation {
      init(_ orientation: UIImage.Orientation) {
        switch orientation {
        case .up: self = .up
        case .upMirrored: self = .upMirrored
        case .down: self = .down
        case .downMirrored: self = .downMirrored
        case .left: self = .left
        case .leftMirrored: self = .leftMirrored
        case .right: self = .right
        case .rightMirrored: self = .rightMirrored
        @unknown default: self = .up
        }
      }
    }
  #endif

  /// The pixels as the model's input image. It carries no colour space, so that nothing converts it.
  func pixelBuffer(_ square: [UInt8], _ preprocess: Preprocess) throws -> CVPixelBuffer {
    let (width, height) = (preprocess.width, preprocess.imageSize)
    let isGrey = preprocess.channels == 1
    let format = isGrey ? kCVPixelFormatType_OneComponent8 : kCVPixelFormatType_32BGRA
    var made: CVPixelBuffer?
    let attributes = [kCVPixelBufferIOSurfacePropertiesKey: [:] as CFDictionary] as CFDictionary
    CVPixelBufferCreate(nil, width, height, format, attributes, &made)
    guard let buffer = made else { throw FileError("no memory for a pixel buffer") }
    CVPixelBufferLockBaseAddress(buffer, [])
    defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
    guard let base = CVPixelBufferGetBaseAddress(buffer) else {
      throw FileError("a pixel buffer without memory")
    }
    let rowStride = CVPixelBufferGetBytesPerRow(buffer)
    let bytes = base.assumingMemoryBound(to: UInt8.self)
    for y in 0..<height {
      for x in 0..<width {
        if isGrey {
          bytes[y * rowStride + x] = square[y * width + x]
          continue
        }
        let (source, target) = ((y * width + x) * 3, y * rowStride + x * 4)
        bytes[target] = square[source + 2]
        bytes[target + 1] = square[source + 1]
        bytes[target + 2] = square[source]
        bytes[target + 3] = 255
      }
    }
    return buffer
  }
#endif
