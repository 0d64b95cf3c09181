import Foundation

// Prints milliseconds of each run: FILE of RGBA, width, height, EXIF orientation, runs.
let arguments = CommandLine.arguments
let numbers = arguments[2...].map { Int($0)! }
let pixels = [UInt8](try Data(contentsOf: URL(fileURLWithPath: arguments[1])))
let photo = Photo(
  pixels: pixels, width: numbers[0], height: numbers[1], orientation: numbers[2])
let preprocess = Preprocess(imageSize: 224, resize: 256)
for _ in 0..<numbers[3] {
  let start = DispatchTime.now().uptimeNanoseconds
  _ = preprocess.planes(photo)
  print(Double(DispatchTime.now().uptimeNanoseconds - start) / 1e6)
}
