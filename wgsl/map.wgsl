// Elementwise work over strided views:  result[result_place(at)] = evaluate(at)  for every index `at` of a shape.
//
// The prelude adds `evaluate` (the expression over its operands, each read through a view) and one `…_place` for
// each view: first + Σ at[axis] · stride. Axes are merged beforehand, so the usual case has rank 1 and no division.
// One invocation computes one element: four numbers (T = vec4f) where every view allows it.

/// The i-th number of a row of f16, of which `eight` holds eight.
fn half_of(eight: vec4u, i: u32) -> f32 { return unpack2x16float(eight[i / 2u % 4u])[i % 2u]; }

/// The i-th four numbers.
fn halves_of(eight: vec4u, i: u32) -> vec4f {
  let four = select(eight.xy, eight.zw, i % 2u == 1u);
  return vec4f(unpack2x16float(four.x), unpack2x16float(four.y));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * params.columns + group.x) * LANES + lane;
  if (i >= params.count) { return; }
  let at = index_of(i);
  result[result_place(at)] = evaluate(at);
}
