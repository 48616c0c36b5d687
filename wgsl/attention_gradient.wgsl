// The gradient of attention by its queries, keys or values, without the matrix of weights: they are computed again from
// `log_sums` (Dao et al. 2022). With p = exp(scale · q·k − log_sum of q) for a query q and a key k, and dy its cotangent:
//
//   by v: Σ over queries of p · dy      by q, k: Σ over keys (queries) of p · (dy·v − along of q) · scale · k (q)
//
// Rows are what the result has (queries or keys), columns what is summed over. a, e belong to rows, b, f to columns:
//   by q: a = q, e = dy, b = k, f = v      by k, v: a = k, e = v, b = q, f = dy
// all [samples, tokens, heads, D4] of vec4f; log_sums, along: [samples, queries, heads].
//
// One invocation computes ROWS rows of one head and goes through all columns, COLUMNS at a time, in registers, as
// attention.wgsl does. Where causal, it goes through those only that see or are seen.

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let first = id.x * ROWS;
  if (first >= params.rows) { return; }
  let rows_from = id.z * params.rows * params.heads + id.y;
  let columns_from = id.z * params.columns * params.heads + id.y;

  var places: array<u32, ROWS>;
  var own_log_sum: array<f32, ROWS>;
  var own_along: array<f32, ROWS>;
  var sums: array<array<vec4f, D4>, ROWS>;
  /*unroll*/ for (var r = 0u; r < ROWS; r++) {
    let token = rows_from + min(first + r, params.rows - 1u) * params.heads;
    places[r] = token * D4;
    if (OF_QUERIES) {
      own_log_sum[r] = log_sums_at(token);
      own_along[r] = along_at(token);
    }
  }
  let begin = select(0u, min(first, params.columns), CAUSAL && !OF_QUERIES);
  let end = select(params.columns, min(params.columns, first + ROWS), CAUSAL && OF_QUERIES);
  for (var column = begin; column < end; column += COLUMNS) {
    var others: array<u32, COLUMNS>;
    var other_log_sum: array<f32, COLUMNS>;
    var other_along: array<f32, COLUMNS>;
    /*unroll*/ for (var c = 0u; c < COLUMNS; c++) {
      let token = columns_from + min(column + c, params.columns - 1u) * params.heads;
      others[c] = token * D4;
      if (!OF_QUERIES) {
        other_log_sum[c] = log_sums_at(token);
        other_along[c] = along_at(token);
      }
    }
    var scores = array<array<f32, COLUMNS>, ROWS>(); // naga zeroes a variable without initialiser once, not every round
    var changes = array<array<f32, COLUMNS>, ROWS>();
    for (var i = 0u; i < D4; i += DEPTH) {
      /*unroll*/ for (var d = 0u; d < DEPTH; d++) {
        var a: array<vec4f, ROWS>;
        var e: array<vec4f, ROWS>;
        /*unroll*/ for (var r = 0u; r < ROWS; r++) {
          a[r] = a_at(places[r] + i + d);
          if (!OF_VALUES) { e[r] = e_at(places[r] + i + d); }
        }
        /*unroll*/ for (var c = 0u; c < COLUMNS; c++) {
          let b = b_at(others[c] + i + d);
          /*unroll*/ for (var r = 0u; r < ROWS; r++) {
            scores[r][c] += dot(a[r], b);
          }
          if (!OF_VALUES) {
            let f = f_at(others[c] + i + d);
            /*unroll*/ for (var r = 0u; r < ROWS; r++) {
              changes[r][c] += dot(e[r], f);
            }
          }
        }
      }
    }
    /*unroll*/ for (var r = 0u; r < ROWS; r++) {
      /*unroll*/ for (var c = 0u; c < COLUMNS; c++) {
        let query = select(column + c, first + r, OF_QUERIES);
        let key = select(first + r, column + c, OF_QUERIES);
        let hidden = column + c >= params.columns || (CAUSAL && key > query);
        let log_sum = select(other_log_sum[c], own_log_sum[r], OF_QUERIES);
        let along = select(other_along[c], own_along[r], OF_QUERIES);
        let weight = select(exp(scores[r][c] * params.scale - log_sum), 0.0, hidden);
        scores[r][c] = select(weight * (changes[r][c] - along) * params.scale, weight, OF_VALUES);
      }
    }
    /*unroll*/ for (var i = 0u; i < D4; i++) {
      /*unroll*/ for (var c = 0u; c < COLUMNS; c++) {
        let other = summed_at(others[c] + i);
        /*unroll*/ for (var r = 0u; r < ROWS; r++) {
          sums[r][i] += scores[r][c] * other;
        }
      }
    }
  }
  /*unroll*/ for (var r = 0u; r < ROWS; r++) {
    if (first + r < params.rows) {
      /*unroll*/ for (var i = 0u; i < D4; i++) {
        result[places[r] + i] = sums[r][i];
      }
    }
  }
}
