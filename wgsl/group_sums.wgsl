// Sums over the pixels of a chunk, for each sample and channel, of dy and of dy · (x − mean) / √(variance + eps).
//
//   x, dy: [samples, pixels, columns] of T      moments: [samples, groups, 2] of f32
//   sums: [chunks, 2, samples, columns] of T, which workgroup_sums.wgsl adds where there are several chunks
//
// One invocation computes one column of one chunk.

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * params.grid_columns + group.x) * LANES + lane;
  if (i >= params.count) { return; }
  let column = i % params.columns;
  let sample = i / params.columns % params.samples;
  let chunk = i / params.columns / params.samples;

  let norm = norm_of(sample, column);
  var total = T(0);
  var aligned = T(0);
  let end = min((chunk + 1u) * params.chunk_pixels, params.pixels);
  for (var pixel = chunk * params.chunk_pixels; pixel < end; pixel++) {
    let at = (sample * params.pixels + pixel) * params.columns + column;
    let change = dy_at(at);
    total += change;
    aligned += change * (x_at(at) - norm.mean);
  }
  let plane = params.samples * params.columns;
  let to = chunk * 2u * plane + sample * params.columns + column;
  sums[to] = total;
  sums[to + plane] = aligned * norm.factor;
}
