// result = epilogue((x − mean) / √(variance + eps) · weight + bias), mean and variance of each row.
//
//   x, result: [rows, columns] of T      weight, bias: [columns] of T
//
// LANES invocations share ROWS rows; the workgroup has THREADS of them. Three passes over a row: its mean; the mean
// and the square of the distances from it, whose own mean corrects the first one's rounding; the result.
// Few lanes and several rows suit a CPU, where weight and bias are then read once for all of them; many lanes suit a GPU.

var<workgroup> shares: array<f32, THREADS>;

/// The sum of `value` over the lanes that share a row.
fn across(value: f32, thread: u32) -> f32 {
  if (LANES == 1u) { return value; }
  workgroupBarrier();
  shares[thread] = value;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread % LANES < half) { shares[thread] += shares[thread + half]; }
  }
  workgroupBarrier();
  return shares[thread - thread % LANES];
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let lane = thread % LANES;
  let row = ((group.y * params.grid_columns + group.x) * (THREADS / LANES) + thread / LANES) * ROWS;
  let length = f32(params.columns * WIDTH);

  var first: array<u32, ROWS>;
  /*unroll*/ for (var r = 0u; r < ROWS; r++) {
    first[r] = min(row + r, params.rows - 1u) * params.columns + params.x_first;
  }
  var totals: array<T, ROWS>;
  for (var column = lane; column < params.columns; column += LANES) {
    /*unroll*/ for (var r = 0u; r < ROWS; r++) {
      totals[r] += x_at(first[r] + column);
    }
  }
  var means: array<f32, ROWS>;
  /*unroll*/ for (var r = 0u; r < ROWS; r++) {
    means[r] = across(sum_of(totals[r]), thread) / length;
  }
  var errors: array<T, ROWS>;
  var squares: array<T, ROWS>;
  for (var column = lane; column < params.columns; column += LANES) {
    /*unroll*/ for (var r = 0u; r < ROWS; r++) {
      let distance = x_at(first[r] + column) - means[r];
      errors[r] += distance;
      squares[r] += distance * distance;
    }
  }
  var shifts: array<f32, ROWS>;
  var factors: array<f32, ROWS>;
  /*unroll*/ for (var r = 0u; r < ROWS; r++) {
    let shift = across(sum_of(errors[r]), thread) / length;
    let variance = across(sum_of(squares[r]), thread) / length - shift * shift;
    shifts[r] = shift;
    factors[r] = inverseSqrt(max(variance, 0.0) + params.eps);
  }
  for (var column = lane; column < params.columns; column += LANES) {
    let weight = weight_at(column);
    let bias = bias_at(column);
    /*unroll*/ for (var r = 0u; r < ROWS; r++) {
      if (row + r < params.rows) {
        let value = ((x_at(first[r] + column) - means[r]) - shifts[r]) * factors[r] * weight + bias;
        let at = (row + r) * params.columns + column;
        result[params.result_first + at] = epilogue(value, row + r, column);
      }
    }
  }
}
