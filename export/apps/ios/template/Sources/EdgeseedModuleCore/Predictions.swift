import Foundation

/// One class that a photo may show.
public struct Prediction: Equatable, Sendable {
  public let label: String
  /// Of the class among the model's.
  public let index: Int
  /// 0 to 1.
  public let probability: Double
}

/// Probabilities of logits: they add up to 1.
public func softmax(_ logits: [Float]) -> [Double] {
  let largest = logits.max() ?? 0
  let powers = logits.map { exp(Double($0 - largest)) }
  let total = powers.reduce(0, +)
  return powers.map { $0 / total }
}

/// The `k` most probable classes, the most probable first; the earlier class first where equal.
public func topK(_ logits: [Float], labels: [String], k: Int) -> [Prediction] {
  precondition(logits.count == labels.count, "\(logits.count) logits, \(labels.count) labels")
  let probabilities = softmax(logits)
  return order(logits).prefix(k).map {
    Prediction(label: labels[$0], index: $0, probability: probabilities[$0])
  }
}

/// Indices from the largest value to the smallest, the earlier first where equal.
func order<Value: Comparable>(_ values: [Value]) -> [Int] {
  values.indices.sorted { values[$0] > values[$1] || (values[$0] == values[$1] && $0 < $1) }
}
