// result = softmax(scale · q kᵀ) v for each sample and head, without the matrix of scores (online softmax:
// Milakov & Gimelshein 2018; Rabe & Staats 2021).
//
//   q: [samples, queries, …] of vec4f     k, v: [samples, keys, …]     result: [samples, queries, heads, D4]
//
// A token of q has `q_pitch` vec4s; its heads [heads, D4] lie side by side from `q_first` on (less what a window skips,
// modulo 2³²); likewise k and v. So q, k and v may be parts of one tensor.
//
// One invocation computes ROWS queries of one head and goes through all keys, KEYS at a time: scores, their maximum,
// rescaling of what was summed so far, then the products with v, in registers. Keys beyond the last one are hidden
// and, where causal, keys after the query. DEPTH vec4s of the scores' dot products are written out at a time.

const HIDDEN = -1e30;

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let first = params.first_query + id.x * ROWS;
  if (first >= params.end_query) { return; }
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

  let end = select(params.keys, min(params.keys, first + ROWS), CAUSAL);
  for (var key = 0u; key < end; key += KEYS) {
    var columns: array<u32, KEYS>;
    /*unroll*/ for (var c = 0u; c < KEYS; c++) {
      columns[c] = min(key + c, params.keys - 1u);
    }
    var scores = array<array<f32, KEYS>, ROWS>(); // naga zeroes a variable without initialiser once, not every round
    for (var i = 0u; i < D4; i += DEPTH) {
      /*unroll*/ for (var e = 0u; e < DEPTH; e++) {
        var queries: array<vec4f, ROWS>;
        /*unroll*/ for (var r = 0u; r < ROWS; r++) {
          queries[r] = q_at(rows[r] + i + e);
        }
        /*unroll*/ for (var c = 0u; c < KEYS; c++) {
          let other = k_at(k_from + columns[c] * params.k_pitch + i + e);
          /*unroll*/ for (var r = 0u; r < ROWS; r++) {
            scores[r][c] += dot(queries[r], other);
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
      /*unroll*/ for (var c = 0u; c < KEYS; c++) {
        let value = v_at(v_from + columns[c] * params.v_pitch + i);
        /*unroll*/ for (var r = 0u; r < ROWS; r++) {
          sums[r][i] += scores[r][c] * value;
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
