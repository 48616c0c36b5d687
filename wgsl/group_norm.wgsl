// `norm_of`: what the channels of a column of a sample are normalised by, from moments [samples, groups, 2] of f32.

struct Norm {
  mean: T,
  /// 1 / √(variance + eps)
  factor: T,
}

fn norm_of(sample: u32, column: u32) -> Norm {
  var means: array<f32, WIDTH>;
  var factors: array<f32, WIDTH>;
  /*unroll*/ for (var k = 0u; k < WIDTH; k++) {
    let at = (sample * params.groups + (column * WIDTH + k) / params.group_channels) * 2u;
    means[k] = moments_at(at);
    factors[k] = inverseSqrt(max(moments_at(at + 1u), 0.0) + params.eps);
  }
  return Norm(gathered(means), gathered(factors));
}
