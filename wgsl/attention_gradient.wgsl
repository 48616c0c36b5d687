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
// attention.wgsl does. Where causal, a workgroup goes through those only that see or are seen. With SHARE = LANES each lane
// of a subgroup reads some of the columns, OWN of them, and passes them on (PASSED = 1), as in matmul.wgsl.

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(global_invocation_id) id: vec3u) {
  let first = id.x * ROWS;
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
  let earliest = workgroup.x * LANES * ROWS;
  let begin = select(0u, min(earliest, params.columns), CAUSAL && !OF_QUERIES);
  let end = select(params.columns, min(params.columns, earliest + LANES * ROWS), CAUSAL && OF_QUERIES);
  for (var column = begin; column < end; column += COLUMNS) {
    var others: array<u32, OWN>;
    var other_log_sum: array<f32, OWN>;
    var other_along: array<f32, OWN>;
    /*unroll*/ for (var g = 0u; g < OWN; g++) {
      let token = columns_from
        + min(column + g * SHARE + id.x % SHARE, params.columns - 1u) * params.heads;
      others[g] = token * D4;
      if (!OF_QUERIES) {
        other_log_sum[g] = log_sums_at(token);
        other_along[g] = along_at(token);
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
        var own_b: array<vec4f, OWN>;
        var own_f: array<vec4f, OWN>;
        /*unroll*/ for (var g = 0u; g < OWN; g++) {
          own_b[g] = b_at(others[g] + i + d);
          if (!OF_VALUES) { own_f[g] = f_at(others[g] + i + d); }
        }
        /*unroll*/ for (var c = 0u; c < COLUMNS; c++) {
          var b = own_b[c / SHARE];
          /*unroll*/ for (var s = 0u; s < PASSED; s++) {
            b = subgroupBroadcast(b, c % SHARE);
          }
          /*unroll*/ for (var r = 0u; r < ROWS; r++) {
            scores[r][c] += dot(a[r], b);
          }
          if (!OF_VALUES) {
            var f = own_f[c / SHARE];
            /*unroll*/ for (var s = 0u; s < PASSED; s++) {
              f = subgroupBroadcast(f, c % SHARE);
            }
            /*unroll*/ for (var r = 0u; r < ROWS; r++) {
              changes[r][c] += dot(e[r], f);
            }
          }
        }
      }
    }
    /*unroll*/ for (var c = 0u; c < COLUMNS; c++) {
      var theirs = vec2f(other_log_sum[c / SHARE], other_along[c / SHARE]);
      /*unroll*/ for (var s = 0u; s < PASSED; s++) {
        theirs = subgroupBroadcast(theirs, c % SHARE);
      }
      /*unroll*/ for (var r = 0u; r < ROWS; r++) {
        let query = select(column + c, first + r, OF_QUERIES);
        let key = select(first + r, column + c, OF_QUERIES);
        let hidden = column + c >= params.columns || (CAUSAL && key > query);
        let log_sum = select(theirs.x, own_log_sum[r], OF_QUERIES);
        let along = select(theirs.y, own_along[r], OF_QUERIES);
        let weight = select(exp(scores[r][c] * params.scale - log_sum), 0.0, hidden);
        scores[r][c] = select(weight * (changes[r][c] - along) * params.scale, weight, OF_VALUES);
      }
    }
    /*unroll*/ for (var i = 0u; i < D4; i++) {
      var own: array<vec4f, OWN>;
      /*unroll*/ for (var g = 0u; g < OWN; g++) {
        own[g] = summed_at(others[g] + i);
      }
      /*unroll*/ for (var c = 0u; c < COLUMNS; c++) {
        var other = own[c / SHARE];
        /*unroll*/ for (var s = 0u; s < PASSED; s++) {
          other = subgroupBroadcast(other, c % SHARE);
        }
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
