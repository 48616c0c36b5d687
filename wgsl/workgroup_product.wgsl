// result[b, m, n] = epilogue(a[b, m, k] · w[b, n, k]ᵀ), for GPUs: both operands pass through workgroup memory.
//
// A workgroup of 16 × 16 invocations owns 16·TM rows × COLUMNS = 64·TN columns of the result; an invocation owns TM
// adjacent rows and, TN times, four adjacent columns. The reduction is counted in vec4s and taken DEPTH of them at a
// time: while a block is multiplied, each invocation already holds its share of the next one in registers.
//
//   a_tile [row, d], w_tile [d, place of the column]: the four steps 4d … 4d + 3 of a block, as dot products want them
//   (panels hold them so; nothing is transposed). Columns are placed so that neighbouring lanes, which own neighbouring
//   fours, read neighbouring vec4s: no bank conflicts; rows are read by whole subgroups at once.
//
// What is read where is told by others: `place_of`, `a_of` and `row_count` by workgroup_rows.wgsl (products) or
// workgroup_pixels.wgsl (convolutions); `fetched` and `keep`, for W_UNITS units of W, by lib/kernels/workgroup.ts;
// `multiply` and its type S of tiles by workgroup_f32.wgsl or workgroup_f16.wgsl. Past the reduction's end w is zero
// and a finite; rows and columns past the end are computed from anything and not stored.
//
// Batches lie along z, and each takes the whole reduction (`share` = depth, `stride_of_z` = 0). Or there is one batch,
// and each workgroup along z takes `share` vec4s of the reduction (`stride_of_z` = `share`) and leaves sums of its own,
// which workgroup_sums.wgsl adds.

var<workgroup> a_tile: array<S, A_SIZE>;
var<workgroup> w_tile: array<S, W_SIZE>;

/// Where the four columns 4x … 4x + 3 of a tile, and the same 64 further on, lie in `w_tile`: 16 apart.
fn place_in_tile(column: u32) -> u32 {
  return (column / 64u * 4u + column % 4u) * 16u + column % 64u / 4u;
}

/// An invocation's share of a block.
struct Held {
  a: array<vec4f, A_SHARE>,
  w: array<W, W_SHARE>,
}

fn share_of(k: u32, thread: u32, places: array<Place, A_SHARE>, column: u32, batch: u32) -> Held {
  var held: Held;
  /*unroll*/ for (var s = 0u; s < A_SHARE; s++) {
    held.a[s] = a_of(places[s], k + thread % DEPTH);
  }
  /*unroll*/ for (var s = 0u; s < W_SHARE; s++) {
    held.w[s] = fetched(thread + s * 256u, k, column, batch);
  }
  return held;
}

@compute @workgroup_size(16, 16)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(local_invocation_id) id: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let batch = select(workgroup.z, 0u, params.stride_of_z > 0u);
  let begin = workgroup.z * params.stride_of_z;
  let end = min(begin + params.share, params.depth);
  let row = workgroup.y * TM * 16u;
  let column = workgroup.x * COLUMNS;
  var places: array<Place, A_SHARE>;
  /*unroll*/ for (var s = 0u; s < A_SHARE; s++) {
    places[s] = place_of(row + thread / DEPTH + s * (256u / DEPTH), batch);
  }
  var sums: array<array<vec4f, TN>, TM>;
  var held = share_of(begin, thread, places, column, batch);
  for (var k = begin; k < end; k += DEPTH) {
    /*unroll*/ for (var s = 0u; s < A_SHARE; s++) {
      a_tile[thread + s * 256u] = S(held.a[s]);
    }
    /*unroll*/ for (var s = 0u; s < W_SHARE; s++) {
      if (thread + s * 256u < W_UNITS) { keep(thread + s * 256u, held.w[s]); }
    }
    workgroupBarrier();
    held = share_of(k + DEPTH, thread, places, column, batch);
    multiply(&sums, id);
    workgroupBarrier();
  }
  /*unroll*/ for (var j = 0u; j < TN; j++) {
    let group = (column + j * 64u) / 4u + id.x;
    store_columns(group);
    /*unroll*/ for (var i = 0u; i < TM; i++) {
      let own = row + id.y * TM + i;
      if (own < row_count()) {
        store(sums[i][j], workgroup.z * row_count() + own, group);
      }
    }
  }
}
