// result[r, :] = Σ x[i, :] over all i with ids[i] = r. Rows that no id names are left as they are.
//
//   x: [ids, columns] of T      ids: i32      result: [rows, columns] of T
//
// One invocation computes one T of the row that the first i of an id names, adding those of the others in their order;
// the other i's invocations find an earlier one and stop. So no two write the same, and every run adds alike.
// Where the result exceeds a binding, each dispatch sees only some of its rows.

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * params.grid_columns + group.x) * LANES + lane;
  if (i >= params.count) { return; }
  let own = i / params.columns;
  let column = i % params.columns;
  let id = ids_at(own);
  let row = u32(id) - params.first_row;
  if (row >= params.rows) { return; }
  for (var other = 0u; other < own; other++) {
    if (ids_at(other) == id) { return; }
  }
  var total = x_at(i);
  for (var other = own + 1u; other < params.ids; other++) {
    if (ids_at(other) == id) { total += x_at(other * params.columns + column); }
  }
  result[params.result_first + row * params.columns + column] = total;
}
