// result = e^(x − m) / Σ e^(x − m), m the largest of each row.
//
//   x, result: [rows, columns] of T
//
// LANES invocations share a row; the workgroup has THREADS of them. Three passes: largest, sum, result;
// across_workgroup.wgsl or across_subgroups.wgsl folds what lanes hold.

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, thread: Lane) {
  let row = (group.y * params.grid_columns + group.x) * (THREADS / LANES) + thread.index / LANES;
  let lane = thread.index % LANES;
  let within = min(row, params.rows - 1u) * params.columns;
  let first = within + params.x_first;

  var most = x_at(first);
  for (var column = lane; column < params.columns; column += LANES) {
    most = max(most, x_at(first + column));
  }
  let largest = max_across(max_of(most), thread);
  var total = T(0);
  for (var column = lane; column < params.columns; column += LANES) {
    total += exp(x_at(first + column) - largest);
  }
  let factor = 1.0 / sum_across(sum_of(total), thread);
  if (row >= params.rows) { return; }
  for (var column = lane; column < params.columns; column += LANES) {
    result[params.result_first + within + column] = exp(x_at(first + column) - largest) * factor;
  }
}
