// result = log Σ exp(scale · q·k) over the keys that a query sees, for each sample and head: what attention divides by.
//
//   q: [samples, queries, heads, D4] of vec4f      k: [samples, keys, heads, D4]      result: [samples, queries, heads]
//
// One invocation computes ROWS queries of one head and goes through all keys, COLUMNS at a time, as attention.wgsl does;
// lanes share them as in attention_gradient.wgsl.

const HIDDEN = -1e30;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(global_invocation_id) id: vec3u) {
  let first = id.x * ROWS;
  let rows_from = id.z * params.rows * params.heads + id.y;
  let columns_from = id.z * params.columns * params.heads + id.y;
  var tokens: array<u32, ROWS>;
  var largest: array<f32, ROWS>;
  var total: array<f32, ROWS>;
  /*unroll*/ for (var r = 0u; r < ROWS; r++) {
    tokens[r] = rows_from + min(first + r, params.rows - 1u) * params.heads;
    largest[r] = HIDDEN;
  }
  let beyond = (workgroup.x + 1u) * LANES * ROWS;
  let end = select(params.columns, min(params.columns, beyond), CAUSAL);
  for (var column = 0u; column < end; column += COLUMNS) {
    var others: array<u32, OWN>;
    /*unroll*/ for (var g = 0u; g < OWN; g++) {
      let own = min(column + g * SHARE + id.x % SHARE, params.columns - 1u);
      others[g] = (columns_from + own * params.heads) * D4;
    }
    var scores = array<array<f32, COLUMNS>, ROWS>(); // naga zeroes a variable without initialiser once, not every round
    for (var i = 0u; i < D4; i += DEPTH) {
      /*unroll*/ for (var d = 0u; d < DEPTH; d++) {
        var queries: array<vec4f, ROWS>;
        /*unroll*/ for (var r = 0u; r < ROWS; r++) {
          queries[r] = q_at(tokens[r] * D4 + i + d);
        }
        var own: array<vec4f, OWN>;
        /*unroll*/ for (var g = 0u; g < OWN; g++) {
          own[g] = k_at(others[g] + i + d);
        }
        /*unroll*/ for (var c = 0u; c < COLUMNS; c++) {
          var key = own[c / SHARE];
          /*unroll*/ for (var s = 0u; s < PASSED; s++) {
            key = subgroupBroadcast(key, c % SHARE);
          }
          /*unroll*/ for (var r = 0u; r < ROWS; r++) {
            scores[r][c] += dot(queries[r], key);
          }
        }
      }
    }
    /*unroll*/ for (var r = 0u; r < ROWS; r++) {
      let last = select(params.columns - 1u, min(params.columns - 1u, first + r), CAUSAL);
      var most = largest[r];
      /*unroll*/ for (var c = 0u; c < COLUMNS; c++) {
        let score = select(HIDDEN, scores[r][c] * params.scale, column + c <= last);
        scores[r][c] = score;
        most = max(most, score);
      }
      var here = total[r] * exp(largest[r] - most);
      largest[r] = most;
      /*unroll*/ for (var c = 0u; c < COLUMNS; c++) {
        here += exp(scores[r][c] - most);
      }
      total[r] = here;
    }
  }
  /*unroll*/ for (var r = 0u; r < ROWS; r++) {
    if (first + r < params.rows) {
      result[tokens[r]] = largest[r] + log(total[r]);
    }
  }
}
