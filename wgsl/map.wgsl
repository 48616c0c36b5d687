// Elementwise work over strided views:  result[result_place(at)] = evaluate(at)  for every index `at` of a shape.
//
// The prelude adds `evaluate` (the expression over its operands, each read through a view) and one `…_place` for
// each view: first + Σ at[axis] · stride. Axes are merged beforehand, so the usual case has rank 1 and no division.
// One invocation computes one element: four numbers (T = vec4f) where every view allows it.

alias Index = array<u32, RANK>;

/// i / d for i < 2³¹: division of whole numbers is done lane by lane on CPUs and in many steps on GPUs, so it is
/// estimated in f32, estimated again for the remainder, and put right by at most one.
fn divide(i: u32, d: u32) -> u32 {
  let a = i32(i);
  let b = i32(d);
  let inverse = 1.0 / f32(b);
  var q = i32(f32(a) * inverse);
  q += i32(floor(f32(a - q * b) * inverse));
  let rest = a - q * b;
  return u32(q + select(0, 1, rest >= b) - select(0, 1, rest < 0));
}

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
