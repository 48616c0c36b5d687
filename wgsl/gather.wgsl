// result[i, :] = table[ids[i], :]
//
//   table: [rows, columns] of T, as f32 or as f16 eight at a time      ids: i32      result: [ids, columns] of T
//
// One invocation copies one T. Where the table exceeds a binding, each dispatch sees only some of its rows
// and copies only the numbers that point there.

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * params.grid_columns + group.x) * LANES + lane;
  if (i >= params.count) { return; }
  let row = u32(ids_at(i / params.columns)) - params.first_row;
  if (row >= params.rows) { return; }
  result[i] = value_at(params.table_first + row * params.columns + i % params.columns);
}
