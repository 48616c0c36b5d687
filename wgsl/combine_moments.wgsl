// Mean and biased variance of each group from those of its channels in chunks: the second half of `groupMoments`.
//
//   partial: [samples, chunks, columns, 2] of T as group_moments.wgsl leaves it      result: [samples, groups, 2] of f32
//
// One workgroup computes one group: its lanes take every LANES-th (chunk, channel) and are then merged pairwise.

/// Count, mean and sum of squared deviations.
alias Moments = vec3f;

var<workgroup> shares: array<Moments, LANES>;

fn merged(a: Moments, b: Moments) -> Moments {
  let count = a.x + b.x;
  if (count == 0.0) { return a; }
  let apart = b.y - a.y;
  let weight = b.x / count;
  return vec3f(count, a.y + apart * weight, a.z + b.z + apart * apart * (a.x * weight));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let channels = params.group_channels;
  let first = group.x * channels;
  var own = vec3f();
  for (var i = lane; i < params.chunks * channels; i += LANES) {
    let chunk = i / channels;
    let channel = first + i % channels;
    let at = (group.y * params.chunks + chunk) * params.channels * 2u
      + channel / WIDTH * WIDTH * 2u + channel % WIDTH;
    let count = min(params.chunk_pixels, params.pixels - chunk * params.chunk_pixels);
    own = merged(own, vec3f(f32(count), partial_at(at), partial_at(at + WIDTH)));
  }
  shares[lane] = own;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) { shares[lane] = merged(shares[lane], shares[lane + half]); }
  }
  if (lane == 0u) {
    let all = shares[0];
    let at = (group.y * params.groups + group.x) * 2u;
    result[at] = all.y;
    result[at + 1u] = all.z / all.x;
  }
}
