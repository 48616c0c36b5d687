// Mean and biased variance of each group from those of its channels in chunks: the second half of `groupMoments`.
//
//   partial: [samples, chunks, columns, 2] of T as group_moments.wgsl leaves it      result: [samples, groups, 2] of f32
//
// One workgroup computes one group: its lanes take every LANES-th (chunk, channel) and merge them by Chan's formula; what
// the lanes hold is then centred on the mean of all, whose own rounding is found and corrected on the way.
// across_workgroup.wgsl or across_subgroups.wgsl adds it up.

/// Count, mean and sum of squared deviations.
alias Moments = vec3f;

fn merged(a: Moments, b: Moments) -> Moments {
  let count = a.x + b.x;
  if (count == 0.0) { return a; }
  let apart = b.y - a.y;
  let weight = b.x / count;
  return vec3f(count, a.y + apart * weight, a.z + b.z + apart * apart * (a.x * weight));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let channels = params.group_channels;
  let first = group.x * channels;
  var own = Moments();
  for (var i = lane.index; i < params.chunks * channels; i += LANES) {
    let chunk = i / channels;
    let channel = first + i % channels;
    let at = (group.y * params.chunks + chunk) * params.channels * 2u
      + channel / WIDTH * WIDTH * 2u + channel % WIDTH;
    let count = min(params.chunk_pixels, params.pixels - chunk * params.chunk_pixels);
    own = merged(own, vec3f(f32(count), partial_at(at), partial_at(at + WIDTH)));
  }
  let total = sum_across(vec2f(own.x, own.x * own.y), lane);
  let mean = total.y / total.x;
  let apart = own.y - mean;
  let spread = sum_across(vec2f(own.x * apart, own.z + own.x * apart * apart), lane) / total.x;
  if (lane.index == 0u) {
    let at = (group.y * params.groups + group.x) * 2u;
    result[at] = mean + spread.x;
    result[at + 1u] = spread.y - spread.x * spread.x;
  }
}
