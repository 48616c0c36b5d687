// The keys and values of each head in the order in which attention_subgroups.wgsl reads them.
//
//   k: [samples, keys, …] of vec4f      packed_k: [samples, heads, blocks, LANES, width]
//   v: [samples, keys, …] of vec4f      packed_v: [samples, heads, blocks, width, LANES]
//
// k and v lie as attention.wgsl has them. Keys come in blocks of LANES; those beyond the last one are zeros. An invocation
// copies one vec4 of each.

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let block = LANES * params.width;
  let length = params.blocks * block;
  if (id.x >= length) { return; }
  let key = id.x / params.width;
  let i = id.x % params.width;
  let exists = key < params.keys;
  let row = (params.first_sample + id.z) * params.keys + min(key, params.keys - 1u);
  let at = id.y * params.width + i;
  let k = select(vec4f(), k_at(params.k_first + row * params.k_pitch + at), exists);
  let v = select(vec4f(), v_at(params.v_first + row * params.v_pitch + at), exists);
  let to = (id.z * params.heads + id.y) * length + key / LANES * block;
  packed_k[to + key % LANES * params.width + i] = k;
  packed_v[to + i * LANES + key % LANES] = v;
}
