// result = epilogue((x − mean) / √(variance + eps) · weight + bias), mean and variance of each row.
//
//   x, result: [rows, columns] of T      weight, bias: [columns] of T
//
// LANES invocations share ROWS rows; the workgroup has THREADS of them. Three passes over a row: its mean; the mean
// and the square of the distances from it, whose own mean corrects the first one's rounding; the result.
// across_workgroup.wgsl or across_subgroups.wgsl adds up what lanes hold.
// Few lanes and several rows suit a CPU, where weight and bias are then read once for all of them; many lanes suit a GPU.

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, thread: Lane) {
  let lane = thread.index % LANES;
  let row = ((group.y * params.grid_columns + group.x) * (THREADS / LANES) + thread.index / LANES) * ROWS;
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
    means[r] = sum_across(vec2f(sum_of(totals[r])), thread).x / length;
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
    let both = sum_across(vec2f(sum_of(errors[r]), sum_of(squares[r])), thread) / length;
    let variance = both.y - both.x * both.x;
    shifts[r] = both.x;
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
