// Sum or maximum of some axes, or of a chunk of them.
//
//   x: T at kept_place(k) + reduced_place(r)      result: [chunks, kept]
//
// T is one number, four neighbours that are kept, or four that are folded, which `finished` then makes one.
// One invocation folds one chunk of the reduced elements. A long reduction is two dispatches:
// chunks into scratch, then the chunks.

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * params.grid_columns + group.x) * LANES + lane;
  if (i >= params.count) { return; }
  let chunk = i / params.kept;
  let base = kept_place(kept_index(i % params.kept));
  let begin = chunk * params.chunk;
  let end = min(begin + params.chunk, params.reduced);
  var value = x_at(base + reduced_place(reduced_index(begin)));
  for (var r = begin + 1u; r < end; r++) {
    value = folded(value, x_at(base + reduced_place(reduced_index(r))));
  }
  result[i] = finished(value);
}
