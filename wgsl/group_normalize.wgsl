// result = epilogue((x − mean) / √(variance + eps) · weight + bias), mean and variance of each sample's groups of channels.
//
//   x, result: [samples, pixels, columns] of T      moments: [samples, groups, 2] of f32      weight, bias: [columns] of T
//
// One invocation computes one column of up to ROWS pixels of a sample, so that what depends on the channel is read once.

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * params.grid_columns + group.x) * LANES + lane;
  if (i >= params.count) { return; }
  let column = i % params.columns;
  let block = params.first_block + i / params.columns;
  let sample = block / params.blocks;
  let pixel = block % params.blocks * ROWS;
  let rows = min(ROWS, params.pixels - pixel);
  let row = sample * params.pixels + pixel;

  let norm = norm_of(sample, column);
  let factor = norm.factor * weight_at(column);
  let bias = bias_at(column);
  for (var r = 0u; r < rows; r++) {
    let at = (row + r) * params.columns + column;
    let value = (x_at(at - params.x_shift) - norm.mean) * factor + bias;
    result[at - params.result_shift] = epilogue(value, row + r - params.first_row, column);
  }
}
