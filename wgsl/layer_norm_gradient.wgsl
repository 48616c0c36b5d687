// The gradient of layer_norm.wgsl by x. With n = (x − mean) / √(variance + eps) and g = dy · weight, means over the row:
//
//   result = (g − mean of g − n · mean of g · n) / √(variance + eps)
//
//   x, dy, result: [rows, columns] of T      weight: [columns] of T
//
// LANES invocations share ROWS rows, as there. Three passes over a row: its mean; what the distances from it, and they with
// g, add up to; the result.

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, thread: Lane) {
  let lane = thread.index % LANES;
  let row = ((group.y * params.grid_columns + group.x) * (THREADS / LANES) + thread.index / LANES) * ROWS;
  let length = f32(params.columns * WIDTH);

  var first: array<u32, ROWS>;
  /*unroll*/ for (var r = 0u; r < ROWS; r++) {
    first[r] = min(row + r, params.rows - 1u) * params.columns;
  }
  var totals: array<T, ROWS>;
  for (var column = lane; column < params.columns; column += LANES) {
    /*unroll*/ for (var r = 0u; r < ROWS; r++) {
      totals[r] += x_at(params.x_first + first[r] + column);
    }
  }
  var means: array<f32, ROWS>;
  /*unroll*/ for (var r = 0u; r < ROWS; r++) {
    means[r] = sum_across(vec4f(sum_of(totals[r])), thread).x / length;
  }
  var errors: array<T, ROWS>;
  var squares: array<T, ROWS>;
  var changes: array<T, ROWS>;
  var alongs: array<T, ROWS>;
  for (var column = lane; column < params.columns; column += LANES) {
    let weight = weight_at(column);
    /*unroll*/ for (var r = 0u; r < ROWS; r++) {
      let distance = x_at(params.x_first + first[r] + column) - means[r];
      let change = dy_at(params.dy_first + first[r] + column) * weight;
      errors[r] += distance;
      squares[r] += distance * distance;
      changes[r] += change;
      alongs[r] += change * distance;
    }
  }
  var shifts: array<f32, ROWS>;
  var factors: array<f32, ROWS>;
  var change_means: array<f32, ROWS>;
  var along_means: array<f32, ROWS>;
  /*unroll*/ for (var r = 0u; r < ROWS; r++) {
    let own = vec4f(sum_of(errors[r]), sum_of(squares[r]), sum_of(changes[r]), sum_of(alongs[r]));
    let all = sum_across(own, thread) / length;
    shifts[r] = all.x;
    factors[r] = inverseSqrt(max(all.y - all.x * all.x, 0.0) + params.eps);
    change_means[r] = all.z;
    along_means[r] = (all.w - all.x * all.z) * factors[r];
  }
  for (var column = lane; column < params.columns; column += LANES) {
    let weight = weight_at(column);
    /*unroll*/ for (var r = 0u; r < ROWS; r++) {
      if (row + r < params.rows) {
        let normal = ((x_at(params.x_first + first[r] + column) - means[r]) - shifts[r]) * factors[r];
        let change = dy_at(params.dy_first + first[r] + column) * weight;
        result[params.result_first + first[r] + column] =
          factors[r] * (change - change_means[r] - normal * along_means[r]);
      }
    }
  }
}
