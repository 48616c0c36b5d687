// As attention.wgsl, for GPUs: the LANES queries of a workgroup share KEYS keys and values at a time in workgroup memory.
//
//   q, result: [samples, queries, heads, D4] of vec4f      k, v: [samples, keys, heads, D4] of vec4f
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
  let pitch = params.heads * D4;
  let q_from = (sample * params.queries * params.heads + group.y) * D4
    + min(query, params.end_query - 1u) * pitch;
  let k_from = (sample * params.keys * params.heads + group.y) * D4 - params.k_shift;

  var own: array<vec4f, D4>;
  var sums: array<vec4f, D4>;
  /*unroll*/ for (var i = 0u; i < D4; i++) {
    own[i] = q_at(q_from + i - params.q_shift) * params.scale;
  }
  var largest = HIDDEN;
  var total = 0.0;
  let last = select(params.keys - 1u, min(params.keys - 1u, query), CAUSAL);
  let reached = params.first_query + (group.x + 1u) * LANES;
  let end = select(params.keys, min(params.keys, reached), CAUSAL);
  for (var key = 0u; key < end; key += KEYS) {
    workgroupBarrier();
    for (var i = lane; i < TILE; i += LANES) {
      let at = k_from + min(key + i / D4, params.keys - 1u) * pitch + i % D4;
      key_tile[i] = k_at(at);
      value_tile[i] = v_at(at);
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
    /*unroll*/ for (var i = 0u; i < D4; i++) {
      result[q_from + i - params.result_shift] = sums[i] * (1.0 / total);
    }
  }
}
