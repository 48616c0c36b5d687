// Mean and biased variance of each group from those of its channels in chunks: the second half of `groupMoments`.
//
//   partial: [samples, chunks, columns, 2] of T as group_moments.wgsl leaves it      result: [samples, groups, 2] of f32
//
// LANES invocations share a group, of which a workgroup has THREADS / LANES: they take every LANES-th (chunk, channel),
// first for the mean of all, then for the squared deviations from it; the mean's own rounding is found and corrected on the
// way. across_workgroup.wgsl or across_subgroups.wgsl adds it up. One lane suits a CPU, many lanes suit a GPU.

/// Count of pixels, mean and sum of squared deviations of the i-th (chunk, channel) of a group.
fn moments_of(group: u32, i: u32) -> vec3f {
  let chunk = i / params.group_channels;
  let channel = group % params.groups * params.group_channels + i % params.group_channels;
  let at = (group / params.groups * params.chunks + chunk) * params.channels * 2u
    + channel / WIDTH * WIDTH * 2u + channel % WIDTH;
  let count = min(params.chunk_pixels, params.pixels - chunk * params.chunk_pixels);
  return vec3f(f32(count), partial_at(at), partial_at(at + WIDTH));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3u, thread: Lane) {
  let found = (workgroup.y * params.grid_columns + workgroup.x) * (THREADS / LANES) + thread.index / LANES;
  let group = min(found, params.count - 1u); // of all samples' groups
  let length = params.chunks * params.group_channels;
  var own = vec2f();
  for (var i = thread.index % LANES; i < length; i += LANES) {
    let part = moments_of(group, i);
    own += vec2f(part.x, part.x * part.y);
  }
  let total = sum_across(own, thread);
  let mean = total.y / total.x;
  var apart = vec2f();
  for (var i = thread.index % LANES; i < length; i += LANES) {
    let part = moments_of(group, i);
    let distance = part.y - mean;
    apart += vec2f(part.x * distance, part.z + part.x * distance * distance);
  }
  let spread = sum_across(apart, thread) / total.x;
  if (thread.index % LANES == 0u && found < params.count) {
    result[group * 2u] = mean + spread.x;
    result[group * 2u + 1u] = spread.y - spread.x * spread.x;
  }
}
