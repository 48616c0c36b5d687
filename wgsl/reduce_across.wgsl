// As reduce.wgsl, for few results of many elements each: the LANES invocations of a workgroup fold one chunk together,
// each every LANES-th element, so that neighbours are read side by side.

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, lane: Lane) {
  let i = min(group.y * params.grid_columns + group.x, params.count - 1u);
  let chunk = i / params.kept;
  let base = kept_place(kept_index(i % params.kept));
  let begin = chunk * params.chunk;
  let end = min(begin + params.chunk, params.reduced);
  var value = started(x_at(base + reduced_place(reduced_index(begin))));
  for (var r = begin + lane.index; r < end; r += LANES) {
    value = folded(value, x_at(base + reduced_place(reduced_index(r))));
  }
  let all = across(value, lane);
  if (lane.index == 0u) { result[i] = finished(all); }
}
