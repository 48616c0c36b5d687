// result = e^(x − m) / Σ e^(x − m), m the largest of each row.
//
//   x, result: [rows, columns] of T
//
// LANES invocations share a row; the workgroup has THREADS of them. Three passes: largest, sum, result.

var<workgroup> shares: array<f32, THREADS>;

/// The largest (MAXIMUM) or the sum of `value` over the lanes that share a row.
fn across(value: f32, thread: u32, largest: bool) -> f32 {
  if (LANES == 1u) { return value; }
  workgroupBarrier();
  shares[thread] = value;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread % LANES < half) {
      let a = shares[thread];
      let b = shares[thread + half];
      shares[thread] = select(a + b, max(a, b), largest);
    }
  }
  workgroupBarrier();
  return shares[thread - thread % LANES];
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let row = (group.y * params.grid_columns + group.x) * (THREADS / LANES) + thread / LANES;
  let lane = thread % LANES;
  let within = min(row, params.rows - 1u) * params.columns;
  let first = within + params.x_first;

  var most = x_at(first);
  for (var column = lane; column < params.columns; column += LANES) {
    most = max(most, x_at(first + column));
  }
  let largest = across(max_of(most), thread, true);
  var total = T(0);
  for (var column = lane; column < params.columns; column += LANES) {
    total += exp(x_at(first + column) - largest);
  }
  let factor = 1.0 / across(sum_of(total), thread, false);
  if (row >= params.rows) { return; }
  for (var column = lane; column < params.columns; column += LANES) {
    result[params.result_first + within + column] = exp(x_at(first + column) - largest) * factor;
  }
}
