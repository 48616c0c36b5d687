// result[row, column] = epilogue(Σ over parts of sums[part, row, column]): the second half of products whose reduction
// was split among workgroups. One invocation computes one T, the parts always in the same order.

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * params.grid_columns + group.x) * LANES + lane;
  if (i >= params.count) { return; }
  var total = sums_at(i);
  for (var part = 1u; part < params.parts; part++) {
    total += sums_at(part * params.count + i);
  }
  result[i] = epilogue(total, i / params.columns, i % params.columns);
}
