// A step of AdamW with decoupled weight decay (Loshchilov & Hutter 2019) on flat vectors, where they lie; operations are
// in the order of torch.optim.AdamW:
//
//   g = scale · gradient
//   m ← m + (1 − β₁)(g − m)            v ← β₂ v + (1 − β₂) g²
//   w ← (1 − rate · decay) w − rate / correction₁ · m / (√v / correction₂ + ε)
//   a ← a + renewal (w − a)            where there is an average
//
// One invocation changes four numbers. A buffer cannot be bound twice, so a device that reads faster through textures
// reads the vectors before the step from copies: `…_before` is the copy there, and the vector itself elsewhere.
//
// Four dispatches, one a vector, and copies of their results moved 21 numbers for each weight; this moves 9.

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = group.x * LANES + lane;
  if (i >= params.count) { return; }
  let rate = scalars_at(RATE);
  let g = gradient_at(i) * scalars_at(SCALE);
  let m_before = moment1_before(i);
  let m = m_before + (g - m_before) * params.renewal1;
  let v = moment2_before(i) * params.beta2 + g * g * params.renewal2;
  let denominator = sqrt(v) / scalars_at(CORRECTION2) + params.eps;
  let w = weight_before(i) * (1.0 - rate * params.decay) -
    m / denominator * (rate / scalars_at(CORRECTION1));
  weight[i] = w;
  moment1[i] = m;
  moment2[i] = v;
  averaged(i, w);
}
