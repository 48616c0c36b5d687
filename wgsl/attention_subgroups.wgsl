// As attention.wgsl, for CPUs, whose subgroups are vectors: each of LANES lanes reads one key, and the others have it by
// broadcast, which costs a twentieth of a read. KEYS = LANES · BLOCKS. With heads of 40 channels on two cores:
// 4 rows × 8 keys that every lane reads 22 GFLOP/s, 3 rows × 16 keys that are read once 39.
//
//   q: [samples, queries, …] of vec4f     k, v: [samples, keys, …]     result: [samples, queries, heads, D4]
//
// A token of q has `q_pitch` vec4s; its heads [heads, D4] lie side by side from `q_first` on (less what a window skips,
// modulo 2³²); likewise k and v. So q, k and v may be parts of one tensor.
//
// All lanes stay active to the end: those beyond the last query compute it once more.

const HIDDEN = -1e30;

@compute @workgroup_size(LANES)
fn main(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = params.first_query + id.x * ROWS;
  let sample = params.first_sample + id.z;
  let q_from = params.q_first + sample * params.queries * params.q_pitch + id.y * D4;
  let k_from = params.k_first + sample * params.keys * params.k_pitch + id.y * D4;
  let v_from = params.v_first + sample * params.keys * params.v_pitch + id.y * D4;
  let result_from = params.result_first + (sample * params.queries * params.heads + id.y) * D4;

  var rows: array<u32, ROWS>;
  var largest: array<f32, ROWS>;
  var total: array<f32, ROWS>;
  var sums: array<array<vec4f, D4>, ROWS>;
  /*unroll*/ for (var r = 0u; r < ROWS; r++) {
    rows[r] = q_from + min(first + r, params.end_query - 1u) * params.q_pitch;
    largest[r] = HIDDEN;
  }

  let reached = params.first_query + (group.x + 1u) * LANES * ROWS;
  let end = select(params.keys, min(params.keys, reached), CAUSAL);
  for (var key = 0u; key < end; key += KEYS) {
    var keys: array<u32, BLOCKS>; // where this lane's keys and values begin
    var values: array<u32, BLOCKS>;
    /*unroll*/ for (var b = 0u; b < BLOCKS; b++) {
      let column = min(key + b * LANES + lane, params.keys - 1u);
      keys[b] = k_from + column * params.k_pitch;
      values[b] = v_from + column * params.v_pitch;
    }
    var scores = array<array<f32, KEYS>, ROWS>(); // naga zeroes a variable without initialiser once, not every round
    for (var i = 0u; i < D4; i += DEPTH) {
      /*unroll*/ for (var e = 0u; e < DEPTH; e++) {
        var queries: array<vec4f, ROWS>;
        /*unroll*/ for (var r = 0u; r < ROWS; r++) {
          queries[r] = q_at(rows[r] + i + e);
        }
        /*unroll*/ for (var b = 0u; b < BLOCKS; b++) {
          let own = k_at(keys[b] + i + e);
          /*unroll*/ for (var c = 0u; c < LANES; c++) {
            let other = subgroupBroadcast(own, c);
            /*unroll*/ for (var r = 0u; r < ROWS; r++) {
              scores[r][b * LANES + c] += dot(queries[r], other);
            }
          }
        }
      }
    }
    /*unroll*/ for (var r = 0u; r < ROWS; r++) {
      let last = select(params.keys - 1u, min(params.keys - 1u, first + r), CAUSAL);
      var most = largest[r];
      /*unroll*/ for (var c = 0u; c < KEYS; c++) {
        let score = select(HIDDEN, scores[r][c] * params.scale, key + c <= last);
        scores[r][c] = score;
        most = max(most, score);
      }
      let shrink = exp(largest[r] - most);
      largest[r] = most;
      var here = 0.0;
      /*unroll*/ for (var c = 0u; c < KEYS; c++) {
        let weight = exp(scores[r][c] - most);
        scores[r][c] = weight;
        here += weight;
      }
      total[r] = total[r] * shrink + here;
      /*unroll*/ for (var i = 0u; i < D4; i++) {
        sums[r][i] *= shrink;
      }
    }
    /*unroll*/ for (var i = 0u; i < D4; i++) {
      /*unroll*/ for (var b = 0u; b < BLOCKS; b++) {
        let own = v_at(values[b] + i);
        /*unroll*/ for (var c = 0u; c < LANES; c++) {
          let value = subgroupBroadcast(own, c);
          /*unroll*/ for (var r = 0u; r < ROWS; r++) {
            sums[r][i] += scores[r][b * LANES + c] * value;
          }
        }
      }
    }
  }
  /*unroll*/ for (var r = 0u; r < ROWS; r++) {
    if (first + r < params.end_query) {
      let factor = 1.0 / total[r];
      let to = result_from + (first + r) * params.heads * D4;
      /*unroll*/ for (var i = 0u; i < D4; i++) {
        result[to + i] = sums[r][i] * factor;
      }
    }
  }
}
