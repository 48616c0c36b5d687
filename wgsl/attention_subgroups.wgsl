// As attention.wgsl, for CPUs, whose subgroups are vectors of LANES numbers: what is read of the keys, each lane reads a
// part of, and the others have it by broadcast.
//
//   q: [samples, queries, …] of vec4f, lying as attention.wgsl has it     result: [samples, queries, heads, D4]
//   k: [samples, heads, blocks, LANES, D4], v: [samples, heads, blocks, D4, LANES], as attention_pack.wgsl leaves them
//
// One invocation holds ROWS queries of one head and their sums, and takes a block of LANES keys at a time: scores of FEW
// of them in each round, which are put behind those before (KEPT = LANES − FEW), so that the code that runs most is short;
// then weights, powers of two (log₂ e is part of the scale); then all values. KEY_READS = FEW · D4 / LANES, rounded up.
// All lanes stay active to the end: those beyond the last query compute it once more.
//
// Ladder (4096 queries and keys, 8 heads of 40, CPU time on a busy Zen 3, the first = 1): 3 rows × 16 keys, queries read
// from their texture again for every block of keys, 4 channels at a time 1; queries held, all dot products written out
// in one piece, whose rows the driver's compiler then takes apart 1.0; in rounds of their own 1.3; keys and values
// packed, so that few cache lines are touched 1.42; four channels of the values held at a time 1.53; one key a round
// 1.6. Not better: more rows or keys (the code and the stack outgrow the caches closest to a core), groups that go
// through the keys together with a barrier (0.8 of the same without). Functions that take pointers to registers cost
// nothing when they run, and naga a twentieth of the time to read that the same text written out costs it.

const HIDDEN = -1e30;

/// sum[…][c] += query · k, over channels 4i … 4i + 3.
fn multiply(
  sum: ptr<function, array<array<f32, FEW>, ROWS>>,
  queries: ptr<function, array<array<vec4f, D4>, ROWS>>,
  i: u32,
  c: u32,
  k: vec4f,
) {
  /*unroll*/ for (var r = 0u; r < ROWS; r++) {
    (*sum)[r][c] += dot((*queries)[r][i], k);
  }
}

/// sums[…][i] = sums · shrink + Σ weight · value, over the values of a block, of which each lane has one.
fn add(
  sums: ptr<function, array<array<vec4f, D4>, ROWS>>,
  shrink: ptr<function, array<f32, ROWS>>,
  weights: ptr<function, array<array<f32, LANES>, ROWS>>,
  i: u32,
  own: vec4f,
) {
  /*unroll*/ for (var e = 0u; e < 4u; e++) {
    var sum: array<f32, ROWS>;
    /*unroll*/ for (var r = 0u; r < ROWS; r++) {
      sum[r] = (*sums)[r][i][e] * (*shrink)[r];
    }
    /*unroll*/ for (var c = 0u; c < LANES; c++) {
      let v = subgroupBroadcast(own[e], c);
      /*unroll*/ for (var r = 0u; r < ROWS; r++) {
        sum[r] += (*weights)[r][c] * v;
      }
    }
    /*unroll*/ for (var r = 0u; r < ROWS; r++) {
      (*sums)[r][i][e] = sum[r];
    }
  }
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = params.first_query + id.x * ROWS;
  let sample = params.first_sample + id.z;
  let base = (id.z * params.heads + id.y) * params.blocks * LANES * D4 + lane;

  var queries: array<array<vec4f, D4>, ROWS>;
  var sums: array<array<vec4f, D4>, ROWS>;
  var largest: array<f32, ROWS>;
  var total: array<f32, ROWS>;
  /*unroll*/ for (var r = 0u; r < ROWS; r++) {
    let row = min(first + r, params.end_query - 1u);
    let q_from = params.q_first + (sample * params.queries + row) * params.q_pitch + id.y * D4;
    /*unroll*/ for (var i = 0u; i < D4; i++) {
      queries[r][i] = q_at(q_from + i) * params.scale;
    }
    largest[r] = HIDDEN;
  }

  let reached = params.first_query + (group.x + 1u) * LANES * ROWS;
  let end = select(params.keys, min(params.keys, reached), CAUSAL);
  for (var key = 0u; key < end; key += LANES) {
    var scores: array<array<f32, LANES>, ROWS>;
    for (var part = key; part < key + LANES; part += FEW) {
      var own: array<vec4f, KEY_READS>;
      /*unroll*/ for (var b = 0u; b < KEY_READS; b++) {
        own[b] = k_at(base + part * D4 + b * LANES);
      }
      var sum = array<array<f32, FEW>, ROWS>(); // naga zeroes a variable without initialiser once, not every round
      /*unroll*/ for (var i = 0u; i < D4; i++) {
        /*unroll*/ for (var c = 0u; c < FEW; c++) {
          let k = subgroupBroadcast(own[(c * D4 + i) / LANES], (c * D4 + i) % LANES);
          multiply(&sum, &queries, i, c, k);
        }
      }
      /*unroll*/ for (var r = 0u; r < ROWS; r++) {
        /*unroll*/ for (var c = 0u; c < KEPT; c++) {
          scores[r][c] = scores[r][c + FEW];
        }
        /*unroll*/ for (var c = 0u; c < FEW; c++) {
          scores[r][KEPT + c] = sum[r][c];
        }
      }
    }

    var shrink: array<f32, ROWS>;
    /*unroll*/ for (var r = 0u; r < ROWS; r++) {
      let last = select(params.keys - 1u, min(params.keys - 1u, first + r), CAUSAL);
      var most = largest[r];
      /*unroll*/ for (var c = 0u; c < LANES; c++) {
        let score = select(HIDDEN, scores[r][c], key + c <= last);
        scores[r][c] = score;
        most = select(most, score, score > most); // cheaper than max, which looks for NaN
      }
      shrink[r] = exp2(largest[r] - most);
      largest[r] = most;
      total[r] *= shrink[r];
      /*unroll*/ for (var c = 0u; c < LANES; c++) {
        scores[r][c] = exp2(scores[r][c] - most);
        total[r] += scores[r][c];
      }
    }

    /*unroll*/ for (var i = 0u; i < D4; i++) {
      add(&sums, &shrink, &scores, i, v_at(base + key * D4 + i * LANES));
    }
  }

  let result_from = params.result_first + (sample * params.queries * params.heads + id.y) * D4;
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
