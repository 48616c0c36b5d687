// Sums of squares of a flat vector, in parts:  result[p] = Σ x².
//
// A workgroup takes LANES · TAKEN vec4s that lie together, each invocation every LANES-th of them, so that neighbours are
// read side by side; whoever adds the parts up does so in double precision.

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let begin = group.x * LANES * TAKEN + lane;
  var sum = vec4f();
  for (var k = 0u; k < TAKEN; k++) {
    let i = begin + k * LANES;
    if (i < params.count) {
      let x = x_at(i);
      sum += x * x;
    }
  }
  result[group.x * LANES + lane] = (sum.x + sum.y) + (sum.z + sum.w);
}
