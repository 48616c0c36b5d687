// As attention.wgsl, for GPUs: the LANES queries of a workgroup share KEYS keys and values at a time in workgroup memory.
//
//   q: [samples, queries, …] of vec4f     k, v: [samples, keys, …]     result: [samples, queries, heads, D4]
//
// A token of q has `q_pitch` vec4s; its heads [heads, D4] lie side by side from `q_first` on (less what a window skips,
// modulo 2³²); likewise k and v. So q, k and v may be parts of one tensor.
//
// One invocation computes one query, which it holds in registers. All stay active to the end, because all load tiles;
// those beyond the last query compute it once more.

const HIDDEN = -1e30;

var<workgroup> key_tile: array<vec4f, TILE>;
var<workgroup> value_tile: array<vec4f, TILE>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let query = params.first_query + group.x * LANES + lane;
  let sample = params.first_sample + group.z;
  let head = group.y * D4;
  let row = sample * params.queries + min(query, params.end_query - 1u);
  let q_from = params.q_first + row * params.q_pitch + head;
  let k_from = params.k_first + sample * params.keys * params.k_pitch + head;
  let v_from = params.v_first + sample * params.keys * params.v_pitch + head;

  var own: array<vec4f, D4>;
  var sums: array<vec4f, D4>;
  /*unroll*/ for (var i = 0u; i < D4; i++) {
    own[i] = q_at(q_from + i) * params.scale;
  }
  var largest = HIDDEN;
  var total = 0.0;
  let last = select(params.keys - 1u, min(params.keys - 1u, query), CAUSAL);
  let reached = params.first_query + (group.x + 1u) * LANES;
  let end = select(params.keys, min(params.keys, reached), CAUSAL);
  for (var key = 0u; key < end; key += KEYS) {
    workgroupBarrier();
    for (var i = lane; i < TILE; i += LANES) {
      let column = min(key + i / D4, params.keys - 1u);
      key_tile[i] = k_at(k_from + column * params.k_pitch + i % D4);
      value_tile[i] = v_at(v_from + column * params.v_pitch + i % D4);
    }
    workgroupBarrier();
    var weights: array<f32, KEYS>;
    var most = largest;
    /*unroll*/ for (var c = 0u; c < KEYS; c++) {
      var score = 0.0;
      /*unroll*/ for (var i = 0u; i < D4; i++) {
        score += dot(own[i], key_tile[c * D4 + i]);
      }
      weights[c] = select(HIDDEN, score, key + c <= last);
      most = max(most, weights[c]);
    }
    let shrink = exp(largest - most);
    largest = most;
    total *= shrink;
    /*unroll*/ for (var c = 0u; c < KEYS; c++) {
      weights[c] = exp(weights[c] - most);
      total += weights[c];
    }
    /*unroll*/ for (var i = 0u; i < D4; i++) {
      var sum = sums[i] * shrink;
      /*unroll*/ for (var c = 0u; c < KEYS; c++) {
        sum += weights[c] * value_tile[c * D4 + i];
      }
      sums[i] = sum;
    }
  }
  if (query < params.end_query) {
    let to = params.result_first + row * params.heads * D4 + head;
    /*unroll*/ for (var i = 0u; i < D4; i++) {
      result[to + i] = sums[i] * (1.0 / total);
    }
  }
}
